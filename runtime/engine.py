"""Runs a model on a device: plans for the shapes that come, kept in a bounded cache, stage by stage."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol, TypeAlias

import numpy as np

from onnxplan.compiler.errors import InvalidFeedsError, OutOfMemoryError
from onnxplan.compiler.plan import DEMAND, CompiledPlan, ExecutionPlan, HostFunction
from onnxplan.compiler.structures import Absent, SequenceValue, Structure, map_tensors
from onnxplan.runtime.bound_stage import BoundStage
from onnxplan.runtime.budget import Budget
from onnxplan.runtime.cancellation import CancelFlag
from onnxplan.runtime.device import AnyArray, Array, Device, Executor
from onnxplan.runtime.planner import Planner, Request, Shape
from onnxplan.runtime.result_blocks import result_maker
from onnxplan.runtime.stage_cache import StageCache

logger = logging.getLogger("onnxplan.plan")

OutArrays: TypeAlias = "AnyArray | list[AnyArray]"


class Observer(Protocol):
    """Takes the place of the two things that a run does, to look at them."""

    def execute(
        self,
        stage: BoundStage,
        inputs: tuple[AnyArray, ...],
        outputs: tuple[AnyArray, ...],
        cancel: CancelFlag | None,
    ) -> None:
        """Does what ``stage.executor.run`` does."""
        ...

    def call_host(self, stage: BoundStage, function: HostFunction, answer: Array) -> Array:
        """``function(answer)``, the work of the host behind ``stage``."""
        ...


LATER_STAGES = 16
"""So many times as many stages after the first ones are kept as plans of first ones."""


class Engine:
    """A model on a device. Safe from any number of threads.

    ``planner`` makes the plans, ``required`` names the inputs that every run feeds. ``max_plans`` bounds the
    plans kept for different requests; of models whose course depends on data, :data:`LATER_STAGES` times as
    many are kept for the answers that came up. Those not used for long go first. ``memory_limit`` bounds the
    bytes of constants and slots of all plans together, ``max_concurrency`` the runs of each plan in flight.
    """

    def __init__(
        self,
        planner: Planner,
        device: Device,
        required: tuple[str, ...],
        *,
        max_plans: int = 32,
        memory_limit: int | None = None,
        max_concurrency: int | None = None,
    ) -> None:
        self.planner = planner
        self.device = device
        self.budget = Budget(memory_limit, runs=max_concurrency, idle_first=self._idle_first)
        self._required = required
        self._first: StageCache[Request, BoundStage] = StageCache(max_plans, self._dropped)
        self._later: StageCache[tuple[BoundStage, bytes], BoundStage] = StageCache(LATER_STAGES * max_plans)
        self.plain: dict[tuple[Shape, ...], BoundStage] = {}
        """The stages that are all of the model, by the shapes of the required inputs, which they are fed."""
        self.draw_key: Callable[[], bytes] = partial(os.urandom, 8)
        """Draws the eight bytes that decide on all random numbers of a run without seeds of their own."""
        self._settled = True
        """Has a run ended since the latest plan was made?"""
        self.after_fork()

    def after_fork(self) -> None:
        """In the child of a fork, where no other thread exists that could hold the lock."""
        self._planning = threading.Lock()

    def first_stage(self, request: Request) -> BoundStage:
        """The first stage for a request, planned if it is new. ``request.names`` are graph inputs.

        Raises :class:`InvalidModelError`, :class:`UnsupportedOperatorError`, and :class:`OutOfMemoryError`
        where the plan alone needs more than the memory limit.
        """
        stage = self._first.get(request)
        if stage is not None:
            return stage
        with self._planning:
            stage = self._first.get(request)
            if stage is None:
                stage = self._bind(request, ())
                self._first.put(request, stage)
                self._count_constants()
                if stage.facts.final and request.fetches is None and request.names == self._required:
                    self.plain[request.shapes] = stage
            return stage

    def _dropped(self, request: Request, stage: BoundStage) -> None:
        logger.debug("dropped the plan for %s, not used for long", request.shapes)
        # Runs in flight may still use the plan: it is released with its last reference.
        if self.plain.get(request.shapes) is stage:
            del self.plain[request.shapes]

    def run(
        self,
        stage: BoundStage,
        inputs: Sequence[AnyArray],
        cancel: CancelFlag | None = None,
        out: Mapping[str, OutArrays] | None = None,
        *,
        on_device: bool = False,
        observer: Observer | None = None,
    ) -> Mapping[str, Structure[AnyArray]]:
        """Runs a first stage and all that follow; ``inputs`` in the order of the request's names.

        Returns the outputs by name, freshly allocated on the host or, if ``on_device``, in the device's
        memory, or written into the C-contiguous arrays of ``out``: one, or for a sequence one for each
        element. Strings stay on the host. Raises ``InvalidFeedsError`` where arrays of ``out`` have another
        type or shape, or are not as many as there are elements, ``OutOfMemoryError``. With an ``observer``
        that runs the stages and the host's functions.
        """
        tensors: dict[str, AnyArray] = dict(zip(stage.request.names, inputs, strict=True))
        while True:
            facts = stage.facts
            if facts.final:
                outputs = self._allocate(stage, out, on_device=on_device)
            else:
                outputs = self._allocate(stage, None, on_device=True)
            if facts.run_key and facts.run_key not in tensors:
                tensors[facts.run_key] = np.frombuffer(self.draw_key(), np.uint64)
            arrays = tuple([tensors[name] for name in stage.input_names])
            if observer is None:
                stage.executor.run(arrays, outputs, cancel)
            else:
                observer.execute(stage, arrays, outputs, cancel)
            produced = dict(zip(stage.output_names, outputs, strict=True))
            if facts.final:
                if not self._settled:
                    self.settle()
                produced.update((name, array.copy()) for name, array in facts.texts.items())
                if not facts.structures:
                    return produced
                structures = facts.structures.items()
                found = {name: map_tensors(produced.__getitem__, structure) for name, structure in structures}
                return {**produced, **found}
            answer = produced.pop(DEMAND)
            assert isinstance(answer, np.ndarray)
            tensors.update(produced)
            function = facts.function
            if function is not None:
                made = function(answer) if observer is None else observer.call_host(stage, function, answer)
                tensors[facts.host_input] = made
                answer = np.array(made.shape, np.int64)
            stage = self._stage_after(stage, answer)

    def run_fitting(
        self, stage: BoundStage, inputs: tuple[Array, ...], cancel: CancelFlag, *, on_device: bool
    ) -> tuple[AnyArray, ...]:
        """:meth:`run` with what :meth:`BoundStage.fitting` gave: the outputs in the plan's order."""
        outputs = self._allocate(stage, None, on_device=on_device)
        stage.executor.run(inputs, outputs, cancel)
        stage.used = True
        if not self._settled:
            self.settle()
        return outputs

    def _allocate(
        self, stage: BoundStage, out: Mapping[str, OutArrays] | None, *, on_device: bool
    ) -> tuple[AnyArray, ...]:
        try:
            return _make_outputs(stage, out, on_device=on_device)
        except OutOfMemoryError:
            if not self.budget.trim():
                raise
            return _make_outputs(stage, out, on_device=on_device)

    def settle(self, *, wait: bool = False) -> None:
        """Has the plans that were made kept for later processes, where they are; with ``wait`` before it
        returns."""
        self._settled = True
        self.planner.settle(wait=wait)

    def _stage_after(self, stage: BoundStage, answer: Array) -> BoundStage:
        key = stage, repr(answer.shape).encode() + answer.tobytes()
        following = self._later.get(key)
        if following is not None:
            return following
        with self._planning:
            following = self._later.get(key)
            if following is None:
                following = self._bind(stage.request, (*stage.answers, answer))
                self._later.put(key, following)
                self._count_constants()
            return following

    def _bind(self, request: Request, answers: tuple[Array, ...]) -> BoundStage:
        start = time.perf_counter()
        planned = self.planner.plan(request, answers)
        self._settled = False
        compiled = planned.compiled
        plan = compiled.plan
        constants = {id(array): array.nbytes for array in compiled.constants}
        logger.info(
            "planned stage %d in %.1f ms: %d steps, %d kernels, %d bytes of arena, %d bytes of constants",
            len(answers), 1e3 * (time.perf_counter() - start), len(plan.steps), len(plan.kernels),
            plan.arena_bytes, sum(constants.values()),
        )  # fmt: skip
        logger.debug("the plan is for %s", dict(zip(request.names, request.shapes, strict=True)))
        allocations = tuple((binding.shape, binding.dtype.numpy) for binding in plan.outputs)
        return BoundStage(
            self._bind_plan(compiled, sum(constants.values()) + plan.arena_bytes),
            self.device,
            planned.facts,
            request,
            answers,
            tuple(binding.name for binding in plan.inputs),
            tuple(binding.name for binding in plan.outputs),
            allocations,
            tuple(result_maker(self.device, self.budget, *each) for each in allocations),
            plan.seconds,
            constants,
        )

    def _bind_plan(self, compiled: CompiledPlan, least: int) -> Executor:
        """Binds a plan that needs ``least`` bytes of memory or more, if it is within the limit."""
        limit = self.budget.limit
        if limit is None:
            return self.device.bind(compiled, self.budget)
        if least <= limit:
            executor = self.device.bind(compiled, self.budget)
            if executor.peak_bytes <= limit:
                return executor
            least = executor.peak_bytes
            executor.close()
        raise OutOfMemoryError(
            f"a run needs {least:,} bytes of memory for constants and temporaries, memory_limit is {limit:,}"
        )

    def _stages(self) -> list[BoundStage]:
        return [stage for _, stage in (*self._first.items(), *self._later.items())]

    def _count_constants(self) -> None:
        constants: dict[int, int] = {}
        for stage in self._stages():
            constants.update(stage.constants)
        self.budget.set_fixed(sum(constants.values()))

    def _idle_first(self) -> list[Executor]:
        """The plans, those first that were not used since this was last asked."""
        stages = sorted(self._stages(), key=lambda stage: stage.used)
        for stage in stages:
            stage.used = False
        return [stage.executor for stage in stages]

    def plans(self, request: Request) -> tuple[ExecutionPlan, ...]:
        """The plans for a request: one, or where data decides, the first and those made after it so far."""
        chain = [self.first_stage(request)]
        for (before, _), stage in self._later.items():
            if before in chain:
                chain.append(stage)
        return tuple(stage.executor.plan for stage in chain)

    def close(self) -> None:
        """Waits for the runs in flight, then releases all plans and constants."""
        with self._planning:
            for stage in self._stages():
                stage.executor.close()
            self._first.clear()
            self._later.clear()
            self.plain.clear()
            self.planner.close()
            self._count_constants()


def _make_outputs(
    stage: BoundStage, out: Mapping[str, OutArrays] | None, *, on_device: bool
) -> tuple[AnyArray, ...]:
    if out:
        return stage.allocate_beside(_out_tensors(out, stage.facts.structures), on_device=on_device)
    return stage.allocate_on_device() if on_device else stage.allocate()


def _out_tensors(
    out: Mapping[str, OutArrays], structures: Mapping[str, Structure[str]]
) -> dict[str, AnyArray]:
    """The arrays of ``out`` by the names of the tensors that are written into them."""
    found: dict[str, AnyArray] = {}
    for name, given in out.items():
        structure = structures.get(name, name)
        if isinstance(structure, Absent):
            continue
        expected = structure.elements if isinstance(structure, SequenceValue) else (structure,)
        names = [item for item in expected if isinstance(item, str)]
        if len(names) < len(expected):
            raise InvalidFeedsError(f"out: {name!r} is made of maps, which are not written into arrays")
        arrays = given if isinstance(given, list) else [given]
        if isinstance(given, list) is not isinstance(structure, SequenceValue) or len(names) != len(arrays):
            what = f"{len(arrays)} arrays" if isinstance(given, list) else "an array"
            output = f"a sequence of {len(names)}" if isinstance(structure, SequenceValue) else "a tensor"
            raise InvalidFeedsError(f"out: {name!r} is {what}, the output is {output}")
        found.update(zip(names, arrays, strict=True))
    return found
