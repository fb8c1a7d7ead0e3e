"""Inference sessions: a model, a device, and runs that never block the event loop."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import InvalidModelError, OutOfMemoryError, SessionClosedError
from onnxplan.event_loop import Slice, let_others_run, off_the_loop
from onnxplan.feeds import check_out, plain_out
from onnxplan.forks import survive_forks
from onnxplan.interface import ModelInterface
from onnxplan.loading import load
from onnxplan.observers import observe
from onnxplan.options import SessionOptions, check_outputs
from onnxplan.profiled import Profiled
from onnxplan.runtime.bound_stage import BoundStage
from onnxplan.runtime.cancellation import CancelFlag
from onnxplan.runtime.device import AnyArray
from onnxplan.runtime.devices import open_device
from onnxplan.runtime.engine import Engine, Observer, OutArrays
from onnxplan.runtime.places import Places
from onnxplan.runtime.planner import Request
from onnxplan.shapes import Shapes, check_shapes, static_shapes
from onnxplan.started_runs import RunStarter, wrapped
from onnxplan.structures import result

if TYPE_CHECKING:
    import onnx

    from onnxplan.compiler.plan import ExecutionPlan
    from onnxplan.loading import ModelLike
    from onnxplan.runtime.workers import Workers

T = TypeVar("T")

INLINE_SECONDS = 500e-6
"""Plans for the CPU estimated under this run inside the coroutine: a hop to another thread costs more than it
saves.
"""


class InferenceSession(RunStarter, ModelInterface, Profiled):
    """A model, compiled for a device, ready to run.

    ``model`` is a path, serialised bytes, an ``onnx.ModelProto``, or the path of an artifact that
    :func:`onnxplan.compile` wrote. Keyword options:

    * ``device``: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or ``"auto"`` (CUDA where it works, else the CPU);
    * ``threads``: workers of one run (default: the cores this process may use);
    * ``math``: ``"strict"`` keeps float32 arithmetic in float32, ``"fast"`` allows narrower products;
    * ``cache``: keep compiled kernels on disk for later processes;
    * ``max_concurrency``: asynchronous runs of this session in flight at once (default: as many as the
      process has worker threads for the device, which all its sessions share: on the CPU one for each core,
      but two at least);
    * ``max_plans``: plans kept for different input shapes;
    * ``optimize``: 0 plans node by node, 1 with all passes;
    * ``memory_limit``: bytes that constants and temporaries of all plans may take together (default: no
      limit). Where they would take more, runs wait for others to end;
    * ``recompile``: compile the model of an artifact that was made for another machine, instead of raising
      :class:`~onnxplan.IncompatibleArtifactError`;
    * ``verify_key``: refuse anything but an artifact signed with ``onnxplan compile --sign-key`` by the owner
      of this Ed25519 public key (the path of a PEM file, or its bytes);
    * ``name``: what metrics and traces call the session, see :func:`onnxplan.instrument`;
    * ``autotune``: on CUDA, time the algorithms of matrix products and cuDNN's engines when a plan is made,
      instead of taking their first choice. Each kind is timed once; the choice is kept with the kernels.

    Raises :class:`~onnxplan.InvalidModelError`, :class:`~onnxplan.InvalidArtifactError`,
    :class:`~onnxplan.UnsupportedOperatorError`,
    :class:`~onnxplan.DeviceUnavailableError`, :class:`~onnxplan.OutOfMemoryError` where ``memory_limit`` is
    too low for a single run, ``ValueError`` and ``TypeError`` for options, and ``OSError`` for files that
    cannot be read. Files of 1 MiB and more and those of external data are mapped: while the
    session is open they may be replaced (by a rename), but must not be changed in place.

    Sessions may be used from any number of tasks and threads at once, as context managers, and pickle as
    the model and the options.
    """

    _engine_kind: Callable[..., Engine] = Engine
    _observed_by = "onnxplan.observed"

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes | onnx.ModelProto,
        *,
        device: str = "cpu",
        threads: int | None = None,
        math: str = "strict",
        cache: bool = True,
        max_concurrency: int | None = None,
        max_plans: int = 32,
        optimize: int = 1,
        memory_limit: int | None = None,
        recompile: bool = False,
        verify_key: str | os.PathLike[str] | bytes | None = None,
        name: str | None = None,
        autotune: bool = False,
    ) -> None:
        of_device, bounds = (device, threads, math, cache), (max_concurrency, max_plans)
        self._options = SessionOptions(
            *of_device, *bounds, optimize, memory_limit, recompile, verify_key, name, autotune
        )
        observe(self)
        self._open(model)

    def _open(self, model: ModelLike) -> None:
        options = self._options
        self._device = open_device(
            options.device,
            threads=options.threads,
            math=options.math,
            cache=options.cache,
            autotune=options.autotune,
        )
        loaded = load(model, self._device, options, self._adapt if self._adapts else None)
        super().__init__(loaded.signature)
        self._source = loaded.source
        self._engine = self._engine_kind(
            loaded.planner,
            self._device,
            self._names,
            max_plans=options.max_plans,
            memory_limit=options.memory_limit,
            max_concurrency=options.max_concurrency,
        )
        self._recent: BoundStage | None = None
        self._slice = Slice()
        self._inline_seconds = INLINE_SECONDS if self._device.runs_inline else 0.0
        # On a device, results of runs are the usual feeds of others.
        self._unwraps = not self._device.runs_inline
        places = options.max_concurrency
        self._places = None if places is None else Places(places)
        self._closed = False
        self._reset_runs()
        shapes = static_shapes(self._inputs)
        if shapes is not None and all(info.type != DType.STRING.label for info in self._inputs):
            stage = self._engine.first_stage(Request(self._names, shapes))
            if stage.facts.final:
                self._complete(
                    dict(zip(stage.output_names, stage.allocations, strict=True)), stage.facts.structures
                )
        survive_forks(self)

    def _reset_runs(self) -> None:
        self._running: deque[None] = deque()
        self._drained = threading.Event()
        self._closing = threading.Lock()

    @classmethod
    async def create(cls, model: str | os.PathLike[str] | bytes | onnx.ModelProto, **options: Any) -> Self:
        """The session that ``InferenceSession(model, **options)`` makes, made off the event loop."""
        return await off_the_loop(partial(cls, model, **options))

    @cached_property
    def _workers(self) -> Workers:
        from onnxplan.runtime.workers import workers_for

        device = self._device
        return workers_for(device.name, device.concurrency, device.expect_runs)

    @property
    def device(self) -> str:
        """Where runs happen: ``'cpu'`` or ``'cuda:0'``."""
        return self._device.name

    @property
    def compiled_kernels(self) -> int:
        """How many kernels this process has compiled for the session's device and options so far.

        Kernels that came from the store do not count: a warm start compiles none.
        """
        return self._device.compiled_kernels

    @property
    def closed(self) -> bool:
        """Was the session closed?"""
        return self._closed

    async def run(
        self, feeds: Mapping[str, Any], fetches: Iterable[str] | None = None, outputs: str = "cpu"
    ) -> dict[str, Any]:
        """One forward pass; the event loop stays free while it computes.

        ``feeds`` maps input names to NumPy arrays, :class:`Tensor`, DLPack objects, nested lists or
        scalars; arrays of the right type and layout are read in place and must not change until the run
        is over. Sessions on a CUDA device also take arrays in its memory (CuPy, PyTorch, anything with
        ``__dlpack__`` or ``__cuda_array_interface__``), without a copy to the host. Sequences are lists of
        such values, maps are dicts, and optionals may be ``None`` or left out. ``fetches`` names the outputs
        wanted (default: all). The results belong to the caller: each a :class:`Tensor`, on the host, or with
        ``outputs="device"`` in the memory of the session's device (strings always on the host), a list of
        them for a sequence, a dict for a map, or ``None``.

        Cancelling the task stops the run at its next step. Raises :class:`~onnxplan.InvalidFeedsError`,
        :class:`~onnxplan.OutOfMemoryError`, and ``ValueError`` for another value of ``outputs``.
        """
        recent = self._recent if fetches is None else None
        if recent is not None and recent.seconds < self._inline_seconds:
            results = self._try_recent(recent, feeds, outputs)
            if results is not None:
                if self._slice.ends_with(recent.seconds):
                    await let_others_run()
                return results
        if recent is not None and recent.starter is not None:
            fitting = self._fitting(recent, feeds)
            if fitting is not None:
                started = self._start(recent, fitting, on_device=check_outputs(outputs))
                if started is not None:
                    return await self._follow(recent, *started)
        on_device = check_outputs(outputs)
        self._require_open()
        if recent is not None and recent.seconds >= self._inline_seconds:
            inputs = recent.fitting(feeds)
            if inputs is not None:
                return await self._submit(partial(self._run_fitting, recent, inputs, on_device))
        request, arrays = self._check(feeds, fetches, self._device)
        stage = self._engine.plain.get(request.shapes) if request.names == self._names else None
        if stage is not None and fetches is None:
            if stage.seconds < self._inline_seconds:
                results = self._run_request(request, arrays, None)
                if self._slice.ends_with(stage.seconds):
                    await let_others_run()
                return results
            if stage.starter is not None and stage.pick is not None:
                started = self._start(stage, arrays, on_device=on_device)
                if started is not None:
                    return await self._follow(stage, *started)

        def work(cancel: CancelFlag) -> dict[str, Any]:
            return self._run_request(request, arrays, cancel, on_device=on_device)

        return await self._submit(work)

    async def _submit(self, work: Callable[[CancelFlag], T]) -> T:
        """The result of ``work(cancel)`` on a worker thread, one of ``max_concurrency`` at a time."""
        places = self._places
        if places is None:
            return await self._workers.submit(work)
        await places.take()
        try:
            return await self._workers.submit(work)
        finally:
            places.give()

    def run_sync(
        self,
        feeds: Mapping[str, Any],
        fetches: Iterable[str] | None = None,
        out: Mapping[str, Any] | None = None,
        outputs: str = "cpu",
    ) -> dict[str, Any]:
        """The same, blocking. ``out`` maps output names to arrays that the results are written into.

        The arrays of ``out`` must be writable, C-contiguous, of the output's type and shape, and overlap
        neither each other nor the feeds. They are NumPy arrays or lie in the memory of the session's device,
        whatever ``outputs`` says about the other results. A sequence takes a list of them, as many as it
        has elements; those for an optional without a value stay as they are.
        """
        recent = self._recent if fetches is None else None
        if recent is not None and (out is None or outputs == "cpu"):
            results = self._try_recent(recent, feeds, outputs, out)
            if results is not None:
                return results
        on_device = check_outputs(outputs)
        self._require_open()
        request, arrays = self._check(feeds, fetches, self._device)
        targets: dict[str, OutArrays] = {}
        if out is not None:
            names = request.fetches or self.output_names
            infos = [info for info in self._outputs if info.name in names]
            targets = check_out(out, infos, dict(zip(request.names, arrays, strict=True)), self._device)
        return self._run_request(request, arrays, None, targets, on_device=on_device)

    def _try_recent(
        self, stage: BoundStage, feeds: Mapping[str, Any], outputs: str, out: Mapping[str, Any] | None = None
    ) -> dict[str, Any] | None:
        """A run of the latest plan if the feeds are just what it expects: the hot path, so no messages."""
        arrays = self._fitting(stage, feeds)
        if arrays is None:
            return None
        self._running.append(None)
        try:
            if self._closed:
                raise SessionClosedError("the session is closed")
            try:
                results: tuple[AnyArray, ...] | None
                if out is not None:
                    results = plain_out(out, stage, arrays)
                elif outputs == "cpu" or not check_outputs(outputs):
                    results = stage.allocate()
                else:
                    results = stage.allocate_on_device()
            except OutOfMemoryError:
                # The other path makes room first.
                return None
            if results is None or not stage.executor.try_run(arrays, results):
                return None
            stage.used = True
            return wrapped(stage, results)
        finally:
            self._leave()

    def _run_request(
        self,
        request: Request,
        arrays: tuple[AnyArray, ...],
        cancel: CancelFlag | None,
        out: Mapping[str, OutArrays] | None = None,
        *,
        on_device: bool = False,
        observer: Observer | None = None,
    ) -> dict[str, Any]:
        self._running.append(None)
        try:
            if self._closed:
                raise SessionClosedError("the session was closed before the run began")
            try:
                stage = self._engine.first_stage(request)
                if stage.pick is not None and request.names == self._names and request.fetches is None:
                    self._recent = stage
                results = self._engine.run(stage, arrays, cancel, out, on_device=on_device, observer=observer)
            except InvalidModelError as error:
                raise self._refused(request, error) from error
            return {name: result(results[name]) for name in request.fetches or self.output_names}
        finally:
            self._leave()

    def plan(self, shapes: Shapes | None = None) -> ExecutionPlan:
        """The execution plan for inputs of these shapes (default: the model's, where they are fixed).

        Of a model whose course depends on data, the plan up to the first such point; :meth:`plans` has all
        that were made so far. Raises :class:`~onnxplan.InvalidFeedsError` for shapes that do not fit.
        """
        return self.plans(shapes)[0]

    def plans(self, shapes: Shapes | None = None) -> tuple[ExecutionPlan, ...]:
        """The plans of all stages known for inputs of these shapes, the first one first."""
        self._require_open()
        request = check_shapes(shapes, self._inputs, self._optional)
        try:
            return self._engine.plans(request)
        except InvalidModelError as error:
            raise self._refused(request, error) from error

    async def warmup(self, shapes: Sequence[Shapes] | Shapes | None = None) -> None:
        """Plans and compiles for inputs of these shapes (one mapping or several), off the event loop."""
        await off_the_loop(partial(self.warmup_sync, shapes))

    def warmup_sync(self, shapes: Sequence[Shapes] | Shapes | None = None) -> None:
        """The same, blocking."""
        for each in [shapes] if shapes is None or isinstance(shapes, Mapping) else shapes:
            self.plans(each)

    # Life

    def _require_open(self) -> None:
        if self._closed:
            raise SessionClosedError("the session is closed")

    def close(self, *, wait: bool = True) -> None:
        """Waits for runs in flight, then releases memory; later uses raise ``SessionClosedError``.

        With ``wait=False`` it raises ``RuntimeError`` and leaves the session open if runs are in flight.
        Runs that were submitted but have not begun are refused. Closing twice does nothing. On the thread of
        an event loop it blocks that loop; ``async with`` does not.
        """
        if not wait and self._running:
            raise RuntimeError(f"cannot close the session: {len(self._running)} runs are in flight")
        self._closed = True
        with self._closing:
            while True:
                self._drained.clear()
                if not self._running:
                    break
                self._drained.wait()
            self._recent = None
            self._engine.close()

    def _after_fork(self) -> None:
        """In the child of a fork, where the parent's runs in flight and their threads do not exist."""
        self._reset_runs()
        self._engine.after_fork()
        if self._places is not None:
            self._places.reset()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await off_the_loop(self.close)

    def __reduce__(self) -> tuple[Any, ...]:
        if not isinstance(self._source, str | bytes):
            raise TypeError(
                "cannot pickle a session made of a ModelProto of more than 2 GiB; make it from a file"
            )
        return _restore, (type(self), self._source, asdict(self._options))

    def __repr__(self) -> str:
        state = ", closed" if self._closed else ""
        inputs = ", ".join(map(str, self._inputs))
        outputs = ", ".join(map(str, self._outputs))
        return f"<InferenceSession on {self.device}{state}: ({inputs}) -> ({outputs})>"


def _restore(kind: type[InferenceSession], source: Any, options: dict[str, Any]) -> InferenceSession:
    return kind(source, **options)
