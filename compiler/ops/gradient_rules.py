"""Adjoints of primitives: from those of what an operation writes to those of what it reads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.derivatives import adjoint_expression
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import identity
from onnxplan.compiler.ops.common import scalar_map
from onnxplan.compiler.primitives import Conv, Gather, MapReduce, MatMul, Scatter
from onnxplan.compiler.program import Operation
from onnxplan.compiler.trace import Scalar, cast, select
from onnxplan.compiler.view import Storage, View


class Adjoints:
    """The derivatives of one result by the elements of storages, each laid out as its storage is.

    ``active`` are the storages whose adjoints are asked for.
    """

    def __init__(self, b: Builder, active: Iterable[Storage]) -> None:
        self.b = b
        self.active = set(active)
        self._known: dict[Storage, View] = {}

    def at(self, view: View) -> View | None:
        """The adjoints of the elements of ``view``; ``None`` where the result does not depend on them."""
        known = self._known.get(view.storage)
        if known is None:
            return None
        return View(known.storage, known.offset + view.offset, view.shape, view.strides)

    def add(self, view: View, adjoint: View) -> None:
        """Adds ``adjoint``, of the shape of ``view``, to those of its elements, which may be repeated."""
        b, size = self.b, view.storage.size
        repeated = tuple(
            axis for axis in range(view.rank) if view.strides[axis] == 0 and view.shape[axis] > 1
        )
        if repeated:
            adjoint = b.reduce("sum", adjoint, repeated, keepdims=True)
            for axis in repeated:
                view = view.slice(axis, 0, 1)
        if view.size == 0:
            return
        adjoint = b.cast(adjoint, view.dtype)
        if view.covers_storage:
            part = b.new(view.dtype, (size,))
            b.copy_into(adjoint, View(part.storage, view.offset, view.shape, view.strides))
        else:
            places = np.full(view.shape, view.offset, np.int64)
            for axis, (extent, stride) in enumerate(zip(view.shape, view.strides, strict=True)):
                places += (stride * np.arange(extent)).reshape(-1, *(1,) * (view.rank - axis - 1))
            part = scattered(b, size, b.constant(places.reshape(-1)), b.reshape(adjoint, (view.size, 1)))
            part = b.reshape(part, (size,))
        known = self._known.get(view.storage)
        self._known[view.storage] = part if known is None else b.scalar("add", known, part)

    def propagate(self, operations: Iterable[Operation]) -> None:
        """Goes back through ``operations``; raises ``ValueError`` where one of them has no rule."""
        for operation in reversed(list(operations)):
            if any(view.storage in self._known for view in operation.outputs):
                rule = _RULES.get(type(operation.primitive))
                if rule is None:
                    raise ValueError(f"there is no gradient of {operation.primitive.name}")
                rule(self, operation)


def scattered(b: Builder, size: int, places: View, rows: View) -> View:
    """``(size, N)`` with the sums of ``rows (K, N)`` at ``places (K)``, zero elsewhere."""
    zeros = b.constant(0.0, rows.dtype).expand((size, rows.shape[1]))
    return b.emit(Scatter("add"), [zeros, places, rows], [b.new(rows.dtype, zeros.shape)])[0]


def _map(adjoints: Adjoints, operation: Operation) -> None:
    primitive = operation.primitive
    assert isinstance(primitive, MapReduce)
    given = {number: adjoints.at(view) for number, view in enumerate(operation.outputs)}
    outputs = tuple(number for number, view in given.items() if view is not None)
    wanted = tuple(number for number, view in enumerate(operation.inputs) if view.storage in adjoints.active)
    expression, reads, places = adjoint_expression(primitive.expression, outputs, wanted)
    count = primitive.expression.input_count
    operands = [*operation.inputs[:count], *(given[number] for number in outputs)]
    views = [view.expand(primitive.shape) for number in reads if (view := operands[number]) is not None]
    results: Sequence[View] = views
    if expression.instructions and expression != identity(expression.dtypes[0]):
        results = adjoints.b.compute(expression, views, primitive.axes, primitive.shape)
    for number, place in places.items():
        adjoints.add(operation.inputs[number], results[place].expand(primitive.shape))


def _product(adjoints: Adjoints, operation: Operation) -> None:
    a, c = operation.inputs
    given = adjoints.at(operation.outputs[0])
    assert given is not None
    turned = (*range(a.rank - 2), a.rank - 1, a.rank - 2)
    if a.storage in adjoints.active:
        adjoints.add(a, adjoints.b.matmul(given, c.transpose(turned), a.dtype))
    if c.storage in adjoints.active:
        adjoints.add(c, adjoints.b.matmul(a.transpose(turned), given, c.dtype))


def _gather(adjoints: Adjoints, operation: Operation) -> None:
    primitive = operation.primitive
    assert isinstance(primitive, Gather)
    data, indices = operation.inputs
    given = adjoints.at(operation.outputs[0])
    if given is None or data.storage not in adjoints.active:
        return
    b, axis, extent = adjoints.b, primitive.axis, data.shape[primitive.axis]
    places = b.reshape(scalar_map(b, _place, indices, parameters=(extent,)), (indices.size,))
    picked = range(axis, axis + indices.rank)
    others = [other for other in range(given.rank) if other not in picked]
    rest = tuple(given.shape[other] for other in others)
    rows = b.reshape(given.transpose((*picked, *others)), (indices.size, math.prod(rest)))
    table = b.reshape(scattered(b, extent, places, rows), (extent, *rest))
    adjoints.add(data, table.transpose((*range(1, axis + 1), 0, *range(axis + 1, data.rank))))


def _place(*operands: Any) -> Scalar:
    found, extent = operands
    found = cast(found, DType.INT64)
    return select(found < 0, found + extent, found)


def _convolution(adjoints: Adjoints, operation: Operation) -> None:
    """Tap by tap: each is one product of the positions that it reads and the channels of a group."""
    primitive = operation.primitive
    assert isinstance(primitive, Conv)
    b, (x, w) = adjoints.b, operation.inputs
    given = adjoints.at(operation.outputs[0])
    assert given is not None
    depth, width = w.shape[-2], w.shape[-1] // primitive.groups
    for tap in itertools.product(*map(range, w.shape[:-2])):
        read, written, weights = x, given, w
        for axis, place in enumerate(tap):
            stride = primitive.strides[axis]
            start = place * primitive.dilations[axis] - primitive.pads[axis]
            first = max(-(start // stride), 0)
            count = max(min(given.shape[1 + axis], -((start - x.shape[1 + axis]) // stride)) - first, 0)
            read = read.slice(1 + axis, start + first * stride, count, stride)
            written = written.slice(1 + axis, first, count)
            weights = weights.slice(axis, place, 1)
        if not written.size:
            continue
        weights = weights.squeeze(tuple(range(len(tap))))
        for group in range(primitive.groups):
            inner = read.slice(x.rank - 1, group * depth, depth)
            outer = written.slice(x.rank - 1, group * width, width)
            matrix = weights.slice(1, group * width, width)
            rows = b.reshape(outer, (outer.size // width, width))
            if x.storage in adjoints.active:
                product = b.matmul(rows, matrix.transpose((1, 0)), x.dtype)
                adjoints.add(inner, b.reshape(product, inner.shape))
            if w.storage in adjoints.active:
                columns = b.reshape(inner, (rows.shape[0], depth)).transpose((1, 0))
                adjoints.add(matrix, b.matmul(columns, rows, w.dtype))


_RULES: dict[type, Callable[[Adjoints, Operation], None]] = {
    MapReduce: _map,
    MatMul: _product,
    Gather: _gather,
    Conv: _convolution,
}
