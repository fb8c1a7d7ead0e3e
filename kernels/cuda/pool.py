"""Pooling: selection and code.

A thread computes one output element, or, where windows are large and few, several threads share one: each
takes every so manieth tap, and the first of them puts their results together in order.
"""

from __future__ import annotations

import math
from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import Pool
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.kernels.cuda.conv_window import (
    count_taps,
    declare_window,
    find_taps,
    split,
    window_reach,
    window_words,
)
from onnxplan.kernels.cuda.expression_code import literal_of
from onnxplan.kernels.cuda.indexing import BLOCK_THREADS, index_type
from onnxplan.kernels.cuda.source import KernelSource, KernelText
from onnxplan.kernels.geometry import ceil_div, reach
from onnxplan.kernels.pool_places import place_strides
from onnxplan.kernels.scalar_cuda import compute_type, loaded, stored

FAMILY = "pool"

# Windows of so many taps are shared by threads, if there are fewer outputs than keep a multiprocessor busy.
TAPS_WORTH_SHARING = 64
MANY_TAPS = 1024
BUSY_THREADS = 2048


def select_pool(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the step of a Pool: ``max`` of floats and integers, ``average`` of floats, of any rank."""
    primitive = operation.primitive
    assert isinstance(primitive, Pool)
    x, y = operation.inputs[0], operation.outputs[0]
    if x.dtype.kind not in ("fiu" if primitive.kind == "max" else "f"):
        raise NotImplementedError(f"no CUDA kernel for {primitive.kind} pool of {x.dtype}")
    if y.size == 0:
        return
    views = (x, *operation.outputs)
    windows = window_words(x, y, primitive.kernel, primitive.strides, primitive.dilations, primitive.pads)
    places = place_strides(primitive, x)
    ends = primitive.count_padding or (0,) * len(windows)
    parameters = [y.size, y.shape[-1], math.prod(x.shape[1:-1])]
    for view in views:
        parameters += [view.strides[0], view.strides[-1]]
    for axis, window in enumerate(windows):
        steps = [view.strides[1 + axis] for view in views]
        parameters += [*window, *steps, places[axis], x.shape[1 + axis] + ends[axis]]
    taps = math.prod(primitive.kernel)
    lanes = _lanes(target, y.size, taps)
    index = index_type(max(y.size, taps, window_reach(x, windows), *map(reach, views[1:])), [])
    counted = primitive.count_padding is not None
    kind = "positions" if len(views) == 3 else "counted" if counted else primitive.kind
    emit.step(
        KernelSpec(FAMILY, (BLOCK_THREADS, kind, x.dtype.label, len(windows), lanes, index)),
        views,
        tuple(range(1, len(views))),
        tuple(parameters),
        tiles=ceil_div(y.size, BLOCK_THREADS // lanes),
        flops=y.size * taps,
        bytes_moved=sum(view.size * view.dtype.itemsize for view in views),
    )


def _lanes(target: Target, outputs: int, taps: int) -> int:
    """How many threads share a window."""
    if taps < TAPS_WORTH_SHARING or outputs >= BUSY_THREADS * target.threads:
        return 1
    return 32 if taps >= MANY_TAPS else 8


def build_pool(variant: Any, target: Target) -> KernelSource:
    """``variant`` is ``(threads, kind, element type, spatial axes, threads a window, index type)``.

    Kinds: ``max``, ``positions`` (of maxima, as a second output), ``average`` (over taps inside) and
    ``counted`` (over taps inside of the padded input). Operands: x, the outputs. Parameters: points, channels
    and positions of a channel; strides along images and channels of the operands; for each axis its window,
    the operands' strides, how far positions are apart, and the end of the padded input.
    """
    threads, kind, label, spatial, lanes, index = variant
    dtype = DType.from_label(label)
    kernel = KernelText(threads)
    operands = ["x", "y", "p"] if kind == "positions" else ["x", "y"]
    for name in operands:
        kernel.operand(name, DType.INT64 if name == "p" else dtype, written=name != "x")
    kernel.parameter("points", index)
    kernel.parameter("channels", index)
    kernel.parameter("plane")
    for name in operands:
        kernel.parameter(f"{name}_image", index)
        kernel.parameter(f"{name}_channel", index)
    axes = range(spatial)
    for axis in axes:
        declare_window(kernel, axis, index)
        for name in operands:
            kernel.parameter(f"{name}_step{axis}", index)
        kernel.parameter(f"place{axis}")
        kernel.parameter(f"end{axis}", index)
    code = _PoolCode(kind, dtype, spatial, lanes, index)
    shared = lanes > 1
    slots = threads // lanes
    names = ["image", *(f"o{axis}" for axis in axes), "channel"]
    kernel.line(
        f"const int lane = (int)threadIdx.x / {slots}, slot = (int)threadIdx.x % {slots};",
        f"{index} point = ({index})blockIdx.x * {slots} + slot;",
        "const bool live = point < points;",
        # All threads are needed at the barrier.
        "if (!live) point = points - 1;" if shared else "if (!live) return;",
        *split("point", names, [*(f"outputs{axis}" for axis in axes), "channels"], index),
        *(line for axis in axes for line in find_taps(axis, f"o{axis}", index)),
        f"const {index} x_start = image * x_image + channel * x_channel;",
        *code.begin(),
        *(code.shared_taps() if shared else code.nested_taps()),
    )
    if shared:
        kernel.line(*code.combine(threads, slots), "if (lane != 0 || !live) return;")
    for name in operands[1:]:
        along = " + ".join(f"o{axis} * {name}_step{axis}" for axis in axes)
        kernel.line(f"const {index} {name}_at = image * {name}_image + channel * {name}_channel + {along};")
    kernel.line(*code.finish())
    return kernel.source(FAMILY)


class _PoolCode:
    """The statements of one kind of pooling."""

    def __init__(self, kind: str, dtype: DType, spatial: int, lanes: int, index: str) -> None:
        self.kind, self.dtype, self.lanes, self.index = kind, dtype, lanes, index
        self.axes = range(spatial)
        self.type = compute_type(dtype)
        self.average = kind in ("average", "counted")
        self.positions = kind == "positions"

    def begin(self) -> list[str]:
        if self.average:
            return [f"{self.type} total = 0;"]
        if self.dtype.is_float:
            lowest: float = -math.inf
        else:
            lowest = -(1 << (8 * self.dtype.itemsize - 1)) if self.dtype.kind == "i" else 0
        lines = [f"{self.type} best = {literal_of(lowest, self.dtype)};", f"{self.index} winner = -1;"]
        return [*lines, "long long place = 0;"] if self.positions else lines

    def nested_taps(self) -> list[str]:
        """A loop for each axis over the taps inside."""
        lines = [f"{self.index} number = 0;"]
        for axis in self.axes:
            lines.append(
                f"for ({self.index} tap{axis} = first{axis}; tap{axis} < last{axis}; ++tap{axis}) {{"
            )
            lines += self._position(axis, f"tap{axis}")
        return [*lines, *self._tap(), "++number;", "}" * len(self.axes)]

    def shared_taps(self) -> list[str]:
        """One loop over this thread's part of the taps inside, which are numbered in row-major order."""
        index = self.index
        lines = [f"{index} inside = 1;"]
        for axis in self.axes:
            lines += [
                f"const {index} taps{axis} = last{axis} > first{axis} ? last{axis} - first{axis} : 0;",
                f"inside *= taps{axis};",
            ]
        lines += [
            f"for ({index} number = lane; number < inside; number += {self.lanes}) {{",
            f"{index} left = number;",
        ]
        for axis in reversed(self.axes):
            lines += [f"const {index} tap{axis} = left % taps{axis};", f"left /= taps{axis};"]
        for axis in self.axes:
            lines += self._position(axis, f"(first{axis} + tap{axis})")
        return [*lines, *self._tap(), "}"]

    def _position(self, axis: int, tap: str) -> list[str]:
        index, before = self.index, f"at{axis - 1}" if axis else "x_start"
        lines = [
            f"const {index} position{axis} = start{axis} + {tap} * dilation{axis};",
            f"const {index} at{axis} = {before} + position{axis} * x_step{axis};",
        ]
        if self.positions:
            known = f"here{axis - 1} + " if axis else ""
            lines.append(f"const long long here{axis} = {known}position{axis} * place{axis};")
        return lines

    def _tap(self) -> list[str]:
        last = self.axes[-1]
        lines = [f"const {self.type} value = {loaded(self.dtype, f'x[at{last}]')};"]
        if self.average:
            return [*lines, "total += value;"]
        better = "winner < 0 || value > best || (value != value && best == best)"
        taken = "best = value; winner = number;" + (f" place = here{last};" if self.positions else "")
        return [*lines, f"if ({better}) {{ {taken} }}"]

    def combine(self, threads: int, slots: int) -> list[str]:
        """Puts the results of all threads of a window together in the first of them."""
        value = "total" if self.average else "best"
        lines = [f"__shared__ {self.type} values[{threads}];", f"values[threadIdx.x] = {value};"]
        if not self.average:
            lines += [f"__shared__ {self.index} winners[{threads}];", "winners[threadIdx.x] = winner;"]
        if self.positions:
            lines += [f"__shared__ long long places[{threads}];", "places[threadIdx.x] = place;"]
        lines += [
            "__syncthreads();",
            f"if (lane == 0) for (int other = slot + {slots}; other < {threads}; other += {slots}) {{",
            f"const {self.type} value = values[other];",
        ]
        if self.average:
            return [*lines, "total += value;", "}"]
        taken = "best = value; winner = number;" + (" place = places[other];" if self.positions else "")
        return [
            *lines,
            f"const {self.index} number = winners[other];",
            "const bool nan = value != value, best_nan = best != best;",
            "const bool same = value == best || (nan && best_nan);",
            "const bool better = value > best || (nan && !best_nan) || (same && number < winner);",
            f"if (number >= 0 && (winner < 0 || better)) {{ {taken} }}",
            "}",
        ]

    def finish(self) -> list[str]:
        if not self.average:
            lines = [f"y[y_at] = {stored(self.dtype, 'best')};"]
            if self.positions:
                start = f"({compute_type(DType.INT64)})(image * channels + channel) * plane"
                lines.append(f"p[p_at] = {start} + (winner < 0 ? 0 : place);")
            return lines
        lines = [f"{self.type} count = 1;"]
        for axis in self.axes:
            taps = f"last{axis} > first{axis} ? last{axis} - first{axis} : 0"
            if self.kind == "counted":
                taps = count_taps(axis, f"end{axis}")
            lines.append(f"count *= ({self.type})({taps});")
        return [*lines, f"y[y_at] = {stored(self.dtype, 'total / count')};"]
