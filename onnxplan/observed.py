"""Sessions that report what they do to observers. Nothing here is imported before there is one."""

from __future__ import annotations

import contextvars
import functools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property, partial
from typing import Any, TypeVar

from onnxplan import observers
from onnxplan.compiler.plan import CompiledPlan
from onnxplan.observers import AttributeValue, Operation, OperationKind, SessionObserver
from onnxplan.runtime.cancellation import CancelFlag
from onnxplan.runtime.device import Array, Executor
from onnxplan.runtime.engine import Engine
from onnxplan.runtime.planner import ForwardingPlanner, PlannedStage, Planner, Request, Shape
from onnxplan.runtime.workers import Job, Workers
from onnxplan.session import InferenceSession

T = TypeVar("T")


class Observation:
    """Reports operations of one session to the observers that there were when it was made."""

    def __init__(self, told: tuple[SessionObserver, ...], session: str, device: str) -> None:
        self.told = told
        self.session = session
        self.device = device

    def of(
        self, kind: OperationKind, attributes: Mapping[str, AttributeValue]
    ) -> AbstractContextManager[Any]:
        """The context of an operation that happens once."""
        return self.observe(Operation(kind, self.session, self.device, attributes))

    def observe(self, operation: Operation) -> AbstractContextManager[Any]:
        told = self.told
        return told[0].observe(operation) if len(told) == 1 else _all(told, operation)


@contextmanager
def _all(told: tuple[SessionObserver, ...], operation: Operation) -> Iterator[None]:
    with ExitStack() as stack:
        for observer in told:
            stack.enter_context(observer.observe(operation))
        yield


class ObservedSession(InferenceSession):
    """A session that reports to observers; the base of the classes that :func:`observed_kind` makes."""

    _plain_kind: type[InferenceSession] = InferenceSession

    def _open(self, model: Any) -> None:
        name = self._options.name or _name_of(model)
        self._observation = Observation(observers.active, name, self._options.device)
        self._engine_kind = partial(ObservedEngine, self._observation)
        with self._observation.of("load", {}):
            super()._open(model)
            self._observation.device = self.device
        self._run_operations = [
            Operation("run", name, self.device, {"onnxplan.run.async": is_async})
            for is_async in (False, True)
        ]
        for observer in self._observation.told:
            observer.opened(self)

    def _reset_runs(self) -> None:
        super()._reset_runs()
        self._calls: deque[None] = deque()

    @property
    def name(self) -> str:
        """What observers know the session by."""
        return self._observation.session

    @property
    def in_flight(self) -> int:
        """Runs that were asked for and are not over."""
        return len(self._calls)

    @property
    def queued(self) -> int:
        """Runs that were asked for and wait for a place or a worker thread."""
        return max(0, len(self._calls) - len(self._running))

    @property
    def kernel_origin(self) -> tuple[str, str, bool]:
        """Equal for sessions that share their kernels, and so the count of ``compiled_kernels``."""
        return self.device, self._options.math, self._options.cache

    async def run(
        self, feeds: Mapping[str, Any], fetches: Iterable[str] | None = None, outputs: str = "cpu"
    ) -> dict[str, Any]:
        calls = self._calls
        calls.append(None)
        try:
            with self._observation.observe(self._run_operations[True]):
                return await super().run(feeds, fetches, outputs)
        finally:
            calls.pop()

    def run_sync(
        self,
        feeds: Mapping[str, Any],
        fetches: Iterable[str] | None = None,
        out: Mapping[str, Any] | None = None,
        outputs: str = "cpu",
    ) -> dict[str, Any]:
        return self._observed_run(lambda: super(ObservedSession, self).run_sync(feeds, fetches, out, outputs))

    def _observed_run(self, run: Callable[[], T]) -> T:
        calls = self._calls
        calls.append(None)
        try:
            with self._observation.observe(self._run_operations[False]):
                return run()
        finally:
            calls.pop()

    @cached_property
    def _workers(self) -> Workers:
        return ContextWorkers(super()._workers)

    def __reduce__(self) -> tuple[Any, ...]:
        # Where it is unpickled, the observers there decide.
        restore, (_, source, options) = super().__reduce__()
        return restore, (self._plain_kind, source, options)


class ObservedPlanner(ForwardingPlanner):
    """Reports the making of plans."""

    def __init__(self, observation: Observation, planner: Planner) -> None:
        super().__init__(planner)
        self._observation = observation

    def plan(self, request: Request, answers: tuple[Array, ...]) -> PlannedStage:
        inputs = zip(request.names, request.shapes, strict=True)
        attributes: dict[str, AttributeValue] = {
            "onnxplan.plan.inputs": _shapes(inputs),
            "onnxplan.plan.stage": len(answers),
        }
        with self._observation.of("plan", attributes):
            return super().plan(request, answers)


class ObservedEngine(Engine):
    """Reports plans and what it takes until they can run."""

    def __init__(self, observation: Observation, planner: Planner, *arguments: Any, **options: Any) -> None:
        self._observation = observation
        super().__init__(ObservedPlanner(observation, planner), *arguments, **options)

    def _bind_plan(self, compiled: CompiledPlan, least: int) -> Executor:
        plan = compiled.plan
        attributes: dict[str, AttributeValue] = {
            "onnxplan.plan.inputs": _shapes((binding.name, binding.shape) for binding in plan.inputs),
            "onnxplan.plan.steps": len(plan.steps),
            "onnxplan.plan.kernels": len(plan.kernels),
            "onnxplan.plan.arena_bytes": plan.arena_bytes,
            "onnxplan.plan.constant_bytes": sum(array.nbytes for array in compiled.constants),
        }
        with self._observation.of("compile", attributes):
            return super()._bind_plan(compiled, least)


def _shapes(inputs: Iterable[tuple[str, Shape]]) -> list[str]:
    return [f"{name}: {list(shape)}" for name, shape in inputs]


class ContextWorkers(Workers):
    """Worker threads of ``workers`` that work in the context of the task that submits."""

    def __init__(self, workers: Workers) -> None:
        self._own = workers

    def submit(self, function: Callable[[CancelFlag], T]) -> Job[T]:
        context = contextvars.copy_context()
        return self._own.submit(lambda cancel: context.run(function, cancel))


@functools.cache
def observed_kind(
    kind: type[InferenceSession], base: type[ObservedSession] = ObservedSession
) -> type[InferenceSession]:
    """The class of observed sessions beside ``kind``; it has what ``base`` adds."""
    if issubclass(kind, ObservedSession):
        return kind
    bases = (base,) if issubclass(base, kind) else (base, kind)
    return type(kind.__name__, bases, {"_plain_kind": kind, "__module__": kind.__module__})


def _name_of(model: Any) -> str:
    if isinstance(model, str | os.PathLike):
        return os.path.splitext(os.path.basename(os.fspath(model)))[0] or "model"
    graph = getattr(model, "graph", None)
    return getattr(graph, "name", "") or "model"
