"""Composition of views: what a view of a result shows, told in the coordinates it was written in.

A written view (``source``) maps coordinates to positions in its storage, each to another one. A second view
of that storage maps coordinates of its own to positions. :func:`compose` answers, where strides can say it,
which coordinates of ``source`` each of them stands for: every axis of the second view, split where it crosses
several axes of the source, moves along one axis of the source.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from functools import cached_property

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import ExpressionBuilder, Instruction, constant
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.view import Layout, Shape, Storage, View


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of an axis: ``extent`` steps, each ``step`` along ``axis`` of the source (-1: along none)."""

    extent: int
    axis: int
    step: int


@dataclass(frozen=True)
class Composition:
    """``axes`` lists for each axis of the view its parts, outermost first; ``start`` are the source's
    coordinates at the view's origin."""

    axes: tuple[tuple[Part, ...], ...]
    start: Shape

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        return tuple(part for axis in self.axes for part in axis)

    @cached_property
    def shape(self) -> Shape:
        """The extents of the parts."""
        return tuple([part.extent for part in self.parts])

    @cached_property
    def is_split(self) -> bool:
        return any(len(axis) != 1 for axis in self.axes)

    @cached_property
    def is_identity(self) -> bool:
        """Does each axis run along the same axis of the source, from its first element on?"""
        along = [part.axis == number and part.step == 1 for number, part in enumerate(self.parts)]
        return all(along) and len(along) == len(self.start) and not any(self.start)

    @cached_property
    def is_injective(self) -> bool:
        """Do different coordinates stand for different elements?"""
        along: dict[int, list[tuple[int, int]]] = {}
        for part in self.parts:
            if part.extent == 1:
                continue
            if part.axis < 0:
                return False
            along.setdefault(part.axis, []).append((abs(part.step), part.extent))
        for parts in along.values():
            reach = 0
            for step, extent in sorted(parts):
                if step <= reach:
                    return False
                reach += step * (extent - 1)
        return True

    def pull(self, view: View) -> View:
        """``view``, given in the source's coordinates, in those of the parts."""
        own, shape = view.strides, self.shape
        if self.is_identity and view.shape == shape:
            return view
        offset = view.offset
        for position, stride in zip(self.start, own, strict=True):
            offset += position * stride
        strides = tuple([part.step * own[part.axis] if part.axis >= 0 else 0 for part in self.parts])
        return View(view.storage, offset, shape, strides)

    def refine(self, view: View) -> View:
        """``view``, given in the coordinates of the axes, in those of the parts."""
        if not self.is_split:
            return view
        shape: list[int] = []
        strides: list[int] = []
        for axis, stride in zip(self.axes, view.strides, strict=True):
            shape += [part.extent for part in axis]
            strides += refined_strides([part.extent for part in axis], stride)
        return View(view.storage, view.offset, tuple(shape), tuple(strides))

    def refine_result(self, view: View, reduced: tuple[int, ...]) -> View:
        """:meth:`refine` for an output that has extent 1 on the axes ``reduced``."""
        full = self.refine(view)
        shape = list(full.shape)
        position = 0
        for number, axis in enumerate(self.axes):
            if number in reduced:
                shape[position : position + len(axis)] = [1] * len(axis)
            position += len(axis)
        return View(view.storage, view.offset, tuple(shape), full.strides)

    def refine_axes(self, axes: tuple[int, ...]) -> tuple[int, ...]:
        """The numbers of the parts of ``axes``."""
        found: list[int] = []
        if not axes:
            return ()
        position = 0
        for number, axis in enumerate(self.axes):
            if number in axes:
                found += range(position, position + len(axis))
            position += len(axis)
        return tuple(found)

    def refined_index(self, builder: ExpressionBuilder, axis: int) -> int:
        """The instruction for the coordinate along ``axis`` in terms of the parts."""
        position = sum(len(parts) for parts in self.axes[:axis])
        terms = []
        factor = 1
        for offset, part in reversed(list(enumerate(self.axes[axis]))):
            terms.append((position + offset, factor))
            factor *= part.extent
        return _affine_index(builder, terms[::-1], 0)

    def pulled_index(self, builder: ExpressionBuilder, axis: int) -> int:
        """The instruction for the source's coordinate along ``axis`` in terms of the parts."""
        terms = [(position, part.step) for position, part in enumerate(self.parts) if part.axis == axis]
        return _affine_index(builder, terms, self.start[axis])


def _affine_index(builder: ExpressionBuilder, terms: list[tuple[int, int]], start: int) -> int:
    total: int | None = None
    for axis, factor in terms:
        term = builder.add(Instruction("index", (axis,), DType.INT64))
        if factor != 1:
            term = builder.add(
                Instruction("mul", (term, builder.add(constant(factor, DType.INT64))), DType.INT64)
            )
        total = term if total is None else builder.add(Instruction("add", (total, term), DType.INT64))
    if total is None:
        return builder.add(constant(start, DType.INT64))
    if start:
        total = builder.add(
            Instruction("add", (total, builder.add(constant(start, DType.INT64))), DType.INT64)
        )
    return total


def refined_strides(extents: list[int], stride: int) -> list[int]:
    """Strides of an axis of stride ``stride`` split into ``extents``, outermost first."""
    strides = []
    for extent in reversed(extents):
        strides.append(stride)
        stride *= extent
    return strides[::-1]


def same_layout(a: View, b: View) -> bool:
    """Do two views of one storage show the same elements at the same coordinates?"""
    if a.offset != b.offset or a.shape != b.shape:
        return False
    return _same_strides(a.shape, a.strides, b.strides)


def _same_strides(shape: Shape, a: Shape, b: Shape) -> bool:
    return a == b or all(n == 1 or own == other for n, own, other in zip(shape, a, b, strict=True))


def compose(source: View, view: View) -> Composition | None:
    """The coordinates of ``source`` that ``view``, of the same storage, shows, if strides can say it.

    ``view`` may show only a part of what ``source`` writes, some of it several times, in any order. ``None``
    too where it shows what ``source`` did not write, and where either is empty.
    """
    return _compose(source.shape, source.strides, view.shape, view.strides, view.offset - source.offset)


@functools.lru_cache(maxsize=4096)
def _compose(
    source: Shape, source_strides: Shape, shape: Shape, strides: Shape, distance: int
) -> Composition | None:
    """:func:`compose` for a view whose origin is ``distance`` elements behind that of the source."""
    if 0 in source or 0 in shape:
        return None
    if distance == 0 and source == shape and _same_strides(shape, source_strides, strides):
        return Composition(tuple((Part(n, axis, 1),) for axis, n in enumerate(shape)), (0,) * len(source))
    nested = _nested_axes(source, source_strides)
    if nested is None:
        return None
    low = distance
    for extent, stride in zip(shape, strides, strict=True):
        if stride < 0:
            low += (extent - 1) * stride
    start = _digits(source_strides, nested, low)
    if start is None:
        return None
    axes = []
    reach = list(start)
    for extent, stride in zip(shape, strides, strict=True):
        parts = _split(source, source_strides, nested, extent, abs(stride))
        if parts is None:
            return None
        for part in parts:
            if part.axis >= 0:
                reach[part.axis] += (part.extent - 1) * part.step
        if stride < 0:
            for number, part in enumerate(parts):
                if part.axis >= 0:
                    start[part.axis] += (part.extent - 1) * part.step
                    parts[number] = Part(part.extent, part.axis, -part.step)
        axes.append(tuple(parts))
    if any(position >= extent for position, extent in zip(reach, source, strict=True)):
        return None
    return Composition(tuple(axes), tuple(start))


def _nested_axes(shape: Shape, strides: Shape) -> list[int] | None:
    """Axes of extent above 1 by falling stride, if each stride spans all that the smaller ones reach."""
    axes = [axis for axis, extent in enumerate(shape) if extent != 1]
    axes.sort(key=lambda axis: -strides[axis])
    span = 1
    for axis in reversed(axes):
        if strides[axis] < span:
            return None
        span = strides[axis] * shape[axis]
    return axes


def _digits(strides: Shape, nested: list[int], distance: int) -> list[int] | None:
    """The source's coordinates at ``distance`` elements from its origin."""
    digits = [0] * len(strides)
    if distance < 0:
        return None
    for axis in nested:
        digits[axis], distance = divmod(distance, strides[axis])
    return None if distance else digits


def _split(shape: Shape, strides: Shape, nested: list[int], extent: int, stride: int) -> list[Part] | None:
    """The parts, outermost first, of an axis of ``extent`` steps of ``stride`` positions (not negative).

    ``shape`` and ``strides`` are the source's.
    """
    if extent == 1 or stride == 0:
        return [Part(extent, -1, 0)]
    parts: list[Part] = []
    # The innermost axis that one step can move along, and from there outwards.
    place = next((n for n, axis in enumerate(nested) if strides[axis] <= stride), None)
    while place is not None and place >= 0:
        axis = nested[place]
        step, rest = divmod(stride, strides[axis])
        if rest:
            return None
        available = shape[axis]
        if (extent - 1) * step < available:
            parts.append(Part(extent, axis, step))
            return parts[::-1]
        # The axis is crossed: what follows must be the next step of the axis around it.
        if available % step or extent % (available // step):
            return None
        inner = available // step
        if inner > 1:
            parts.append(Part(inner, axis, step))
        extent //= inner
        stride *= inner
        place -= 1
        if place >= 0 and strides[nested[place]] > stride:
            return None
    return None


def translate(view: View, source: View, target: View) -> View | None:
    """The view that shows ``target`` where ``view`` shows ``source``, or ``None`` if there is none.

    ``source`` and ``target`` have one shape; ``view`` is of the source's storage, the result of its shape.
    """
    if same_layout(source, view):
        return target if target.shape == view.shape else None
    if view.size == 0:
        return View(target.storage, target.offset, view.shape, view.strides) if target.size == 0 else None
    found = compose(source, view)
    return None if found is None else apply(found, view.shape, target)


def apply(composition: Composition, shape: Shape, target: View) -> View | None:
    """``target``, in the source's coordinates, as a view of ``shape``, that of the composed view."""
    pulled = composition.pull(target)
    if not composition.is_split:
        return pulled
    strides = []
    position = 0
    for parts in composition.axes:
        own = [(pulled.shape[n], pulled.strides[n]) for n in range(position, position + len(parts))]
        own = [(extent, stride) for extent, stride in own if extent != 1] or [(1, 0)]
        for (_, outer), (extent, inner) in itertools.pairwise(own):
            if outer != extent * inner:
                return None
        strides.append(own[-1][1])
        position += len(parts)
    return View(target.storage, pulled.offset, shape, tuple(strides))


def follow(read: View, output: View, views: Sequence[View]) -> tuple[Layout | None, ...] | None:
    """The layouts of ``views``, given in the coordinates of ``read``, in those of ``output`` of its storage.

    ``None`` for one that is no view there, or for all where strides cannot follow.
    """
    layouts = tuple([(view.offset, view.shape, view.strides) for view in views])
    if read == output and 0 not in read.shape:
        return layouts
    return _follow(read.layout, output.layout, layouts)


@functools.lru_cache(maxsize=4096)
def _follow(read: Layout, output: Layout, layouts: tuple[Layout, ...]) -> tuple[Layout | None, ...] | None:
    """:func:`follow` for layouts: programs ask the same for many of their operations."""
    storage = Storage(DType.UINT8, 0)
    found = compose(View(storage, *read), View(storage, *output))
    if found is None:
        return None
    moved = [apply(found, output[1], View(storage, *layout)) for layout in layouts]
    return tuple([None if view is None else view.layout for view in moved])


def covers(composition: Composition, source: Shape) -> bool:
    """Does the composed view show each element of a source of shape ``source`` exactly once?"""
    count = 1
    for axis in composition.axes:
        for part in axis:
            if part.axis < 0 and part.extent != 1:
                return False
            count *= part.extent
    return count == math.prod(source) and composition.is_injective
