"""What each primitive demands of the shapes and types of its operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.primitives import (
    ArgReduce,
    Attention,
    BlockMatMul,
    Conv,
    Gather,
    GatherElements,
    GatherReduce,
    MapReduce,
    MatMul,
    Pool,
    Primitive,
    Product,
    Recurrent,
    Reinterpret,
    Resample,
    ResamplePlane,
    Scan,
    Scatter,
    Sort,
    SuppressNonMaximum,
    product_operands,
)
from onnxplan.compiler.program import Operation
from onnxplan.compiler.scalar import WIDE_FLOATS
from onnxplan.compiler.verify_expression import check_expression, demand, fail
from onnxplan.compiler.view import Shape, View


def check_operation(operation: Operation) -> None:
    """Raises :class:`MalformedError` unless the operands fit the primitive."""
    check = _CHECKS.get(type(operation.primitive))
    if check is None:
        fail(f"primitive {operation.primitive.name} has no check")
    check(operation.primitive, operation.inputs, operation.outputs)


def _expect(view: View, shape: Shape, dtype: DType | None, what: str) -> None:
    if view.shape != shape:
        fail(f"{what} has shape {view.shape}, not {shape}")
    if dtype is not None and view.dtype is not dtype:
        fail(f"{what} is {view.dtype}, not {dtype}")


def _count(views: Sequence[View], low: int, high: int, what: str) -> None:
    if not low <= len(views) <= high:
        fail(f"{len(views)} {what}, not {low}" + (f" to {high}" if high > low else ""))


def _axis(axis: int, view: View) -> None:
    demand(0 <= axis < view.rank, f"axis {axis} of rank {view.rank}")


def _map_reduce(primitive: MapReduce, inputs: Sequence[View], outputs: Sequence[View]) -> None:
    expression, shape, axes = primitive.expression, primitive.shape, primitive.axes
    check_expression(expression, [view.dtype for view in inputs], len(shape), reductions=True)
    if len(set(axes)) != len(axes) or any(not 0 <= axis < len(shape) for axis in axes):
        fail(f"reduced axes {axes} of rank {len(shape)}")
    for number, view in enumerate(inputs):
        if view.shape != shape:
            fail(f"input {number} has shape {view.shape}, not {shape}")
    _count(outputs, len(expression.outputs), len(expression.outputs), "outputs")
    reduced = expression.reduced() if axes else ()
    short = tuple(1 if axis in axes else extent for axis, extent in enumerate(shape))
    for number, (view, position) in enumerate(zip(outputs, expression.outputs, strict=True)):
        dtype = expression.instructions[position].dtype
        _expect(view, short if axes and reduced[position] else shape, dtype, f"output {number}")


def _reinterpret(primitive: Reinterpret, inputs: Sequence[View], outputs: Sequence[View]) -> None:
    _count(inputs, 1, 1, "inputs")
    _count(outputs, 1, 1, "outputs")
    source, target = inputs[0].dtype, outputs[0].dtype
    demand(source.kind != "s" and target.kind != "s", f"{source} as {target}")
    demand(source.itemsize == target.itemsize, f"{source} as {target}, which differ in size")
    _expect(outputs[0], inputs[0].shape, None, "output 0")


def _epilogue(primitive: Product, inputs: Sequence[View], outputs: Sequence[View], shape: Shape) -> None:
    if primitive.accumulator.kind not in "fiu":
        fail(f"sums in {primitive.accumulator}")
    operands = product_operands(primitive)
    if primitive.epilogue is None:
        _count(inputs, operands, operands, "inputs without epilogue")
        _count(outputs, 1, 1, "outputs")
        _expect(outputs[0], shape, None, "output 0")
        return
    types = [primitive.accumulator, *(view.dtype for view in inputs[operands:])]
    check_expression(primitive.epilogue, types, len(shape), reductions=False)
    for number, view in enumerate(inputs[operands:]):
        _expect(view, shape, None, f"extra {number}")
    results = primitive.epilogue.dtypes
    _count(outputs, len(results), len(results), "outputs")
    for number, (view, dtype) in enumerate(zip(outputs, results, strict=True)):
        _expect(view, shape, dtype, f"output {number}")


def _matmul(primitive: MatMul, inputs: Sequence[View], outputs: Sequence[View]) -> None:
    if len(inputs) < 2:
        fail(f"{len(inputs)} inputs, not 2 or more")
    a, b = inputs[:2]
    if a.rank < 2:
        fail(f"input 0 has rank {a.rank}")
    _expect(b, (*a.shape[:-2], a.shape[-1], b.shape[-1] if b.rank else 0), None, "input 1")
    _epilogue(primitive, inputs, outputs, (*a.shape[:-1], b.shape[-1]))


def _block_matmul(primitive: BlockMatMul, inputs: Sequence[View], outputs: Sequence[View]) -> None:
    demand(len(inputs) >= 4, f"{len(inputs)} inputs, not 4 or more")
    a, packed, scales, zeros = inputs[:4]
    bits, block = primitive.bits, primitive.block
    demand(bits in (2, 4, 8) and block >= 1 and block * bits % 8 == 0, f"blocks of {block} x {bits} bits")
    demand(a.rank == 2 and a.dtype.is_float, f"input 0 is {a.dtype} of rank {a.rank}")
    demand(primitive.accumulator is DType.FLOAT32, f"sums in {primitive.accumulator}")
    features = packed.shape[0] if packed.rank else 0
    blocks = -(-a.shape[1] // block)
    _expect(packed, (features, blocks, block * bits // 8), DType.UINT8, "input 1")
    _expect(scales, (features, blocks), None, "input 2")
    _expect(zeros, (features, blocks), None, "input 3")
    demand(scales.dtype.is_float, f"scales are {scales.dtype}")
    demand(zeros.dtype.is_float or zeros.dtype is DType.UINT8, f"zero points are {zeros.dtype}")
    _epilogue(primitive, inputs, outputs, (a.shape[0], features))


def _attention(primitive: Attention, inputs: Sequence[View], outputs: Sequence[View]) -> None:
    demand(len(inputs) >= 3, f"{len(inputs)} inputs, not 3 or more")
    _count(outputs, 1, 1, "outputs")
    q, k, v, *extras = inputs
    demand(q.rank >= 2 and k.rank >= 2 and v.rank >= 2, f"ranks {q.rank}, {k.rank} and {v.rank}")
    *batch, rows, depth = q.shape
    keys, width = v.shape[-2:]
    _expect(k, (*batch, depth, keys), None, "input 1")
    _expect(v, (*batch, keys, width), None, "input 2")
    for number, view in enumerate(inputs[:3]):
        demand(view.dtype.is_float, f"input {number} is {view.dtype}")
    for number, extra in enumerate(extras):
        _expect(extra, (*batch, rows, keys), None, f"extra {number}")
    _expect(outputs[0], (*batch, rows, width), None, "output 0")
    demand(outputs[0].dtype.is_float, f"output 0 is {outputs[0].dtype}")
    demand(primitive.accumulator in (DType.FLOAT32, DType.FLOAT64), f"sums in {primitive.accumulator}")
    demand(primitive.softmax in ("plain", "masked", "guarded", "smooth"), f"softmax {primitive.softmax}")
    if primitive.score is None:
        demand(not extras, f"{len(extras)} extras without score")
        return
    types = [primitive.accumulator, *(view.dtype for view in extras)]
    check_expression(primitive.score, types, q.rank, reductions=False)
    demand(primitive.score.dtypes == (primitive.accumulator,), f"scores are {primitive.score.dtypes}")
    demand(all(i.op != "index" for i in primitive.score.instructions), "scores have no coordinates")


def _window(x: View, y: View, kernel: Shape, strides: Shape, dilations: Shape, pads: Shape) -> None:
    spatial = x.rank - 2
    if spatial < 1:
        fail(f"input 0 has rank {x.rank}")
    for name, values in (("kernel", kernel), ("strides", strides), ("dilations", dilations), ("pads", pads)):
        if len(values) != spatial:
            fail(f"{len(values)} {name} of {spatial} spatial axes")
        if name != "pads" and min(values) < 1:
            fail(f"{name} {values}")
    if y.rank != x.rank or y.shape[0] != x.shape[0]:
        fail(f"output {y.shape} of input {x.shape}")


def _conv(primitive: Conv, inputs: Sequence[View], outputs: Sequence[View]) -> None:
    if len(inputs) < 2:
        fail(f"{len(inputs)} inputs, not 2 or more")
    demand(len(outputs) >= 1, "no outputs")
    x, w = inputs[:2]
    if w.rank != x.rank:
        fail(f"weights of rank {w.rank} for an input of rank {x.rank}")
    groups, features = primitive.groups, w.shape[-1]
    if groups < 1 or features % groups:
        fail(f"{features} output channels in {groups} groups")
    if w.shape[-2] * groups != x.shape[-1]:
        fail(f"weights {w.shape} in {groups} groups for input {x.shape}")
    _window(x, outputs[0], w.shape[:-2], primitive.strides, primitive.dilations, primitive.pads)
    _epilogue(primitive, inputs, outputs, (*outputs[0].shape[:-1], features))


def _pool(primitive: Pool, inputs: Sequence[View], outputs: Sequence[View]) -> None:
    demand(primitive.kind in ("max", "average"), f"kind {primitive.kind}")
    _count(inputs, 1, 1, "inputs")
    _count(outputs, 1, 2 if primitive.kind == "max" else 1, "outputs")
    x, y = inputs[0], outputs[0]
    _window(x, y, primitive.kernel, primitive.strides, primitive.dilations, primitive.pads)
    _expect(y, (*y.shape[:-1], x.shape[-1]), x.dtype, "output 0")
    if primitive.count_padding is not None:
        demand(len(primitive.count_padding) == x.rank - 2, f"count_padding {primitive.count_padding}")
    if len(outputs) == 2:
        _expect(outputs[1], y.shape, DType.INT64, "output 1")


def _gather(primitive: Gather, inputs: Sequence[View], outputs: Sequence[View]) -> None:
    _count(inputs, 2, 2, "inputs")
    _count(outputs, 1, 1, "outputs")
    data, indices = inputs
    axis = primitive.axis
    _axis(axis, data)
    demand(indices.dtype in (DType.INT32, DType.INT64), f"indices are {indices.dtype}")
    shape = data.shape[:axis] + indices.shape + data.shape[axis + 1 :]
    _expect(outputs[0], shape, data.dtype, "output 0")


def _gather_elements(primitive: GatherElements, inputs: Sequence[View], outputs: Sequence[View]) -> None:
    _count(inputs, 2, 2, "inputs")
    _count(outputs, 1, 1, "outputs")
    data, indices = inputs
    _axis(primitive.axis, data)
    demand(indices.dtype in (DType.INT32, DType.INT64), f"indices are {indices.dtype}")
    demand(indices.rank == data.rank, f"indices have rank {indices.rank}, data {data.rank}")
    pairs = zip(indices.shape, data.shape, strict=True)
    fits = all(short <= long or number == primitive.axis for number, (short, long) in enumerate(pairs))
    demand(fits, f"indices of {list(indices.shape)} exceed data of {list(data.shape)}")
    _expect(outputs[0], indices.shape, data.dtype, "output 0")


def _arg_reduce(primitive: ArgReduce, inputs: Sequence[View], outputs: Sequence[View]) -> None:
    demand(primitive.kind in ("max", "min"), f"kind {primitive.kind}")
    _count(inputs, 1, 1, "inputs")
    _count(outputs, 1, 1, "outputs")
    axis, shape = primitive.axis, inputs[0].shape
    _axis(axis, inputs[0])
    demand(inputs[0].dtype.kind in "fiub", f"input 0 is {inputs[0].dtype}")
    _expect(outputs[0], (*shape[:axis], 1, *shape[axis + 1 :]), DType.INT64, "output 0")


def _scan(primitive: Scan, inputs: Sequence[View], outputs: Sequence[View]) -> None:
    demand(primitive.kind in ("sum", "prod"), f"kind {primitive.kind}")
    _count(inputs, 1, 1, "inputs")
    _count(outputs, 1, 1, "outputs")
    _axis(primitive.axis, inputs[0])
    demand(inputs[0].dtype.kind in "fiu", f"input 0 is {inputs[0].dtype}")
    _expect(outputs[0], inputs[0].shape, inputs[0].dtype, "output 0")


def _resample(primitive: Resample, inputs: Sequence[View], outputs: Sequence[View]) -> None:
    _count(inputs, 3, 3, "inputs")
    _count(outputs, 1, 1, "outputs")
    x, positions, weights = inputs
    axis = primitive.axis
    _axis(axis, x)
    _weighted_positions(positions, weights)
    _expect(outputs[0], (*x.shape[:axis], positions.shape[0], *x.shape[axis + 1 :]), x.dtype, "output 0")


def _resample_plane(primitive: ResamplePlane, inputs: Sequence[View], outputs: Sequence[View]) -> None:
    _count(inputs, 5, 5, "inputs")
    _count(outputs, 1, 1, "outputs")
    x, positions, weights, last_positions, last_weights = inputs
    axis = primitive.axis
    demand(0 <= axis < x.rank - 1, f"axis {axis} of {x.rank}, the last of which is another")
    _weighted_positions(positions, weights)
    _weighted_positions(last_positions, last_weights)
    shape = (*x.shape[:axis], positions.shape[0], *x.shape[axis + 1 : -1], last_positions.shape[0])
    _expect(outputs[0], shape, x.dtype, "output 0")


def _weighted_positions(positions: View, weights: View) -> None:
    demand(positions.rank == 2, f"positions have rank {positions.rank}")
    _expect(positions, positions.shape, DType.INT32, "positions")
    _expect(weights, positions.shape, None, "weights")
    demand(weights.dtype.is_float, f"weights are {weights.dtype}")


def _scatter(primitive: Scatter, inputs: Sequence[View], outputs: Sequence[View]) -> None:
    _count(inputs, 3, 3, "inputs")
    _count(outputs, 1, 1, "outputs")
    data, positions, updates = inputs
    kinds = {"none": "fiubsc", "add": "fiu", "mul": "fiu", "min": "fiub", "max": "fiub"}
    demand(data.dtype.kind in kinds.get(primitive.kind, ""), f"kind {primitive.kind} of {data.dtype}")
    demand(data.rank == 2 and positions.rank == 1, f"data of rank {data.rank}, positions {positions.rank}")
    _expect(positions, positions.shape, DType.INT64, "positions")
    _expect(updates, (positions.shape[0], data.shape[1]), data.dtype, "updates")
    _expect(outputs[0], data.shape, data.dtype, "output 0")


def _sort(primitive: Sort, inputs: Sequence[View], outputs: Sequence[View]) -> None:
    _count(inputs, 1, 1, "inputs")
    _count(outputs, 2, 2, "outputs")
    axis, x, values = primitive.axis, inputs[0], outputs[0]
    _axis(axis, x)
    demand(x.dtype.kind in "fiubs", f"input 0 is {x.dtype}")
    demand(values.rank == x.rank, f"output 0 has rank {values.rank}")
    kept = values.shape[axis]
    demand(kept <= x.shape[axis], f"{kept} elements of {x.shape[axis]}")
    shape = (*x.shape[:axis], kept, *x.shape[axis + 1 :])
    _expect(values, shape, x.dtype, "output 0")
    _expect(outputs[1], shape, DType.INT64, "output 1")


def _gather_reduce(primitive: GatherReduce, inputs: Sequence[View], outputs: Sequence[View]) -> None:
    _count(inputs, 3, 3, "inputs")
    _count(outputs, 1, 1, "outputs")
    table, positions, weights = inputs
    demand(primitive.kind in ("sum", "max"), f"kind {primitive.kind}")
    demand(table.dtype.is_float, f"the table is {table.dtype}")
    demand(table.rank == 2 and positions.rank == 2, f"table of rank {table.rank}, positions {positions.rank}")
    _expect(positions, positions.shape, DType.INT64, "positions")
    _expect(weights, positions.shape, WIDE_FLOATS.get(table.dtype, table.dtype), "weights")
    _expect(outputs[0], (positions.shape[0], table.shape[1]), table.dtype, "output 0")


_GATES = {"lstm": 4, "gru": 3, "rnn": 1}
_ACTIVATIONS = {"lstm": 3, "gru": 2, "rnn": 1}


def _recurrent(primitive: Recurrent, inputs: Sequence[View], outputs: Sequence[View]) -> None:
    kind = primitive.kind
    demand(kind in _GATES, f"kind {kind}")
    demand(len(primitive.activations) == _ACTIVATIONS[kind], f"activations {primitive.activations}")
    wanted = {"lstm": 6, "gru": 5, "rnn": 4}[kind]
    _count(inputs, wanted, wanted, "inputs")
    gates, _, h = inputs[:3]
    demand(gates.rank == 3 and h.rank == 2, f"gates of shape {gates.shape}, states of {h.shape}")
    dtype, (steps, rows, _), size = gates.dtype, gates.shape, h.shape[1]
    demand(dtype.is_float, f"gates are {dtype}")
    shapes: list[Shape] = [
        (steps, rows, _GATES[kind] * size),
        (size, _GATES[kind] * size),
        (rows, size),
        (rows,),
    ]
    if kind == "lstm":
        shapes += [(rows, size), (3, size)]
    elif kind == "gru":
        shapes.append((size,))
    for number, (view, shape) in enumerate(zip(inputs, shapes, strict=True)):
        _expect(view, shape, DType.INT32 if number == 3 else dtype, f"input {number}")
    results: list[Shape] = [(steps, rows, size), (rows, size)] + ([(rows, size)] if kind == "lstm" else [])
    _count(outputs, len(results), len(results), "outputs")
    for number, (view, shape) in enumerate(zip(outputs, results, strict=True)):
        _expect(view, shape, dtype, f"output {number}")


def _suppress(primitive: SuppressNonMaximum, inputs: Sequence[View], outputs: Sequence[View]) -> None:
    _count(inputs, 4, 4, "inputs")
    _count(outputs, 2, 2, "outputs")
    images, classes, boxes = inputs[1].shape
    _expect(inputs[0], (images, boxes, 4), DType.FLOAT32, "input 0")
    _expect(inputs[1], (images, classes, boxes), DType.FLOAT32, "input 1")
    for number in (2, 3):
        _expect(inputs[number], (), DType.FLOAT32, f"input {number}")
    _expect(outputs[0], (images, classes, outputs[0].shape[-1]), DType.INT64, "output 0")
    _expect(outputs[1], (images, classes), DType.INT64, "output 1")


_CHECKS: dict[type[Primitive], Callable[[Any, Sequence[View], Sequence[View]], None]] = {
    MapReduce: _map_reduce,
    Reinterpret: _reinterpret,
    MatMul: _matmul,
    Attention: _attention,
    BlockMatMul: _block_matmul,
    Conv: _conv,
    Pool: _pool,
    Gather: _gather,
    GatherElements: _gather_elements,
    ArgReduce: _arg_reduce,
    Scan: _scan,
    Resample: _resample,
    ResamplePlane: _resample_plane,
    Recurrent: _recurrent,
    GatherReduce: _gather_reduce,
    Scatter: _scatter,
    Sort: _sort,
    SuppressNonMaximum: _suppress,
}
