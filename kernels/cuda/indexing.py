"""Finding the elements of strided operands from the number of a point."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxplan.kernels.cuda.source import KernelText
from onnxplan.kernels.geometry import Axis

BLOCK_THREADS = 256
NARROW_LIMIT = 1 << 31


def index_type(points: int, axes: Sequence[Axis]) -> str:
    """``int`` where it can count ``points`` (some blocks more) and all offsets, else ``long long``."""
    reach = max(
        (sum(abs(axis.strides[k]) * (axis.extent - 1) for axis in axes) for k in range(_operands(axes))),
        default=0,
    )
    return "int" if max(points, reach) < NARROW_LIMIT - (1 << 16) else "long long"


def _operands(axes: Sequence[Axis]) -> int:
    return len(axes[0].strides) if axes else 0


def axis_words(axes: Sequence[Axis]) -> list[int]:
    """The parameters that :func:`declare_axes` reads: of each axis its extent, how to divide by that, and
    strides in elements."""
    return [word for axis in axes for word in (axis.extent, divider(axis.extent), *axis.strides)]


def divider(extent: int) -> int:
    """How kernels divide numbers below 2**31 by ``extent``: a shift in the high 32 bits, a factor in the low.

    ``n / extent`` is the high word of ``2 * n * factor``, shifted right. Source: Granlund and Montgomery,
    *Division by Invariant Integers using Multiplication*, https://doi.org/10.1145/178243.178249. An extent
    that no number of 31 bits can be divided by without being 0 has no use for one.
    """
    if not 0 < extent < NARROW_LIMIT:
        return 0
    shift = (extent - 1).bit_length()
    return shift << 32 | -(-(1 << 31 + shift) // extent)


def points_of(axes: Sequence[Axis]) -> int:
    return math.prod(axis.extent for axis in axes)


def declare_axes(kernel: KernelText, name: str, rank: int, operands: int, index: str) -> None:
    """Declares the parameters of ``rank`` axes, outermost first: ``{name}_extent0``, ``{name}_divider0``,
    ``{name}_stride0_1``."""
    for axis in range(rank):
        kernel.parameter(f"{name}_extent{axis}", index)
        kernel.parameter(f"{name}_divider{axis}")
        for operand in range(operands):
            kernel.parameter(f"{name}_stride{axis}_{operand}", index)


def quotient_of(number: str, extent: str, divider: str, index: str) -> str:
    """``number / extent`` by its :func:`divider` where numbers are narrow, as integer division is slow."""
    if index != "int":
        return f"{number} / {extent}"
    return f"(int)(__umulhi(2u * (unsigned int){number}, (unsigned int){divider}) >> (int)({divider} >> 32))"


def offsets(
    name: str,
    rank: int,
    operands: Sequence[int],
    index: str,
    number: str,
    prefix: str,
    starts: Sequence[str] = (),
) -> list[str]:
    """Statements that split point ``number`` of the axes ``name`` and give offsets ``{prefix}{operand}``.

    ``operands`` are those that are wanted; ``starts`` (one for each of them) are added, 0 without.
    """
    begins = starts or ["0"] * len(operands)
    lines = [f"{index} {prefix}{operand} = {start};" for operand, start in zip(operands, begins, strict=True)]
    if not rank:
        return lines
    lines.append(f"{index} {prefix}rest = {number};")
    for axis in reversed(range(rank)):
        place = f"{prefix}rest"
        if axis:
            place = f"{prefix}place{axis}"
            quotient = quotient_of(f"{prefix}rest", f"{name}_extent{axis}", f"{name}_divider{axis}", index)
            lines.append(f"const {index} {prefix}quotient{axis} = {quotient};")
            lines.append(
                f"const {index} {place} = {prefix}rest - {prefix}quotient{axis} * {name}_extent{axis};"
            )
            lines.append(f"{prefix}rest = {prefix}quotient{axis};")
        lines += [f"{prefix}{operand} += {place} * {name}_stride{axis}_{operand};" for operand in operands]
    return lines
