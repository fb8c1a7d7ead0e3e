"""The engines that are compared, each in a process of its own so that none meets another's threads.

The parent asks them in turn for blocks of runs, so that a noisy machine is noisy for all.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, cast

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]
Run = Callable[[], list[Array]]
State = TypeVar("State")
Result = TypeVar("Result")
Parameters = ParamSpec("Parameters")
AnyPeer = TypeVar("AnyPeer")


def load_onnxplan(model: Path, feeds: Feeds, threads: int, math: str = "strict") -> Run:
    import onnxplan

    session = onnxplan.InferenceSession(model, threads=threads, math=math)
    names = session.output_names

    def run() -> list[Array]:
        results = session.run_sync(feeds)
        return [results[name].numpy() for name in names]

    return run


def _onnxruntime_session(model: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def load_onnxruntime(model: Path, feeds: Feeds, threads: int) -> Run:
    session = _onnxruntime_session(model, threads)
    given = dict(feeds)
    return lambda: session.run(None, given)


def load_onnxplan_into(model: Path, feeds: Feeds, threads: int) -> Run:
    """Writes into the same arrays in every run, so that no time goes into fresh memory."""
    import onnxplan

    session = onnxplan.InferenceSession(model, threads=threads)
    out = {name: result.numpy().copy() for name, result in session.run_sync(feeds).items()}

    def run() -> list[Array]:
        session.run_sync(feeds, out=out)
        return list(out.values())

    return run


def load_onnxruntime_into(model: Path, feeds: Feeds, threads: int) -> Run:
    """The same with onnxruntime's bindings."""
    session = _onnxruntime_session(model, threads)
    names = [output.name for output in session.get_outputs()]
    arrays = session.run(names, dict(feeds))
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    for name, array in zip(names, arrays, strict=True):
        binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def run() -> list[Array]:
        session.run_with_iobinding(binding)
        return list(arrays)

    return run


def load_openvino(model: Path, feeds: Feeds, threads: int, precision: str = "f32") -> Run:
    import openvino

    core = openvino.Core()
    # Its default on processors with bf16 instructions is bf16.
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(core.read_model(str(model)), "CPU", settings)
    request = compiled.create_infer_request()
    names = {port.get_any_name() for port in compiled.inputs}
    given = {name: array for name, array in feeds.items() if name in names}
    outputs = list(compiled.outputs)

    def run() -> list[Array]:
        results = request.infer(given, share_inputs=True, share_outputs=True)
        return [results[port] for port in outputs]

    return run


LOADERS: dict[str, Callable[[Path, Feeds, int], Run]] = {
    "onnxplan": load_onnxplan,
    "onnxruntime": load_onnxruntime,
    "openvino": load_openvino,
    "onnxplan, fast": partial(load_onnxplan, math="fast"),
    "openvino, bf16": partial(load_openvino, precision="bf16"),
    "onnxplan into arrays": load_onnxplan_into,
    "onnxruntime into arrays": load_onnxruntime_into,
}


class EngineProcess(Generic[State]):
    """What ``load(*arguments)`` made, in a process of its own that calls functions with it.

    Loader, functions, arguments and results travel between processes, so functions are those of modules.
    Use as a context manager.
    """

    def __init__(
        self,
        engine: str,
        load: Callable[Parameters, State],
        *arguments: Parameters.args,
        **_: Parameters.kwargs,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.engine = engine
        self._pipe, remote = context.Pipe()
        self._process = context.Process(target=_serve, args=(remote, load, arguments), daemon=True)
        self._process.start()
        remote.close()
        self.load_seconds: float = self._receive()

    def _receive(self) -> Any:
        try:
            answer = self._pipe.recv()
        except EOFError:
            raise RuntimeError(f"{self.engine} died") from None
        if isinstance(answer, BaseException):
            raise RuntimeError(f"{self.engine}: {answer!r}") from answer
        return answer

    def call(
        self,
        function: Callable[Concatenate[State, Parameters], Result],
        *arguments: Parameters.args,
        **_: Parameters.kwargs,
    ) -> Result:
        """What ``function`` gives in the process for what was loaded there and for ``arguments``."""
        self._pipe.send((function, arguments))
        return cast("Result", self._receive())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.is_alive():
            self._pipe.send(None)
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()


def _serve(pipe: Connection, load: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        start = time.perf_counter()
        state = load(*arguments)
        pipe.send(time.perf_counter() - start)
        while (order := pipe.recv()) is not None:
            function, given = order
            pipe.send(function(state, *given))
    except Exception as error:
        pipe.send(error)
    # Some engines hang or crash while the interpreter tears down; there is nothing left to save.
    os._exit(0)


class Peer(EngineProcess[Run]):
    """An engine with one model loaded, which blocks its process while it runs."""

    def __init__(self, engine: str, model: Path, feeds: Feeds, threads: int) -> None:
        super().__init__(engine, LOADERS[engine], model, dict(feeds), threads)

    def outputs(self) -> list[Array]:
        """The results of one run."""
        return self.call(_outputs)

    def block(self, seconds: float, pause: float = 0.0) -> list[float]:
        """Run times of as many runs as fit into ``seconds``, pauses included, two at least."""
        return self.call(_block, seconds, pause)


def _outputs(run: Run) -> list[Array]:
    return run()


def _block(run: Run, seconds: float, pause: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 2:
        if pause:
            time.sleep(pause)
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


class TimedPeer(Protocol):
    """What :func:`interleave` asks for blocks of runs."""

    engine: str

    def block(self, seconds: float, pause: float = 0.0) -> list[float]:
        """Run times in seconds of runs that begin ``pause`` seconds after the one before."""
        ...


def turns(peers: Sequence[AnyPeer], rounds: int) -> Iterator[AnyPeer]:
    """All peers ``rounds`` times, there and back, so that none is always behind the same one."""
    for number in range(rounds):
        yield from peers if number % 2 == 0 else reversed(peers)


def interleave(
    peers: Sequence[TimedPeer], seconds: float, rounds: int = 6, pause: float = 0.0
) -> dict[str, float]:
    """The median run time of each engine in seconds, from ``rounds`` blocks in turn after a warm-up."""
    for peer in peers:
        peer.block(0.0)
    times: dict[str, list[float]] = {peer.engine: [] for peer in peers}
    for peer in turns(peers, rounds):
        times[peer.engine] += peer.block(seconds / rounds, pause)
    return {engine: float(np.median(values)) for engine, values in times.items()}
