"""Hand-made plans for CUDA, kernels in Python that the stand-in runs, and a device made of both."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import emulator
import numpy as np
from standin import StandIn

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import (
    Binding,
    Buffer,
    CompiledPlan,
    Constant,
    ExecutionPlan,
    KernelSpec,
    Operand,
    Step,
)
from onnxplan.compiler.target import Target
from onnxplan.runtime.budget import Budget
from onnxplan.runtime.cuda.api import use_api
from onnxplan.runtime.cuda.device import CudaDevice, CudaKernelSet, open_cuda
from onnxplan.runtime.cuda.executor import CudaExecutor
from onnxplan.runtime.cuda.own_kernels import OwnSource

THREADS = 128
FAMILIES = {"add": 3, "add_number": 2}
"""Kernels of float32 vectors: operands of each, the last one written; then parameters."""


def floats(address: int, count: int) -> np.ndarray:
    return np.frombuffer((ctypes.c_float * count).from_address(address), np.float32)


def _add(a: int, b: int, target: int, count: int) -> None:
    floats(target, count)[:] = floats(a, count) + floats(b, count)


def _add_number(source: int, target: int, count: int, number: int) -> None:
    floats(target, count)[:] = floats(source, count) + np.float32(number)


def _probe(target: int, start: int) -> None:
    words = (ctypes.c_longlong * 64).from_address(target)
    words[:] = [start + 3 * number for number in range(64)]


@dataclass(frozen=True)
class PythonKernel:
    """Like an emulated kernel."""

    symbol: str
    words: int
    threads: int = 256

    def launch(self, blocks: int, threads: int, shared_bytes: int, address: int) -> None:
        assert threads <= self.threads
        words = tuple((ctypes.c_longlong * self.words).from_address(address))
        {"onnxplan_add": _add, "onnxplan_add_number": _add_number, "onnxplan_probe": _probe}[self.symbol](
            *words
        )


def load(code: bytes, symbol: str) -> Any:
    """The kernel of a text. The runtime's own copy is what its text says, through the emulator."""
    text = code.decode()
    if symbol == "onnxplan_copy_strided":
        return _emulated(text, symbol)
    return PythonKernel(symbol, int(text.split("words[", 1)[1].split("]")[0]))


@functools.cache
def _emulated(text: str, symbol: str) -> Any:
    return emulator.load(emulator.compile_source(text), symbol)


def generate(spec: KernelSpec, target: Target) -> OwnSource:
    """CUDA C from which the stand-in reads what the kernel touches; it is not compiled."""
    count = FAMILIES[spec.family]
    words = count + 1 + (spec.family == "add_number")
    operands = "\n".join(
        f"    {'' if n == count - 1 else 'const '}float* p{n} = "
        f"({'' if n == count - 1 else 'const '}float*)(arguments.words[{n}]);"
        for n in range(count)
    )
    symbol = f"onnxplan_{spec.family}"
    return OwnSource(
        symbol,
        f"struct Arguments {{ long long words[{words}]; }};\n"
        f'extern "C" __global__ void __launch_bounds__({THREADS})\n'
        f"{symbol}(const __grid_constant__ Arguments arguments) {{\n{operands}\n}}\n",
    )


class PlanMaker:
    """Puts a plan of float32 vectors together step by step."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.inputs: list[Binding] = []
        self.outputs: list[Binding] = []
        self.constants: list[np.ndarray] = []
        self.buffers: list[Buffer] = []
        self.steps: list[Step] = []
        self.arena = 0

    def input(self, *shape: int) -> Operand:
        self.inputs.append(Binding(f"x{len(self.inputs)}", DType.FLOAT32, shape))
        return self._operand("input", len(self.inputs) - 1, 0, shape)

    def output(self, *shape: int) -> Operand:
        self.outputs.append(Binding(f"y{len(self.outputs)}", DType.FLOAT32, shape))
        return self._operand("output", len(self.outputs) - 1, 0, shape)

    def constant(self, values: np.ndarray) -> Operand:
        self.constants.append(values)
        return self._operand("constant", len(self.constants) - 1, 0, values.shape)

    def temporary(self, *shape: int) -> Operand:
        offset = self.arena
        self.arena += -(-4 * int(np.prod(shape)) // 256) * 256
        return self._operand("arena", 0, offset, shape)

    def _operand(self, space: str, index: int, offset: int, shape: tuple[int, ...]) -> Operand:
        size = int(np.prod(shape))
        self.buffers.append(Buffer(space, index, offset, 4 * size))
        strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
        return Operand(len(self.buffers) - 1, 0, DType.FLOAT32, shape, strides)

    def step(self, family: str, *operands: Operand, number: int = 0, shared: int = 0) -> None:
        count = int(np.prod(operands[-1].shape))
        parameters = (count, number) if family == "add_number" else (count,)
        self._add(KernelSpec(family, (THREADS,)), operands, parameters, -(-count // THREADS), shared)

    def product(self, a: Operand, b: Operand, *rest: Operand, epilogue: str = "none") -> None:
        (m, k), n = a.shape, b.shape[1]
        variant = ("float32", "float32", "float32", False, False, epilogue)
        self._add(KernelSpec("cublaslt", variant), (a, b, *rest), (1, m, n, k, k, n, n, 0, 0, 0), 1, 0)

    def _add(
        self,
        kernel: KernelSpec,
        operands: tuple[Operand, ...],
        words: tuple[int, ...],
        tiles: int,
        shared: int,
    ) -> None:
        last = (len(operands) - 1,)
        self.steps.append(Step(kernel, operands, last, words, tiles, shared, 0, 0, 1e-6, ("node",)))

    def compiled(self) -> CompiledPlan:
        constants = tuple(Constant(f"c{n}", DType.FLOAT32, c.shape) for n, c in enumerate(self.constants))
        plan = ExecutionPlan(
            self.target,
            tuple(self.inputs),
            tuple(self.outputs),
            constants,
            tuple(self.buffers),
            tuple(self.steps),
            self.arena,
            self.arena,
            0,
        )
        return CompiledPlan(plan, tuple(self.constants))


def chain(target: Target, size: int = 300, steps: int = 3, first: int = 1) -> CompiledPlan:
    """y = x + first + (first + 1) + ..., through temporaries."""
    maker = PlanMaker(target)
    source, result = maker.input(size), maker.output(size)
    for number in range(steps):
        into = result if number == steps - 1 else maker.temporary(size)
        maker.step("add_number", source, into, number=first + number)
        source = into
    return maker.compiled()


def chained(values: np.ndarray, steps: int = 3, first: int = 1) -> np.ndarray:
    """What :func:`chain` computes."""
    return values + np.float32(sum(range(first, first + steps)))


def plus_constant(target: Target, constant: np.ndarray) -> CompiledPlan:
    """y = x + constant"""
    maker = PlanMaker(target)
    maker.step("add", maker.input(*constant.shape), maker.constant(constant), maker.output(*constant.shape))
    return maker.compiled()


class Bench:
    """A stand-in and the first device of it. ``options`` are the stand-in's."""

    def __init__(self, **options: Any) -> None:
        options = {"compile_source": str.encode, "load_kernel": load, **options}
        self.standin = StandIn(**options)
        self.api = self.standin.api()
        self.device = self.open()

    def open(self, ordinal: int = 0) -> CudaDevice:
        kernels = CudaKernelSet(lambda target: Selector(target), generate, lambda: "test kernels")
        with use_api(self.api):
            return open_cuda(ordinal, kernels, cache=False)

    @property
    def target(self) -> Target:
        return self.device.selector.target

    @property
    def counters(self) -> Any:
        return self.standin.counters

    def bind(
        self, compiled: CompiledPlan, *, limit: int | None = None, runs: int | None = None
    ) -> CudaExecutor:
        return self.device.bind(compiled, Budget(limit, runs=runs))

    def chain(self, *, runs: int | None = None, **options: int) -> CudaExecutor:
        return self.bind(chain(self.target, **options), runs=runs)

    def device_array(self, values: np.ndarray) -> Any:
        """A tensor on the device with these values."""
        array = self.device.allocate(values.shape, values.dtype, host=False)
        with array.device.active("a test"):
            self.standin.runtime.memcpy(array.pointer, values.ctypes.data, values.nbytes, 1)
        return array

    @property
    def blocks(self) -> list[str]:
        """Memory and handles that there are now, without what a device keeps as long as it is open."""
        return [
            text
            for text in self.standin.leaks()
            if not text.startswith(("module", "cuBLASLt handle")) and "import" not in text
        ]


@dataclass(frozen=True)
class Selector:
    """For plans that nobody selects kernels for."""

    target: Target

    def select(self, operation: Any, emit: Any) -> None:
        raise NotImplementedError

    def prefers(self, operation: Any) -> bool:
        raise NotImplementedError


@contextmanager
def no_violations(bench: Bench) -> Iterator[None]:
    yield
    assert bench.standin.violations == []


def run(executor: CudaExecutor, *inputs: Any) -> list[np.ndarray]:
    """One run into new NumPy arrays full of NaN."""
    outputs = [np.full(binding.shape, np.nan, np.float32) for binding in executor.plan.outputs]
    executor.run(inputs, outputs)
    return outputs


def values(size: int = 300, seed: int = 0) -> np.ndarray:
    """Whole numbers, whose sums are exact."""
    return np.random.default_rng(seed).integers(-1000, 1000, size).astype(np.float32)
