"""Scales and shifts of output channels become part of constant weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.builder import ConstantPool, derived_key
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression, Instruction, identity
from onnxplan.compiler.expressions import scalar_expression
from onnxplan.compiler.passes.composition import translate
from onnxplan.compiler.passes.index import Index, merged_nodes
from onnxplan.compiler.passes.output_views import has_rows
from onnxplan.compiler.primitives import Conv, MapReduce, MatMul
from onnxplan.compiler.program import Operation, Program
from onnxplan.compiler.view import Storage, View

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Affine:
    """``scale * x + shift`` of a channel's sum ``x``; a constant has scale ``None``."""

    scale: Array | None
    shift: Array


@dataclass(frozen=True, slots=True)
class _Chain:
    """Maps that follow a product, and what they do to it together.

    ``result`` is what the last of them writes, in the axes of the product's output.
    """

    operations: tuple[Operation, ...]
    scale: Array
    shift: Array
    result: View


def fold_affine(program: Program, pool: ConstantPool) -> Program:
    """Folds what happens to the channels of a product by constant weights into these and one addition.

    For a Conv or MatMul without epilogue whose second operand is constant, and the longest chain of maps
    behind it of which each is the only reader of the one before, and multiplies, divides, adds or subtracts
    constants that differ by output channel at most (the bias of a convolution, then BatchNormalization):
    afterwards the weights hold all factors, and one map adds all that is added. New weights are computed in
    float64, rounded, and kept in ``pool``, once for all plans of the model. Results may differ from those
    before by rounding.
    """
    index = Index(program)
    for operation in program.operations:
        if operation in index.order and _has_constant_weights(operation):
            chain = _chain(index, operation)
            if chain is not None:
                _fold(index, operation, chain, pool)
    return index.finish()


def _has_constant_weights(operation: Operation) -> bool:
    primitive = operation.primitive
    return (
        isinstance(primitive, Conv | MatMul)
        and primitive.epilogue is None
        and operation.inputs[1].is_constant
        and operation.outputs[0].dtype.is_float
        and operation.inputs[1].dtype.is_float
        and operation.outputs[0].size > 0
        and operation.inputs[1].size > 0
    )


def _chain(index: Index, product: Operation) -> _Chain | None:
    result = product.outputs[0]
    channels = result.shape[-1]
    scale, shift = np.ones(channels), np.zeros(channels)
    found: list[Operation] = []
    best: _Chain | None = None
    while index.sole_writer(result.storage) is not None:
        operation = index.sole_reader(result.storage)
        step = None if operation is None else _channel_map(operation, result)
        if operation is None or step is None:
            break
        affine, moved = step
        if has_rows(result) and not has_rows(moved):
            # A copy into another order: what comes before it can be an epilogue, together they cannot.
            break
        result = moved
        assert affine.scale is not None
        found.append(operation)
        with np.errstate(all="ignore"):
            scale, shift = affine.scale * scale, affine.scale * shift + affine.shift
        if result.dtype is product.outputs[0].dtype:
            best = _Chain(tuple(found), scale, shift, result)
    if best is None or not (np.isfinite(best.scale).all() and np.isfinite(best.shift).all()):
        return None
    worthwhile = len(best.operations) > 1 or not (best.scale == 1).all()
    return best if worthwhile else None


def _channel_map(operation: Operation, result: View) -> tuple[Affine, View] | None:
    """What a map does to each channel (the last axis) of ``result``, and its output in the same axes."""
    primitive = operation.primitive
    if not isinstance(primitive, MapReduce) or primitive.axes or len(operation.outputs) != 1:
        return None
    sources = [view for view in operation.inputs if view.storage is result.storage]
    if len(sources) != 1 or sources[0].size != result.size:
        return None
    source = sources[0]
    values: list[Affine | None] = []
    for view in operation.inputs:
        if view is source:
            values.append(Affine(np.ones(result.shape[-1]), np.zeros(result.shape[-1])))
        else:
            elements = _by_channel(view, source, result)
            values.append(None if elements is None else Affine(None, elements))
    affine = _evaluate(primitive.expression, values)
    target = translate(result, source, operation.outputs[0])
    if affine is None or affine.scale is None or target is None:
        return None
    return affine, target


def _by_channel(view: View, source: View, result: View) -> Array | None:
    """The elements of a constant for each channel, if they differ by channel only."""
    if not view.is_constant or not view.dtype.is_float:
        return None
    spread = translate(result, source, view)
    if spread is None:
        return None
    outer = zip(spread.shape[:-1], spread.strides[:-1], strict=True)
    if any(stride and extent > 1 for extent, stride in outer):
        return None
    line = View(spread.storage, spread.offset, spread.shape[-1:], spread.strides[-1:])
    return np.asarray(line.numpy(), np.float64)


def _evaluate(expression: Expression, inputs: list[Affine | None]) -> Affine | None:
    """The expression as a function of the one input that is not constant, if it is affine."""
    values: list[Affine | None] = []
    with np.errstate(all="ignore"):
        for instruction in expression.instructions:
            if instruction.op == "input":
                values.append(inputs[instruction.arguments[0]])
            elif instruction.op == "constant":
                values.append(Affine(None, np.asarray(instruction.number, np.float64)))
            else:
                arguments = [values[argument] for argument in instruction.operands]
                known = [argument for argument in arguments if argument is not None]
                complete = len(known) == len(arguments)
                values.append(_combine(instruction, known) if complete else None)
    return values[expression.outputs[0]]


def _combine(instruction: Instruction, arguments: list[Affine]) -> Affine | None:
    if not instruction.dtype.is_float or instruction.op == "index":
        return None
    first = arguments[0]
    if instruction.op == "cast":
        return first
    if instruction.op == "neg":
        return Affine(None if first.scale is None else -first.scale, -first.shift)
    if instruction.op not in ("add", "sub", "mul", "div"):
        return None
    second = arguments[1]
    if instruction.op in ("add", "sub"):
        sign = 1.0 if instruction.op == "add" else -1.0
        shift = first.shift + sign * second.shift
        if second.scale is None:
            return Affine(first.scale, shift)
        return Affine(sign * second.scale + (0.0 if first.scale is None else first.scale), shift)
    if instruction.op == "mul":
        if first.scale is not None and second.scale is not None:
            return None
        factor, other = (first, second) if first.scale is None else (second, first)
        return Affine(None if other.scale is None else other.scale * factor.shift, other.shift * factor.shift)
    if second.scale is not None:
        return None
    return Affine(None if first.scale is None else first.scale / second.shift, first.shift / second.shift)


def _fold(index: Index, product: Operation, chain: _Chain, pool: ConstantPool) -> None:
    weights = product.inputs[1]
    scaled = weights if (chain.scale == 1).all() else _scaled(weights, chain.scale, pool)
    if scaled is None:
        return
    output = product.outputs[0]
    nodes = merged_nodes(product, *chain.operations)
    folded = Operation(product.primitive, (product.inputs[0], scaled), (output,), nodes)
    shape = output.shape
    if chain.shift.any():
        shift = np.ascontiguousarray(chain.shift.astype(output.dtype.numpy))
        storage = Storage(output.dtype, shift.size, f"{weights.storage.name}:shift", shift)
        inputs: tuple[View, ...] = (output, View.dense(storage, shift.shape).expand(shape))
        expression = scalar_expression("add", (output.dtype, output.dtype))
    else:
        expression = identity(output.dtype)
        inputs = (output,)
    last = Operation(MapReduce(expression, shape), inputs, (chain.result,), nodes)
    index.become(product, folded)
    for operation in chain.operations[:-1]:
        index.remove(operation)
    index.become(chain.operations[-1], last)


def _scaled(weights: View, scale: Array, pool: ConstantPool) -> View | None:
    """The weights times ``scale`` along their last axis; ``None`` where that overflows."""
    factors = View.dense(
        Storage(DType.FLOAT64, scale.size, "scale", np.ascontiguousarray(scale)), scale.shape
    )

    def make() -> npt.NDArray[Any]:
        result = np.empty(weights.shape, weights.dtype.numpy)
        with np.errstate(all="ignore"):
            np.multiply(weights.numpy(), scale, out=result, dtype=np.float64, casting="unsafe")
        return result

    storage = pool.defer(
        derived_key("fold_affine", [weights, factors]),
        weights.dtype,
        weights.size,
        make,
        f"{weights.storage.name}:scaled",
    )
    if weights.dtype.itemsize < 4:
        elements = storage.elements()
        assert elements is not None
        if not np.isfinite(elements.astype(np.float32)).all():
            return None
    return View.dense(storage, weights.shape)
