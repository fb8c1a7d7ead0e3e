"""Inference sessions: a model, a device, and runs that never block the event loop."""

from __future__ import annotations

import asyncio
import operator
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.errors import InvalidFeedsError, SessionClosedError
from onnxplan.feeds import TensorInfo, check_dims, check_feeds, check_fetches, suggest
from onnxplan.runtime.cancellation import CancelFlag
from onnxplan.runtime.devices import open_device
from onnxplan.runtime.engine import BoundStage, Engine, Request
from onnxplan.runtime.workers import Job, submit
from onnxplan.tensor import Tensor, wrap

if TYPE_CHECKING:
    import onnx

    from onnxplan.compiler.plan import ExecutionPlan

Array = npt.NDArray[Any]
Shapes = Mapping[str, Sequence[int]]

INLINE_SECONDS = 30e-6
"""Plans estimated under this run inside the coroutine: a hop to another thread costs more than it saves."""


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """The options of a session; see :class:`InferenceSession`."""

    device: str = "cpu"
    threads: int | None = None
    math: str = "strict"
    cache: bool = True
    max_concurrency: int | None = None
    max_plans: int = 32
    optimize: int = 1


class InferenceSession:
    """A model, compiled for a device, ready to run.

    ``model`` is a path, serialised bytes, or an ``onnx.ModelProto``. Keyword options:

    * ``device``: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or ``"auto"`` (CUDA where it works, else the CPU);
    * ``threads``: workers of one run (default: the cores this process may use);
    * ``math``: ``"strict"`` keeps float32 arithmetic in float32, ``"fast"`` allows narrower products;
    * ``cache``: keep compiled kernels on disk for later processes;
    * ``max_concurrency``: asynchronous runs of this session in flight at once (default: ``threads``);
    * ``max_plans``: plans kept for different input shapes;
    * ``optimize``: 0 plans node by node, 1 with all passes.

    Raises :class:`~onnxplan.InvalidModelError`, :class:`~onnxplan.UnsupportedOperatorError`,
    :class:`~onnxplan.DeviceUnavailableError`, and ``OSError`` for files that cannot be read.

    Sessions may be used from any number of tasks and threads at once, as context managers, and pickle as
    the model and the options.
    """

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
    ) -> None:
        self._options = SessionOptions(device, threads, math, cache, max_concurrency, max_plans, optimize)
        _check_options(self._options)
        self._source = model
        self._device = open_device(device, threads=threads, math=math, cache=cache)
        from onnxplan.compiler.importer import load_model

        imported = load_model(model)
        graph = imported.graph
        self._inputs = tuple(TensorInfo.of(value) for value in graph.inputs if value.default is None)
        self._optional = tuple(TensorInfo.of(value) for value in graph.inputs if value.default is not None)
        self._outputs = tuple(TensorInfo.of(value) for value in graph.outputs)
        self._metadata = dict(imported.metadata)
        self._engine = Engine(imported, self._device, optimize=optimize, max_plans=max_plans)
        self._names = tuple(info.name for info in self._inputs)
        self._expected = tuple(
            (value.name, value.type.dtype.numpy)
            for value in graph.inputs
            if value.default is None and value.type is not None
        )
        self._hot: dict[tuple[tuple[int, ...], ...], BoundStage] = {}
        self._running: deque[None] = deque()
        self._drained = threading.Event()
        self._closed = False
        self._places: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
        shapes = self._static_shapes()
        if shapes is not None:
            self._stage(Request(self._names, shapes))

    @classmethod
    async def create(cls, model: str | os.PathLike[str] | bytes | onnx.ModelProto, **options: Any) -> Self:
        """The session that ``InferenceSession(model, **options)`` makes, made off the event loop."""
        return await asyncio.to_thread(cls, model, **options)

    # Metadata

    @property
    def device(self) -> str:
        """Where runs happen: ``'cpu'`` or ``'cuda:0'``."""
        return self._device.name

    @property
    def input_names(self) -> tuple[str, ...]:
        return self._names

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(info.name for info in self._outputs)

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The inputs that must be fed."""
        return self._inputs

    @property
    def optional_inputs(self) -> tuple[TensorInfo, ...]:
        """The inputs that have a default and may be fed."""
        return self._optional

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        return self._outputs

    @property
    def metadata(self) -> dict[str, str]:
        """The model's own key-value metadata."""
        return dict(self._metadata)

    @property
    def compiled_kernels(self) -> int:
        """How many kernels this process has compiled for the session's device and options so far.

        Kernels that came from the store do not count: a warm start compiles none.
        """
        return self._device.compiled_kernels

    @property
    def closed(self) -> bool:
        return self._closed

    # Running

    async def run(self, feeds: Mapping[str, Any], fetches: Sequence[str] | None = None) -> dict[str, Tensor]:
        """One forward pass; the event loop stays free while it computes.

        ``feeds`` maps input names to NumPy arrays, :class:`Tensor`, DLPack objects, nested lists or
        scalars; arrays of the right type and layout are read in place and must not change until the run
        is over. ``fetches`` names the outputs wanted (default: all). The results belong to the caller.
        Cancelling the task stops the run at its next step. Raises :class:`~onnxplan.InvalidFeedsError`.
        """
        arrays = self._gather(feeds) if fetches is None else None
        if arrays is not None:
            stage = self._hot.get(tuple([array.shape for array in arrays]))
            if stage is not None and stage.seconds < INLINE_SECONDS:
                return self._run_whole(stage, arrays)
        if self._closed:
            raise SessionClosedError("the session is closed")
        request, arrays = self._check(feeds, fetches)
        if self._options.max_concurrency is None:
            return await self._submit(request, arrays)
        loop = asyncio.get_running_loop()
        places = self._places.setdefault(loop, asyncio.Semaphore(self._options.max_concurrency))
        async with places:
            return await self._submit(request, arrays)

    def _submit(self, request: Request, arrays: tuple[Array, ...]) -> Job[dict[str, Tensor]]:
        return submit(lambda cancel: self._run_request(request, arrays, cancel))

    def run_sync(
        self,
        feeds: Mapping[str, Any],
        fetches: Sequence[str] | None = None,
        out: Mapping[str, Array] | None = None,
    ) -> dict[str, Tensor]:
        """The same, blocking. ``out`` maps output names to arrays that the results are written into.

        The arrays of ``out`` must be writable, C-contiguous, and of the output's type and shape.
        """
        if fetches is None and out is None:
            arrays = self._gather(feeds)
            if arrays is not None:
                stage = self._hot.get(tuple([array.shape for array in arrays]))
                if stage is not None:
                    return self._run_whole(stage, arrays)
        if self._closed:
            raise SessionClosedError("the session is closed")
        request, arrays = self._check(feeds, fetches)
        return self._run_request(request, arrays, None, out)

    def _gather(self, feeds: Mapping[str, Any]) -> tuple[Array, ...] | None:
        """The arrays of feeds that need no conversion, ``None`` for others: the hot path, so no messages."""
        if type(feeds) is not dict or len(feeds) != len(self._expected):
            return None
        arrays = []
        for name, dtype in self._expected:
            array = feeds.get(name)
            if type(array) is not np.ndarray or array.dtype is not dtype or not array.flags.c_contiguous:
                return None
            arrays.append(array)
        return tuple(arrays)

    def _check(
        self, feeds: Mapping[str, Any], fetches: Sequence[str] | None
    ) -> tuple[Request, tuple[Array, ...]]:
        arrays = check_feeds(feeds, self._inputs, self._optional)
        wanted = check_fetches(fetches, self._outputs)
        shapes = tuple(array.shape for array in arrays.values())
        return Request(tuple(arrays), shapes, wanted), tuple(arrays.values())

    def _run_whole(self, stage: BoundStage, arrays: tuple[Array, ...]) -> dict[str, Tensor]:
        """A run of a model that is one stage, on checked arrays."""
        self._running.append(None)
        try:
            if self._closed:
                raise SessionClosedError("the session is closed")
            outputs = tuple([np.empty(shape, dtype) for shape, dtype in stage.allocations])
            stage.executor.run(arrays, outputs)
            return dict(zip(stage.output_names, map(wrap, outputs), strict=True))
        finally:
            self._leave()

    def _run_request(
        self,
        request: Request,
        arrays: tuple[Array, ...],
        cancel: CancelFlag | None,
        out: Mapping[str, Array] | None = None,
    ) -> dict[str, Tensor]:
        self._running.append(None)
        try:
            if self._closed:
                raise SessionClosedError("the session was closed before the run began")
            stage = self._stage(request)
            targets = self._check_out(out, request) if out else {}
            results = self._engine.run(stage, arrays, cancel, targets)
            return {name: wrap(results[name]) for name in request.fetches or self.output_names}
        finally:
            self._leave()

    def _stage(self, request: Request) -> BoundStage:
        """The first stage for a request; those that serve plain runs are remembered for the hot path."""
        stage = self._engine.first_stage(request)
        if request.names == self._names and request.fetches is None and stage.is_whole:
            if len(self._hot) >= self._options.max_plans:
                self._hot.clear()
            self._hot[request.shapes] = stage
        return stage

    def _check_out(self, out: Mapping[str, Array], request: Request) -> dict[str, Array]:
        names = request.fetches or self.output_names
        for name, array in out.items():
            if name not in names:
                raise InvalidFeedsError(f"out: the run has no output {name!r}{suggest(name, names)}")
            if not isinstance(array, np.ndarray):
                raise InvalidFeedsError(f"out: {name!r} must be a NumPy array, not {type(array).__name__}")
            if not (array.flags.c_contiguous and array.flags.writeable and array.flags.aligned):
                raise InvalidFeedsError(f"out: {name!r} must be a writable, aligned, C-contiguous array")
        return dict(out)

    def _leave(self) -> None:
        self._running.pop()
        if self._closed:
            self._drained.set()

    # Plans

    def _static_shapes(self) -> tuple[tuple[int, ...], ...] | None:
        shapes = [info.dims for info in self._inputs]
        if any(dims is None or any(not isinstance(dim, int) for dim in dims) for dims in shapes):
            return None
        return tuple(tuple(int(dim) for dim in dims or () if isinstance(dim, int)) for dims in shapes)

    def _request(self, shapes: Shapes | None) -> Request:
        static = self._static_shapes()
        if shapes is None:
            if static is None:
                dynamic = ", ".join(str(info) for info in self._inputs)
                raise InvalidFeedsError(
                    f"the inputs have symbolic dimensions, so shapes must be given: {dynamic}"
                )
            return Request(self._names, static)
        known = {info.name: info for info in [*self._inputs, *self._optional]}
        for name in shapes:
            if name not in known:
                raise InvalidFeedsError(f"the model has no input {name!r}{suggest(name, known)}")
        for info in self._inputs:
            if info.name not in shapes:
                raise InvalidFeedsError(f"the shape of input {info} is missing")
        ordered = {name: tuple(shapes[name]) for name in known if name in shapes}
        check_dims(ordered, known)
        return Request(tuple(ordered), tuple(ordered.values()))

    def plan(self, shapes: Shapes | None = None) -> ExecutionPlan:
        """The execution plan for inputs of these shapes (default: the model's, where they are fixed).

        Of a model whose course depends on data, the plan up to the first such point; :meth:`plans` has all
        that were made so far.
        """
        return self.plans(shapes)[0]

    def plans(self, shapes: Shapes | None = None) -> tuple[ExecutionPlan, ...]:
        """The plans of all stages known for inputs of these shapes, the first one first."""
        self._require_open()
        return self._engine.plans(self._request(shapes))

    async def warmup(self, shapes: Sequence[Shapes] | Shapes | None = None) -> None:
        """Plans and compiles for inputs of these shapes (one mapping or several), off the event loop."""
        await asyncio.to_thread(self.warmup_sync, shapes)

    def warmup_sync(self, shapes: Sequence[Shapes] | Shapes | None = None) -> None:
        """The same, blocking."""
        self._require_open()
        several = [shapes] if shapes is None or isinstance(shapes, Mapping) else shapes
        for each in several:
            self._stage(self._request(each))

    # Life

    def _require_open(self) -> None:
        if self._closed:
            raise SessionClosedError("the session is closed")

    def close(self, *, wait: bool = True) -> None:
        """Waits for runs in flight, then releases memory; later uses raise ``SessionClosedError``.

        With ``wait=False`` it raises ``RuntimeError`` and leaves the session open if runs are in flight.
        Runs that were submitted but have not begun are refused. Closing twice does nothing.
        """
        if not wait and self._running:
            raise RuntimeError(f"cannot close the session: {len(self._running)} runs are in flight")
        self._closed = True
        while self._running:
            self._drained.wait(0.05)
            self._drained.clear()
        self._hot.clear()
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    def __reduce__(self) -> tuple[Any, ...]:
        source = self._source
        if not isinstance(source, str | bytes | os.PathLike):
            source = source.SerializeToString()
        return _restore, (type(self), source, asdict(self._options))

    def __repr__(self) -> str:
        state = ", closed" if self._closed else ""
        inputs = ", ".join(map(str, self._inputs))
        outputs = ", ".join(map(str, self._outputs))
        return f"<InferenceSession on {self.device}{state}: ({inputs}) -> ({outputs})>"


def _restore(kind: type[InferenceSession], source: Any, options: dict[str, Any]) -> InferenceSession:
    return kind(source, **options)


def _check_options(options: SessionOptions) -> None:
    if options.math not in ("strict", "fast"):
        raise ValueError(f"math must be 'strict' or 'fast', not {options.math!r}")
    for name in ("threads", "max_concurrency", "max_plans"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    if options.optimize not in (0, 1):
        raise ValueError(f"optimize must be 0 or 1, not {options.optimize}")
