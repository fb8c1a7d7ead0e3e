"""What a graph of a convolution means, where the stand-in's cuDNN takes it, and its result by NumPy."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from standin_cudnn_launch import DTYPES, Tensor
from standin_cudnn_rules import APPLY, CONVOLVE
from standin_products import COMPUTE_32F, COMPUTE_FAST_TF32, _operand

FLOAT, CROSS_CORRELATION, ADD, RELU = 0, 1, 0, 100
TENSOR_CORE = 0
"""The numerical note of matrix instructions."""


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
    tensor_cores: bool = False

    counter: ClassVar[str] = "convolutions"
    label: ClassVar[str] = "a cuDNN convolution"
    form: ClassVar[str] = "convolution"
    scalars: ClassVar[tuple[Tensor, ...]] = ()

    @property
    def output(self) -> Tensor:
        return self.y

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.x, self.w, *(tensor for _, tensor in self.chain if tensor is not None))

    def by(self, notes: tuple[int, ...]) -> Problem:
        """The problem as an engine with these notes computes it."""
        return replace(self, tensor_cores=TENSOR_CORE in notes)

    def result(self, tensors: Mapping[int, np.ndarray], scalars: Mapping[int, float]) -> np.ndarray:
        return convolve(self, tensors)


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


def convolve(problem: Problem, tensors: Mapping[int, np.ndarray]) -> np.ndarray:
    """The result; matrix instructions round factors of float32 to TF32, sums are float32."""
    compute = COMPUTE_FAST_TF32 if problem.x.type == FLOAT and problem.tensor_cores else COMPUTE_32F
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
