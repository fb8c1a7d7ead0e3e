"""Tiny kernels and hand-made plans for the tests of the runtime.

All operands are int64 tensors of one dimension unless said otherwise.
"""

from __future__ import annotations

import threading
import time

import numpy as np

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Binding, Buffer, Constant, ExecutionPlan, KernelSpec, Operand, Step
from onnxplan.compiler.target import Target
from onnxplan.runtime.cancellation import CancelFlag
from onnxplan.runtime.cpu.executor import CpuExecutor
from onnxplan.runtime.cpu.target import detect_target
from onnxplan.runtime.library import KernelLibrary
from onnxplan.runtime.store import KernelStore, StoredCode

POLLS_BEFORE_GIVING_UP = 1 << 30
WAIT_SECONDS = 30.0


def build(spec: KernelSpec, target: Target) -> StoredCode:
    from onnxplan.runtime.cpu.native_builder import compile_module

    return StoredCode("kernel", compile_module("test", lambda module: BODIES[spec.family](module)))


def library(store: KernelStore | None = None, threads: int = 1) -> KernelLibrary:
    return KernelLibrary(
        build, detect_target(threads), lambda: "test kernels", store=store or KernelStore(None)
    )


def _kernel(module):
    from onnxplan.runtime.cpu.native_builder import NativeFunction

    function = NativeFunction(module, "kernel", 5, exported=True)
    return function, *function.arguments


def _tiles(function, first, last, body):
    tile = function.variable(first)
    with function.loop() as loop:
        loop.leave_if(tile.get() >= last)
        body(tile.get())
        tile.add(1)
    function.give(0)


def _element(function, operands, number, index):
    return function.load(operands, number) + index * 8


def _fill(module):
    """out[t] = parameter 0"""
    f, operands, parameters, first, last, _ = _kernel(module)
    _tiles(f, first, last, lambda t: f.store(_element(f, operands, 0, t), 0, f.load(parameters)))


def _add(module):
    """out[t] = a[t] + b[t]"""
    f, operands, _, first, last, _ = _kernel(module)
    _tiles(
        f,
        first,
        last,
        lambda t: f.store(
            _element(f, operands, 2, t),
            0,
            f.load(_element(f, operands, 0, t)) + f.load(_element(f, operands, 1, t)),
        ),
    )


def _mix(module):
    """out[t] = 3 * a[(t + parameter 1) mod parameter 0] + a[t]; wrong unless all of a is there"""
    f, operands, parameters, first, last, _ = _kernel(module)
    size, shift = f.load(parameters), f.load(parameters, 1)

    def body(t):
        other = t + shift
        other = (other >= size).choose(other - size, other)
        mixed = f.load(_element(f, operands, 0, other)) * 3 + f.load(_element(f, operands, 0, t))
        f.store(_element(f, operands, 1, t), 0, mixed)

    _tiles(f, first, last, body)


def _count(module):
    """counts[t] += 1, atomically, after a little work"""
    f, operands, _, first, last, _ = _kernel(module)

    def body(t):
        with f.count(20):
            f.pause()
        f.atomic("add", _element(f, operands, 0, t), 0, 1)

    _tiles(f, first, last, body)


def _hold(module):
    """Adds 1 to started[0] and waits until gate[0] is not 0."""
    f, operands, _, first, last, _ = _kernel(module)

    def body(_t):
        f.atomic("add", f.load(operands, 1), 0, 1)
        with f.loop() as loop:
            loop.leave_if(f.atomic_load(f.load(operands)).differs(0))
            f.pause()

    _tiles(f, first, last, body)


def _gather_tiles(f, operands, parameters, first, last, result):
    """Each tile waits until all have begun, then writes ``result(arrivals)``; arrivals are counted in one
    element more."""
    wanted = f.load(parameters)
    arrivals = _element(f, operands, 0, wanted)

    def body(t):
        f.atomic("add", arrivals, 0, 1)
        polls = f.variable(0)
        with f.loop() as loop:
            loop.leave_if(f.atomic_load(arrivals) >= wanted)
            loop.leave_if(polls.get() >= POLLS_BEFORE_GIVING_UP)
            polls.add(1)
            f.pause()
        f.store(_element(f, operands, 0, t), 0, result(arrivals))

    _tiles(f, first, last, body)


def _meet(module):
    """Each tile waits until all tiles have begun: out[t] = how many had, in the end. out must be zeroed,
    with one element more."""
    f, operands, parameters, first, last, _ = _kernel(module)
    _gather_tiles(f, operands, parameters, first, last, f.atomic_load)


def _order(module):
    """out[t] = how many tiles were begun before; out must be zeroed, with one element more (parameter 0)."""
    f, operands, parameters, first, last, _ = _kernel(module)
    count = _element(f, operands, 0, f.load(parameters))
    _tiles(f, first, last, lambda t: f.store(_element(f, operands, 0, t), 0, f.atomic("add", count, 0, 1)))


def _who(module):
    """Each tile waits until all have begun: where[t] = the address of its worker's scratch. ``where`` must be
    zeroed, with one element more."""
    f, operands, parameters, first, last, scratch = _kernel(module)
    _gather_tiles(f, operands, parameters, first, last, lambda _: scratch)


def _scratch(module):
    """Writes the tile number all over the scratch (parameter 0 words), dawdles, and checks that it stayed:
    intact[t] = 1, where[t] = the address."""
    f, operands, parameters, first, last, scratch = _kernel(module)
    words = f.load(parameters)

    def body(t):
        with f.count(words) as word:
            f.store(scratch + word * 8, 0, t)
        with f.count(200):
            f.pause()
        intact = f.variable(1)
        with f.count(words) as word, f.when(f.atomic_load(scratch + word * 8).differs(t)):
            intact.set(0)
        f.store(_element(f, operands, 0, t), 0, intact.get())
        f.store(_element(f, operands, 1, t), 0, scratch)

    _tiles(f, first, last, body)


def _nothing(module):
    f, *_ = _kernel(module)
    f.give(0)


BODIES = {
    "fill": _fill,
    "add": _add,
    "mix": _mix,
    "count": _count,
    "hold": _hold,
    "meet": _meet,
    "order": _order,
    "who": _who,
    "scratch": _scratch,
    "nothing": _nothing,
}


class PlanMaker:
    """Puts a plan together step by step; names of buffers are made up by the caller."""

    def __init__(self, threads: int = 1) -> None:
        self.target = detect_target(threads)
        self.inputs: list[Binding] = []
        self.outputs: list[Binding] = []
        self.constants: list[Constant] = []
        self.buffers: list[Buffer] = []
        self.steps: list[Step] = []
        self.arena = 0
        self.scratch = 0

    def input(self, name: str, size: int) -> Operand:
        self.inputs.append(Binding(name, DType.INT64, (size,)))
        return self._operand("input", len(self.inputs) - 1, 0, size)

    def output(self, name: str, size: int) -> Operand:
        self.outputs.append(Binding(name, DType.INT64, (size,)))
        return self._operand("output", len(self.outputs) - 1, 0, size)

    def constant(self, name: str, size: int) -> Operand:
        self.constants.append(Constant(name, DType.INT64, (size,)))
        return self._operand("constant", len(self.constants) - 1, 0, size)

    def temporary(self, size: int) -> Operand:
        offset = self.arena
        self.arena += -(-8 * size // 64) * 64
        return self._operand("arena", 0, offset, size)

    def _operand(self, space: str, index: int, offset: int, size: int) -> Operand:
        self.buffers.append(Buffer(space, index, offset, 8 * size))
        return Operand(len(self.buffers) - 1, 0, DType.INT64, (size,), (1,))

    def step(
        self,
        family: str,
        *operands: Operand,
        parameters: tuple[int, ...] = (),
        tiles: int = 1,
        seconds: float = 1e-6,
        scratch: int = 0,
    ) -> None:
        self.scratch = max(self.scratch, scratch)
        self.steps.append(
            Step(KernelSpec(family), operands, (), parameters, tiles, scratch, 0, 0, seconds, ())
        )

    def plan(self) -> ExecutionPlan:
        return ExecutionPlan(
            self.target,
            tuple(self.inputs),
            tuple(self.outputs),
            tuple(self.constants),
            tuple(self.buffers),
            tuple(self.steps),
            self.arena,
            self.arena,
            self.scratch,
        )


def add_plan(size: int = 8) -> ExecutionPlan:
    maker = PlanMaker()
    a, b, c = maker.input("a", size), maker.input("b", size), maker.output("c", size)
    maker.step("add", a, b, c, tiles=size)
    return maker.plan()


def mix_plan(size: int, steps: int, threads: int, seconds: float = 1e-4) -> ExecutionPlan:
    """A chain of ``mix``: through two temporaries that the steps use in turn."""
    maker = PlanMaker(threads)
    source, result = maker.input("x", size), maker.output("y", size)
    temporaries = (maker.temporary(size), maker.temporary(size))
    for number in range(steps):
        target = result if number == steps - 1 else temporaries[number % 2]
        maker.step("mix", source, target, parameters=(size, number % size), tiles=size, seconds=seconds)
        source = target
    return maker.plan()


def mixed(values: np.ndarray, steps: int) -> np.ndarray:
    """What :func:`mix_plan` computes."""
    for number in range(steps):
        values = 3 * np.roll(values, -(number % len(values))) + values
    return values


def meet_plan(workers: int) -> ExecutionPlan:
    """A step whose tiles all wait for each other, so that it needs ``workers`` at once."""
    maker = PlanMaker(workers)
    out = maker.output("out", workers + 1)
    maker.step("meet", out, parameters=(workers,), tiles=workers, seconds=1.0)
    return maker.plan()


def poisoned(size: int) -> np.ndarray:
    return np.full(size, 0x5A5A5A5A5A5A5A5A, np.int64)


def wait_until(condition) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


def random_words(size: int) -> np.ndarray:
    return np.random.default_rng(size).integers(-(1 << 40), 1 << 40, size)


def hold_plan(threads: int = 1, tiles: int = 1) -> ExecutionPlan:
    """Waits for a gate, then fills ``after`` with 1."""
    maker = PlanMaker(threads)
    gate, started, after = maker.input("gate", 1), maker.output("started", 1), maker.output("after", 2)
    maker.step("hold", gate, started, tiles=tiles, seconds=1.0)
    maker.step("fill", after, parameters=(1,), tiles=2)
    return maker.plan()


class HeldRun:
    """A run on a thread of its own that has begun and waits for its gate."""

    def __init__(self, executor: CpuExecutor, flag: CancelFlag | None = None) -> None:
        self.gate, self.started, self.after = (np.zeros(size, np.int64) for size in (1, 1, 2))
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(executor, flag))
        self.thread.start()

    def _run(self, executor: CpuExecutor, flag: CancelFlag | None) -> None:
        try:
            executor.run((self.gate,), (self.started, self.after), flag)
        except BaseException as error:
            self.error = error

    def release(self) -> None:
        self.gate[0] = 1
        self.thread.join()
