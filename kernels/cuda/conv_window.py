"""CUDA C about windows: the coordinates of an output element, and the taps that lie inside of the input."""

from __future__ import annotations

from collections.abc import Sequence

from onnxplan.compiler.view import View
from onnxplan.kernels.cuda.source import KernelText

WINDOW_WORDS = ("outputs", "extent", "kernel", "step", "dilation", "pad")

# A thread counts on beyond the last tap by no more than the depth of a slice.
BEYOND = 32


def declare_window(kernel: KernelText, axis: int, index: str) -> None:
    """The parameters of spatial axis ``axis``: ``outputs0``, ``extent0``, ..."""
    for name in WINDOW_WORDS:
        kernel.parameter(f"{name}{axis}", index)


def window_words(
    x: View,
    y: View,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
) -> list[list[int]]:
    """For each spatial axis the values of :func:`declare_window`'s parameters."""
    columns = (y.shape[1:-1], x.shape[1:-1], kernel, strides, dilations, pads)
    return [list(words) for words in zip(*columns, strict=True)]


def window_reach(x: View, words: Sequence[Sequence[int]]) -> int:
    """The largest offset from the beginning of ``x``, in elements, that finding taps may come by.

    That includes taps outside of ``x``, which are left out only then, and some more than there are.
    """
    total = abs(x.strides[0]) * max(0, x.shape[0] - 1) + abs(x.strides[-1]) * max(0, x.shape[-1] - 1)
    for (outputs, extent, kernel, step, dilation, pad), stride in zip(words, x.strides[1:-1], strict=True):
        position = max(extent, outputs * step + (kernel + BEYOND) * dilation) + abs(pad)
        total += max(1, abs(stride)) * position
    return total


def split(number: str, names: Sequence[str], extents: Sequence[str], index: str) -> list[str]:
    """Declares the coordinates ``names`` of element ``number``; ``extents`` are of all but the first."""
    lines = [f"{index} rest = {number};"]
    for name, extent in zip(reversed(names[1:]), reversed(extents), strict=True):
        lines += [
            f"const {index} {name}_quotient = rest / {extent};",
            f"const {index} {name} = rest - {name}_quotient * {extent};",
            f"rest = {name}_quotient;",
        ]
    return [*lines, f"const {index} {names[0]} = rest;"]


def find_taps(axis: int, output: str, index: str) -> list[str]:
    """Declares where tap 0 of an output position lies, ``start0``, and the range ``first0 .. last0`` of taps
    inside."""
    return [
        f"const {index} start{axis} = {output} * step{axis} - pad{axis};",
        f"const {index} first{axis} = start{axis} < 0 ? {taps_within(axis, f'-start{axis}')} : 0;",
        f"const {index} last{axis} = {count_taps(axis, f'extent{axis}')};",
    ]


def count_taps(axis: int, limit: str) -> str:
    """How many of all taps lie below position ``limit``."""
    within = taps_within(axis, f"({limit} - start{axis})")
    return (
        f"{limit} <= start{axis} ? 0 : "
        f"{limit} - start{axis} > (kernel{axis} - 1) * dilation{axis} ? kernel{axis} : {within}"
    )


def taps_within(axis: int, length: str) -> str:
    """How many taps begin within ``length`` positions."""
    return f"({length} + dilation{axis} - 1) / dilation{axis}"


def row_origins(count: int, line: str, apart: int, spatial: int, index: str) -> list[str]:
    """Declares for the rows ``row_first + line + i * apart`` where tap 0 lies: ``origin0[i]`` along an axis,
    and ``left_offset[i]``. Rows beyond the last one repeat it."""
    names = ", ".join(f"origin{axis}[{count}]" for axis in range(spatial))
    lines = [
        f"{index} left_offset[{count}], {names};",
        "#pragma unroll",
        f"for (int i = 0; i < {count}; ++i) {{",
        f"{index} at = row_first + {line} + i * {apart};",
        "at = at < rows ? at : rows - 1;",
        "left_offset[i] = left_start;",
    ]
    for axis in reversed(range(spatial)):
        lines += [
            f"const {index} quotient{axis} = at / outputs{axis};",
            f"origin{axis}[i] = (at - quotient{axis} * outputs{axis}) * step{axis} - pad{axis};",
            f"left_offset[i] += origin{axis}[i] * stride{axis};",
            f"at = quotient{axis};",
        ]
    return [*lines, "left_offset[i] += at * image_stride;", "}"]


def first_taps(spatial: int, index: str) -> list[str]:
    """Declares the channel and the taps that a thread begins with, at ``depth_first + left_depth``."""
    lines = [
        f"{index} channel = depth_first + left_depth;",
        f"{index} tap0 = channel / channels;",
        "channel -= tap0 * channels;",
    ]
    for axis in reversed(range(1, spatial)):
        lines += [f"{index} tap{axis} = tap0 % kernel{axis};", f"tap0 /= kernel{axis};"]
    return lines


def next_tap(spatial: int) -> list[str]:
    """Counts the tap on, the last axis first."""
    lines = ["++tap0;"]
    for axis in range(1, spatial):
        lines = [f"if (++tap{axis} == kernel{axis}) {{", f"tap{axis} = 0;", *lines, "}"]
    return lines


def inside_taps(spatial: int, index: str) -> tuple[list[str], str, str]:
    """Statements that declare how far the tap moves from tap 0, the distance in elements without that of
    channels, and whether row ``i`` has the tap inside of the input."""
    axes = range(spatial)
    moved = [f"const {index} moved{axis} = tap{axis} * dilation{axis};" for axis in axes]
    distance = " + ".join(f"moved{axis} * stride{axis}" for axis in axes)
    unsigned = "unsigned int" if index == "int" else "unsigned long long"
    inside = " && ".join(
        f"({unsigned})(origin{axis}[i] + moved{axis}) < ({unsigned})extent{axis}" for axis in axes
    )
    return moved, distance, inside
