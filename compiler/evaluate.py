"""The meaning of every primitive in NumPy: plan-time folding, and the oracle of kernels and passes.

Sums of floats are taken in float64 and rounded once, so results are at least as exact as any kernel's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.evaluate_boxes import suppress
from onnxplan.compiler.evaluate_recurrent import evaluate_recurrent
from onnxplan.compiler.evaluate_selection import evaluate_gather_reduce, evaluate_scatter, evaluate_sort
from onnxplan.compiler.evaluate_spatial import convolve, evaluate_pool
from onnxplan.compiler.expression import Expression
from onnxplan.compiler.primitives import (
    ArgReduce,
    Attention,
    BlockMatMul,
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
from onnxplan.compiler.program import Program
from onnxplan.compiler.scalar import WIDE, WIDE_INTEGERS, convert, evaluate_quietly
from onnxplan.compiler.view import Shape, Storage, View, strided_window

Array = npt.NDArray[Any]


def evaluate(
    primitive: Primitive,
    inputs: Sequence[Array],
    output_shapes: Sequence[Shape] = (),
    output_dtypes: Sequence[DType] = (),
) -> tuple[Array, ...]:
    """The outputs of ``primitive``, which may share memory with ``inputs`` and be read-only.

    ``inputs`` have the shapes and types of the operation's input views. ``output_shapes`` are needed where
    they do not follow from these: the spatial extents of :class:`Conv` and :class:`Pool` (two of them where
    positions are wanted). ``output_dtypes`` are needed where a sum without epilogue is not stored as it was
    accumulated, and by :class:`Attention` and :class:`Reinterpret`. Raises ``NotImplementedError`` for a
    primitive that has no meaning here.
    """
    if type(primitive) is MapReduce:
        return evaluate_expression(primitive.expression, inputs, primitive.shape, primitive.axes)
    with np.errstate(all="ignore"):
        if isinstance(primitive, Product):
            total = _contract(primitive, inputs, output_shapes)
            if primitive.epilogue is not None:
                return evaluate_expression(
                    primitive.epilogue, (total, *inputs[product_operands(primitive) :]), total.shape
                )
            return (convert(total, output_dtypes[0]) if output_dtypes else total,)
        if isinstance(primitive, Attention):
            return (convert(_attend(primitive, inputs), output_dtypes[0]),)
        if isinstance(primitive, Reinterpret):
            return (inputs[0].view(output_dtypes[0].numpy),)
        if isinstance(primitive, Pool):
            return evaluate_pool(primitive, inputs[0], output_shapes)
        if isinstance(primitive, SuppressNonMaximum):
            return suppress(primitive, inputs, output_shapes[0][-1])
        if isinstance(primitive, Sort):
            return evaluate_sort(primitive, inputs, output_shapes[0][primitive.axis])
        rule = _RULES.get(type(primitive))
        if rule is None:
            raise NotImplementedError(f"no NumPy meaning for primitive {primitive}")
        return rule(primitive, inputs)


def evaluate_expression(
    expression: Expression, inputs: Sequence[Array], shape: Shape, axes: tuple[int, ...] = ()
) -> tuple[Array, ...]:
    """The results of ``expression`` over the iteration space ``shape``, reductions over ``axes``.

    Results have the shape that :class:`MapReduce` demands. They may be read-only views of the inputs.
    """
    values: list[Array] = []
    with np.errstate(all="ignore"):
        for instruction in expression.instructions:
            op = instruction.op
            if op == "input":
                value = inputs[instruction.arguments[0]]
            elif op == "constant":
                # What is zero for numbers is the empty one of strings.
                number = "" if instruction.dtype is DType.STRING else instruction.number
                value = np.array(number, instruction.dtype.numpy)
            elif op == "index":
                axis = instruction.arguments[0]
                extents = (1,) * axis + (shape[axis],) + (1,) * (len(shape) - axis - 1)
                value = np.arange(shape[axis], dtype=np.int64).reshape(extents)
            elif op in _REDUCERS:
                argument = values[instruction.arguments[0]]
                value = _reduce(op, np.broadcast_to(argument, shape), axes, instruction.dtype)
            else:
                arguments = [values[argument] for argument in instruction.arguments]
                value = evaluate_quietly(op, instruction.dtype, arguments)
            values.append(value)
    if not axes:
        return tuple(_spread(values[output], shape) for output in expression.outputs)
    short = tuple(1 if axis in axes else extent for axis, extent in enumerate(shape))
    reduced = expression.reduced()
    return tuple(
        _spread(values[output], short if reduced[output] else shape) for output in expression.outputs
    )


def evaluate_program(program: Program, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Runs ``program`` operation by operation; returns copies of its outputs.

    Storages start as NaN (floats) or bytes 0xAA, so that what is read before it is written shows. ``feeds``
    holds one array for each input, of the input view's shape and type.
    """
    blocks: dict[Storage, Array] = {}

    def window(view: View) -> Array:
        block = blocks.get(view.storage)
        if block is None:
            block = blocks[view.storage] = _poisoned(view.storage)
        return strided_window(block, view.offset, view.shape, view.strides, writeable=True)

    for name, view in program.inputs.items():
        feed = np.asarray(feeds[name])
        if feed.shape != view.shape or feed.dtype != view.dtype.numpy:
            raise ValueError(f"input {name!r} is {view.dtype}{view.shape}, fed {feed.dtype}{feed.shape}")
        window(view)[...] = feed
    for operation in program.operations:
        outputs = evaluate(
            operation.primitive,
            [window(view) for view in operation.inputs],
            [view.shape for view in operation.outputs],
            [view.dtype for view in operation.outputs],
        )
        for view, value in zip(operation.outputs, outputs, strict=True):
            target = window(view)
            if target.shape != value.shape or target.dtype != value.dtype:
                raise ValueError(f"{operation} yields {value.dtype}{value.shape} for {view}")
            # Results may share memory with an input.
            target[...] = value.copy()
    return {name: window(view).copy() for name, view in program.outputs.items()}


def _poisoned(storage: Storage) -> Array:
    elements = storage.elements()
    if elements is not None:
        return elements
    block = np.empty(storage.size, storage.dtype.numpy)
    if storage.dtype.is_float and storage.dtype.itemsize > 1:
        block.fill(np.nan)
    elif storage.dtype is not DType.STRING:
        block.view(np.uint8).fill(0xAA)
    return block


def _spread(value: Array, shape: Shape) -> Array:
    return value if value.shape == shape else np.broadcast_to(value, shape)


def _lowest(dtype: DType) -> float | int:
    if dtype.is_float:
        return -np.inf
    return int(np.iinfo(dtype.numpy).min) if dtype.is_integer else 0


def _highest(dtype: DType) -> float | int:
    if dtype.is_float:
        return np.inf
    return int(np.iinfo(dtype.numpy).max) if dtype.is_integer else 1


_REDUCERS: dict[str, tuple[np.ufunc, Callable[[DType], float | int]]] = {
    "reduce_sum": (np.add, lambda dtype: 0),
    "reduce_prod": (np.multiply, lambda dtype: 1),
    "reduce_max": (np.maximum, _lowest),
    "reduce_min": (np.minimum, _highest),
}


def _reduce(op: str, array: Array, axes: tuple[int, ...], dtype: DType) -> Array:
    ufunc, identity = _REDUCERS[op]
    source = DType.from_numpy(array.dtype)
    wide = WIDE.get(source, source)
    if op in ("reduce_sum", "reduce_prod"):
        wide = DType.FLOAT64 if source.is_float else wide
    array = array.astype(wide.numpy, copy=False)
    result = ufunc.reduce(array, axis=axes, keepdims=True, dtype=array.dtype, initial=identity(wide))
    return convert(result, dtype)


def _contract(primitive: Product, inputs: Sequence[Array], output_shapes: Sequence[Shape]) -> Array:
    accumulator = primitive.accumulator
    wide = DType.FLOAT64 if accumulator.is_float else accumulator
    if isinstance(primitive, BlockMatMul):
        product = convert(inputs[0], wide) @ _block_weights(primitive, inputs[0].shape[1], *inputs[1:4]).T
        return convert(product, accumulator)
    a, b = convert(inputs[0], wide), convert(inputs[1], wide)
    if isinstance(primitive, MatMul):
        return convert(np.matmul(a, b), accumulator)
    return convert(convolve(primitive, a, b, output_shapes[0]), accumulator)


def _block_weights(primitive: BlockMatMul, depth: int, packed: Array, scales: Array, zeros: Array) -> Array:
    """The weights ``(N, depth)`` of :class:`BlockMatMul` in float64."""
    shifts = np.arange(0, 8, primitive.bits, dtype=np.uint8)
    numbers = (packed[..., None] >> shifts) & np.uint8((1 << primitive.bits) - 1)
    numbers = numbers.reshape(*scales.shape, primitive.block).astype(np.float64)
    wide = (convert(array, DType.FLOAT64)[..., None] for array in (zeros, scales))
    weights = (numbers - next(wide)) * next(wide)
    result: Array = weights.reshape(len(packed), packed.shape[1] * primitive.block)[:, :depth]
    return result


def _attend(primitive: Attention, inputs: Sequence[Array]) -> Array:
    """The result in float64; scores are rounded to the accumulator's type, weights are not."""
    q, k, v = (convert(array, DType.FLOAT64) for array in inputs[:3])
    scores = convert(np.matmul(q, k), primitive.accumulator)
    if primitive.score is not None:
        (scores,) = evaluate_expression(primitive.score, (scores, *inputs[3:]), scores.shape)
    scores = convert(scores, DType.FLOAT64)
    top = np.max(scores, axis=-1, keepdims=True, initial=-np.inf)
    if primitive.softmax == "smooth":
        top = np.maximum(top, 0)
    nothing = (top == -np.inf) & (primitive.softmax == "masked")
    powers = np.exp(scores - np.where(nothing, 0, top))
    total = np.sum(powers, axis=-1, keepdims=True)
    if primitive.softmax == "smooth":
        total += np.exp(-top)
    weights = powers / np.where(nothing, 1, total)
    if primitive.softmax == "guarded":
        weights = np.where(np.isnan(weights), 0, weights)
    return np.asarray(np.matmul(weights, v))


def _gather(primitive: Gather, inputs: Sequence[Array]) -> tuple[Array, ...]:
    data, indices = inputs
    extent = data.shape[primitive.axis]
    if extent == 0:
        before, after = data.shape[: primitive.axis], data.shape[primitive.axis + 1 :]
        return (np.zeros(before + indices.shape + after, data.dtype),)
    return (np.take(data, _inside(indices, extent), axis=primitive.axis),)


def _gather_elements(primitive: GatherElements, inputs: Sequence[Array]) -> tuple[Array, ...]:
    data, indices = inputs
    axis, extent = primitive.axis, data.shape[primitive.axis]
    if extent == 0:
        return (np.zeros(indices.shape, data.dtype),)
    within = tuple(slice(None if n == axis else size) for n, size in enumerate(indices.shape))
    return (np.take_along_axis(data[within], _inside(indices, extent), axis),)


def _inside(indices: Array, extent: int) -> Array:
    """Indices counted from the start, moved to the nearest position that exists."""
    return np.clip(np.where(indices < 0, indices + extent, indices), 0, extent - 1)


def _arg_reduce(primitive: ArgReduce, inputs: Sequence[Array]) -> tuple[Array, ...]:
    (data,) = inputs
    axis = primitive.axis
    extent = data.shape[axis]
    if extent == 0:
        return (np.zeros((*data.shape[:axis], 1, *data.shape[axis + 1 :]), np.int64),)
    wide = WIDE.get(DType.from_numpy(data.dtype))
    data = data if wide is None else data.astype(wide.numpy)
    find = np.argmax if primitive.kind == "max" else np.argmin
    if primitive.last:
        found = find(np.flip(data, axis), axis=axis, keepdims=True)
        return (np.asarray(extent - 1 - found, np.int64),)
    return (np.asarray(find(data, axis=axis, keepdims=True), np.int64),)


def _scan(primitive: Scan, inputs: Sequence[Array]) -> tuple[Array, ...]:
    (data,) = inputs
    axis = primitive.axis
    dtype = DType.from_numpy(data.dtype)
    wide = DType.FLOAT64 if dtype.is_float else WIDE_INTEGERS.get(dtype, dtype)
    array = np.flip(data, axis) if primitive.reverse else data
    array = array.astype(wide.numpy, copy=False)
    ufunc = np.add if primitive.kind == "sum" else np.multiply
    result = ufunc.accumulate(array, axis=axis, dtype=array.dtype)
    if primitive.exclusive and data.shape[axis]:
        result = np.roll(result, 1, axis)
        first = (slice(None),) * axis + (slice(0, 1),)
        result[first] = 0 if primitive.kind == "sum" else 1
    if primitive.reverse:
        result = np.flip(result, axis)
    return (convert(result, dtype),)


def _resample(primitive: Resample, inputs: Sequence[Array]) -> tuple[Array, ...]:
    data, positions, weights = inputs
    axis = primitive.axis
    dtype = DType.from_numpy(data.dtype)
    outputs, taps = positions.shape
    wide = data.astype(np.float64)
    shape = (*data.shape[:axis], outputs, *data.shape[axis + 1 :])
    total = np.zeros(shape, np.float64)
    extents = (outputs,) + (1,) * (len(shape) - axis - 1)
    if data.shape[axis]:
        for tap in range(taps):
            place = np.clip(positions[:, tap], 0, data.shape[axis] - 1)
            total += np.take(wide, place, axis=axis) * weights[:, tap].astype(np.float64).reshape(extents)
    # Integers are truncated from the type that kernels sum in.
    double = DType.FLOAT64 in (dtype, DType.from_numpy(weights.dtype))
    return (convert(total if double else total.astype(np.float32), dtype),)


def _resample_plane(primitive: ResamplePlane, inputs: Sequence[Array]) -> tuple[Array, ...]:
    data, positions, weights, *last = inputs
    (between,) = _resample(Resample(primitive.axis), (data, positions, weights))
    return _resample(Resample(data.ndim - 1), (between, *last))


def _recurrent(primitive: Recurrent, inputs: Sequence[Array]) -> tuple[Array, ...]:
    return evaluate_recurrent(primitive, inputs)


_RULES: dict[type[Primitive], Callable[[Any, Sequence[Array]], tuple[Array, ...]]] = {
    Gather: _gather,
    GatherElements: _gather_elements,
    ArgReduce: _arg_reduce,
    Scan: _scan,
    Resample: _resample,
    ResamplePlane: _resample_plane,
    Recurrent: _recurrent,
    GatherReduce: evaluate_gather_reduce,
    Scatter: evaluate_scatter,
}
