"""Runs a model on a device: plans for the shapes that come, kept in a bounded cache, stage by stage."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.builder import ConstantPool
from onnxplan.compiler.errors import InvalidFeedsError
from onnxplan.compiler.ir import Model
from onnxplan.compiler.lowering import DEMAND, lower
from onnxplan.compiler.pipeline import compile_program
from onnxplan.compiler.plan import ExecutionPlan
from onnxplan.runtime.cancellation import CancelFlag
from onnxplan.runtime.device import Device, Executor

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """What decides which plan serves a run: the inputs fed, their shapes, and the outputs wanted."""

    names: tuple[str, ...]
    shapes: tuple[Shape, ...]
    fetches: tuple[str, ...] | None = None


@dataclass(eq=False, slots=True)
class BoundStage:
    """A stage of a model for one request, bound to a device.

    ``following`` holds the stages after it by the answer to the question that ended it. ``final`` stages end
    the model. ``allocations`` are shape and NumPy dtype of each output, ``seconds`` the estimated run time.
    """

    executor: Executor
    final: bool
    request: Request
    answers: tuple[Array, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    allocations: tuple[tuple[Shape, np.dtype[Any]], ...]
    seconds: float
    following: OrderedDict[bytes, BoundStage] = field(default_factory=OrderedDict)

    def chain(self) -> Iterator[BoundStage]:
        """The stage and all that were planned after it."""
        yield self
        for stage in self.following.values():
            yield from stage.chain()

    @property
    def is_whole(self) -> bool:
        """Is it all of the model, its inputs in the request's order?"""
        return self.final and not self.answers and self.input_names == self.request.names


class Engine:
    """A model on a device. Safe from any number of threads.

    ``max_plans`` bounds the plans kept for different requests (and, within one, for different answers of
    data-dependent stages); the least recently used one goes first.
    """

    def __init__(self, model: Model, device: Device, *, optimize: int = 1, max_plans: int = 32) -> None:
        self.model = model
        self.device = device
        self._optimize = optimize
        self._max_plans = max_plans
        self._pool = ConstantPool()
        self._lock = threading.RLock()
        self._stages: OrderedDict[Request, BoundStage] = OrderedDict()

    def first_stage(self, request: Request) -> BoundStage:
        """The first stage for a request, planned if it is new. ``request.names`` are graph inputs."""
        with self._lock:
            stage = self._stages.get(request)
            if stage is None:
                stage = self._bind(request, ())
                self._keep(self._stages, request, stage)
            else:
                self._stages.move_to_end(request)
            return stage

    def run(
        self,
        stage: BoundStage,
        inputs: Sequence[Array],
        cancel: CancelFlag | None = None,
        out: Mapping[str, Array] | None = None,
    ) -> dict[str, Array]:
        """Runs a first stage and all that follow; ``inputs`` in the order of the request's names.

        Returns the outputs by name, freshly allocated, or written into the C-contiguous arrays of ``out``.
        Raises ``InvalidFeedsError`` where those have another type or shape.
        """
        tensors: dict[str, Array] = dict(zip(stage.request.names, inputs, strict=True))
        while True:
            outputs = _allocate(stage, out if stage.final and out else {})
            arrays = tuple([tensors[name] for name in stage.input_names])
            stage.executor.run(arrays, outputs, cancel)
            produced = dict(zip(stage.output_names, outputs, strict=True))
            if stage.final:
                return produced
            answer = produced.pop(DEMAND)
            tensors.update(produced)
            stage = self._stage_after(stage, answer)

    def _stage_after(self, stage: BoundStage, answer: Array) -> BoundStage:
        key = repr(answer.shape).encode() + answer.tobytes()
        with self._lock:
            following = stage.following.get(key)
            if following is None:
                following = self._bind(stage.request, (*stage.answers, answer))
                self._keep(stage.following, key, following)
            else:
                stage.following.move_to_end(key)
            return following

    def _keep(self, cache: OrderedDict[Any, BoundStage], key: Any, stage: BoundStage) -> None:
        cache[key] = stage
        if len(cache) > self._max_plans:
            # Runs in flight may still use the plan: it is released with its last reference.
            cache.popitem(last=False)

    def _bind(self, request: Request, answers: tuple[Array, ...]) -> BoundStage:
        stage = lower(
            self.model,
            dict(zip(request.names, request.shapes, strict=True)),
            answers,
            fetches=request.fetches,
            pool=self._pool,
        )
        compiled = compile_program(stage.program, self.device.selector, self._pool, optimize=self._optimize)
        plan = compiled.plan
        return BoundStage(
            self.device.bind(compiled),
            stage.final,
            request,
            answers,
            tuple(binding.name for binding in plan.inputs),
            tuple(binding.name for binding in plan.outputs),
            tuple((binding.shape, binding.dtype.numpy) for binding in plan.outputs),
            plan.seconds,
        )

    def plans(self, request: Request) -> tuple[ExecutionPlan, ...]:
        """The plans for a request: one, or where data decides, the first and those made after it so far."""
        return tuple(stage.executor.plan for stage in self.first_stage(request).chain())

    def close(self) -> None:
        """Releases all plans and constants."""
        with self._lock:
            for first in self._stages.values():
                for stage in first.chain():
                    stage.executor.close()
            self._stages.clear()
            self._pool = ConstantPool()


def _allocate(stage: BoundStage, out: Mapping[str, Array]) -> tuple[Array, ...]:
    arrays = []
    for name, (shape, dtype) in zip(stage.output_names, stage.allocations, strict=True):
        array = out.get(name)
        if array is None:
            array = np.empty(shape, dtype)
        elif array.shape != shape or array.dtype != dtype:
            raise InvalidFeedsError(
                f"out: {name!r} is {array.dtype}{list(array.shape)}, the output is {dtype}{list(shape)}"
            )
        arrays.append(array)
    return tuple(arrays)
