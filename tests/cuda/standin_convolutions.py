"""What an operation graph of cuDNN's means, where the stand-in takes it, and its result with NumPy."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
from standin_errors import StrictError
from standin_memory import POISON, MemoryMap
from standin_order import READ, WRITE, Access
from standin_products import COMPUTE_32F, COMPUTE_FAST_TF32, _operand
from standin_streams import Busy, Run

DTYPES: dict[int, Any] = {0: np.float32, 2: np.float16, 9: ml_dtypes.bfloat16}
FLOAT, CROSS_CORRELATION, ADD, RELU = 0, 1, 0, 100
CONVOLVE, APPLY = 10, 13


@dataclass(frozen=True)
class Tensor:
    """A tensor descriptor."""

    number: int
    type: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    alignment: int
    virtual: bool

    @staticmethod
    def of(node: Any) -> Tensor:
        values = node.values
        virtual = bool(values.get(907, [False])[0])
        return Tensor(
            node.one(906), node.one(901), tuple(values[902]), tuple(values[903]), node.one(900), virtual
        )

    @property
    def nbytes(self) -> int:
        """Bytes from the first to the last element, both included."""
        last = sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        return (last + 1) * np.dtype(DTYPES[self.type]).itemsize

    def view(self, address: int) -> np.ndarray:
        dtype = np.dtype(DTYPES[self.type])
        flat = np.frombuffer((ctypes.c_char * self.nbytes).from_address(address), dtype)
        return np.lib.stride_tricks.as_strided(flat, self.shape, [s * dtype.itemsize for s in self.strides])


@dataclass(frozen=True)
class Problem:
    """A convolution and what is done to its sums: ``("add", tensor)`` and ``("relu", None)``, in order."""

    x: Tensor
    w: Tensor
    y: Tensor
    chain: tuple[tuple[str, Tensor | None], ...]
    dilations: tuple[int, ...]
    strides: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.x, self.w, *(tensor for _, tensor in self.chain if tensor is not None))


def problem_of(operations: Sequence[Any]) -> Problem:
    """The problem of finalised operations; raises ``ValueError`` for what the stand-in's engines lack."""
    first, *rest = operations
    if first.kind != CONVOLVE or any(operation.kind != APPLY for operation in rest):
        raise ValueError("the graph is no convolution with pointwise operations behind it")
    if (first.one(700), first.one(701)) != (1.0, 0.0):
        raise ValueError("alpha and beta are not 1 and 0")
    convolution = first.one(702)
    if convolution.one(100) != FLOAT or convolution.one(101) != CROSS_CORRELATION:
        raise ValueError("no cross-correlation with sums in float32")
    x, w, value = (Tensor.of(first.one(number)) for number in (704, 703, 705))
    result = value
    seen = [x, w]
    chain: list[tuple[str, Tensor | None]] = []
    for operation in rest:
        pointwise = operation.one(750)
        if Tensor.of(operation.one(751)) != value or not value.virtual or value.type != FLOAT:
            raise ValueError("operations are not joined by virtual tensors of float32")
        if pointwise.one(1) != FLOAT:
            raise ValueError("pointwise operations that are not computed in float32")
        if pointwise.one(0) == ADD and 752 in operation.values:
            second = Tensor.of(operation.one(752))
            if any(a not in (1, b) for a, b in zip(second.shape, result.shape, strict=True)):
                raise ValueError(f"a tensor {second.shape} is added to {result.shape}")
            chain.append(("add", second))
            seen.append(second)
        elif pointwise.one(0) == RELU and 752 not in operation.values:
            chain.append(("relu", None))
        else:
            raise ValueError(f"pointwise operation {pointwise.one(0)}, or too few or many operands for it")
        value = Tensor.of(operation.one(753))
        if value.shape != result.shape:
            raise ValueError("pointwise results of another shape")
    problem = Problem(
        x,
        w,
        value,
        tuple(chain),
        *(tuple(convolution.values[number]) for number in (102, 103, 105, 104)),
    )
    _check(problem, [*seen, value])
    return problem


def _check(problem: Problem, real: Sequence[Tensor]) -> None:
    x, w, y = problem.x, problem.w, problem.y
    axes = len(problem.strides)
    if len({tensor.number for tensor in real}) != len(real):
        raise ValueError("two tensors have the same number")
    if any(tensor.virtual for tensor in real) or len({tensor.type for tensor in real}) != 1:
        raise ValueError("tensors in memory that are virtual, or of several types")
    if any(len(tensor.shape) != axes + 2 for tensor in real) or axes not in (2, 3):
        raise ValueError("tensors do not have two or three axes of places")
    # Matrix instructions read and write neighbouring channels, 16 bytes at a time.
    size = np.dtype(DTYPES[x.type]).itemsize
    for tensor in (x, w, y):
        if tensor.strides[1] != 1 or tensor.shape[1] * size % 4:
            raise ValueError("tensors are not channels last, or have odd channels")
    if w.strides != _packed_last(w.shape):
        raise ValueError("the filter is not packed")
    if x.shape[1] % w.shape[1] or w.shape[0] % (x.shape[1] // w.shape[1]):
        raise ValueError("channels are no multiple of those of a group")
    extents = [
        (n + before + after - (taps - 1) * dilation - 1) // stride + 1
        for n, before, after, taps, dilation, stride in zip(
            x.shape[2:], problem.before, problem.after, w.shape[2:], problem.dilations, problem.strides,
            strict=True,
        )
    ]  # fmt: skip
    if y.shape != (x.shape[0], w.shape[0], *extents):
        raise ValueError(f"the result is {(x.shape[0], w.shape[0], *extents)}, not {y.shape}")


def _packed_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [0] * len(shape), 1
    for axis in (1, *reversed(range(2, len(shape))), 0):
        strides[axis] = step
        step *= shape[axis]
    return tuple(strides)


@dataclass(frozen=True)
class ConvolutionLaunch:
    """A convolution with addresses, as work for a stream."""

    problem: Problem
    addresses: Mapping[int, int]
    workspace: int
    workspace_bytes: int
    accesses: tuple[Access, ...]

    label = "a cuDNN convolution"

    def widened(self, accesses: tuple[Access, ...]) -> ConvolutionLaunch:
        return replace(self, accesses=accesses)

    def issue(self, busy: Busy) -> Run:
        return self._run

    def _run(self) -> None:
        if self.workspace_bytes:
            ctypes.memset(self.workspace, POISON, self.workspace_bytes)
        tensors = {
            tensor.number: tensor.view(self.addresses[tensor.number]) for tensor in self.problem.inputs
        }
        y = self.problem.y
        y.view(self.addresses[y.number])[...] = convolve(self.problem, tensors)


def convolve(problem: Problem, tensors: Mapping[int, np.ndarray]) -> np.ndarray:
    """The result; factors of float32 are rounded to TF32, sums are float32."""
    compute = COMPUTE_FAST_TF32 if problem.x.type == FLOAT else COMPUTE_32F
    x, w = (_operand(compute, tensors[t.number]).astype(np.float64) for t in (problem.x, problem.w))
    pads = [(0, 0), (0, 0), *zip(problem.before, problem.after, strict=True)]
    x = np.pad(x, pads)
    groups = x.shape[1] // w.shape[1]
    places = problem.y.shape[2:]
    total = np.zeros((x.shape[0], groups, w.shape[0] // groups, *places))
    grouped = w.reshape(groups, -1, *w.shape[1:])
    with np.errstate(all="ignore"):
        for tap in itertools.product(*map(range, w.shape[2:])):
            window = tuple(
                slice(t * d, t * d + (n - 1) * s + 1, s)
                for t, d, n, s in zip(tap, problem.dilations, places, problem.strides, strict=True)
            )
            read = x[(slice(None), slice(None), *window)].reshape(x.shape[0], groups, w.shape[1], *places)
            taps = grouped[(slice(None), slice(None), slice(None), *tap)]
            total += np.einsum("ngc...,gkc->ngk...", read, taps)
        value = total.reshape(problem.y.shape).astype(np.float32)
        for _, tensor in problem.chain:
            if tensor is not None:
                value = value + tensors[tensor.number].astype(np.float32)
            else:
                # Nothing is promised for NaN.
                value = np.where(value > 0, value, np.float32(0))
        return value.astype(DTYPES[problem.y.type])


def launch(
    memory: MemoryMap, problem: Problem, addresses: Mapping[int, int], workspace: int, workspace_bytes: int
) -> ConvolutionLaunch:
    """A checked launch; raises :class:`StrictError`."""
    tensors = (*problem.inputs, problem.y)
    if {tensor.number for tensor in tensors} != set(addresses):
        raise StrictError("a variant pack of cuDNN does not have the tensors of the graph")
    label = ConvolutionLaunch.label
    accesses = []
    for tensor in tensors:
        address = addresses[tensor.number] or 0
        if address % tensor.alignment:
            raise StrictError(f"a tensor of {label} at {address:#x} is no multiple of {tensor.alignment}")
        mode = WRITE if tensor is problem.y else READ
        accesses.append(Access(address, address + tensor.nbytes, mode))
    if workspace_bytes:
        if not workspace or workspace % 16:
            raise StrictError(f"the workspace of {label} at {workspace:#x} is no multiple of 16")
        accesses.append(Access(workspace, workspace + workspace_bytes, WRITE))
    for access in accesses:
        if memory.at(access.start, access.end - access.start, label).kind != "device":
            raise StrictError(f"{label} uses memory that is not the device's")
    y = problem.y.view(addresses[problem.y.number])
    for tensor in problem.inputs:
        if np.shares_memory(tensor.view(addresses[tensor.number]), y):
            raise StrictError(f"an input and the result of {label} share elements")
    return ConvolutionLaunch(problem, dict(addresses), workspace, workspace_bytes, tuple(accesses))
