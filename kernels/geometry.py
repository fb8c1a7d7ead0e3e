"""Iteration spaces of strided operands: dropping, ordering and merging axes. The same for all devices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.view import View

CARRIERS = {1: DType.UINT8, 2: DType.UINT16, 4: DType.UINT32, 8: DType.UINT64}


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: ``extent``, each operand's stride along it in elements, and is it reduced?"""

    extent: int
    strides: tuple[int, ...]
    reduced: bool = False


def axes_of(
    shape: Sequence[int], strides: Sequence[Sequence[int]], reduced: Iterable[int] = ()
) -> list[Axis]:
    """The axes of ``shape``; ``strides[operand][axis]`` in elements."""
    marked = set(reduced)
    return [
        Axis(extent, tuple(operand[axis] for operand in strides), axis in marked)
        for axis, extent in enumerate(shape)
    ]


def collapse(axes: Sequence[Axis], priority: Sequence[int]) -> list[Axis]:
    """The same iteration space with as few axes as possible, outermost first.

    Axes of extent 1 are dropped, the others ordered by stride (of the first operand of ``priority`` that
    tells two axes apart) and neighbours merged where all operands allow it.
    """
    ordered: list[Axis] = []
    for axis in axes:
        if axis.extent == 1:
            continue
        place = len(ordered)
        while place and _is_inside(ordered[place - 1], axis, priority):
            place -= 1
        ordered.insert(place, axis)
    merged: list[Axis] = []
    for axis in ordered:
        outer = merged[-1] if merged else None
        if outer is not None and all(
            a == b * axis.extent for a, b in zip(outer.strides, axis.strides, strict=True)
        ):
            merged[-1] = Axis(outer.extent * axis.extent, axis.strides, axis.reduced)
        else:
            merged.append(axis)
    return merged


def _is_inside(first: Axis, second: Axis, priority: Sequence[int]) -> bool:
    """Does ``first`` belong inside of ``second``, having the smaller stride?"""
    for operand in priority:
        a, b = abs(first.strides[operand]), abs(second.strides[operand])
        if a and b and a != b:
            return a < b
    return False


def flip_negative(views: Sequence[View], leaders: Sequence[int]) -> list[View]:
    """All views with those axes reversed along which the first ``leaders`` view that moves goes backwards."""
    result = list(views)
    for axis in range(views[0].rank):
        moving = [views[leader].strides[axis] for leader in leaders if views[leader].strides[axis]]
        if moving and moving[0] < 0:
            result = [_reverse(view, axis) for view in result]
    return result


def _reverse(view: View, axis: int) -> View:
    extent = view.shape[axis]
    if extent <= 1:
        return view
    return view.slice(axis, extent - 1, extent, -1)


def rank_class(rank: int) -> int:
    """The rank that code is compiled for: 0, 1, 2, 4, 8, ..."""
    return rank if rank <= 2 else 1 << (rank - 1).bit_length()


def pad_axes(axes: Sequence[Axis], operands: int) -> list[Axis]:
    """With axes of extent 1 in front, up to the rank class."""
    missing = rank_class(len(axes)) - len(axes)
    return [Axis(1, (0,) * operands)] * missing + list(axes)


def unique_bytes(view: View) -> int:
    """Bytes that reading all of the view touches."""
    touched = math.prod(
        extent for extent, stride in zip(view.shape, view.strides, strict=True) if stride or not extent
    )
    return touched * view.dtype.itemsize


def reach(view: View) -> int:
    """The largest distance between elements of a view, in elements."""
    return sum(abs(s) * (n - 1) for n, s in zip(view.shape, view.strides, strict=True) if n)


def axis_parameters(axes: Sequence[Axis], sizes: Sequence[int]) -> list[int]:
    """For each axis its extent and the operands' strides in bytes."""
    parameters: list[int] = []
    for axis in axes:
        parameters += [axis.extent, *(s * size for s, size in zip(axis.strides, sizes, strict=True))]
    return parameters


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def in_place_pairs(inputs: Sequence[View], outputs: Sequence[View]) -> tuple[tuple[int, int], ...]:
    """Operand pairs (output, input) of equal geometry and element size; inputs are the first operands."""
    return tuple(
        (len(inputs) + number, position)
        for number, output in enumerate(outputs)
        for position, source in enumerate(inputs)
        if _same_places(source, output) and sum(view.storage is source.storage for view in inputs) == 1
    )


def _same_places(source: View, output: View) -> bool:
    """Does each point have an element of its own, at the same distance from the first one in both views?"""
    repeated = any(n > 1 and s == 0 for n, s in zip(source.shape, source.strides, strict=True))
    same = source.shape == output.shape and source.strides == output.strides
    return same and not repeated and source.dtype.itemsize == output.dtype.itemsize


def carrier(dtype: DType) -> tuple[DType, int]:
    """The unsigned integer that copies move elements as, and how many make an element."""
    if dtype is DType.STRING:
        raise NotImplementedError("no kernel for copy of string")
    return CARRIERS.get(dtype.itemsize, DType.UINT64), max(1, dtype.itemsize // 8)
