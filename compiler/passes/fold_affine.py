"""Scales and shifts of output channels become part of constant weights."""

from __future__ import annotations

import functools
from itertools import compress

import numpy as np

from onnxplan.compiler.channels import Affine, Channels, fold_channels
from onnxplan.compiler.constant_pool import ConstantPool
from onnxplan.compiler.expression import Expression, Instruction, identity
from onnxplan.compiler.expressions import scalar_expression
from onnxplan.compiler.passes.composition import follow
from onnxplan.compiler.passes.fuse_epilogues import attach
from onnxplan.compiler.passes.index import Index, merged_nodes
from onnxplan.compiler.passes.output_views import has_rows
from onnxplan.compiler.primitives import Conv, MapReduce, MatMul
from onnxplan.compiler.program import Operation, Program
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.view import Layout, View

AFFINE = frozenset(["input", "constant", "cast", "neg", "add", "sub", "mul", "div"])
"""The operations that an affine expression may consist of."""


@dataclass(frozen=True, slots=True)
class _Chain:
    """Maps that follow a product, and what they do to it together: ``None`` for one that only adds.

    ``result`` is what the last of them writes, in the axes of the product's output.
    """

    operations: tuple[Operation, ...]
    channels: Channels | None
    result: View


@dataclass(frozen=True, slots=True)
class _Step:
    """A map of input ``position`` and constants that differ by channel only: ``lines`` of their elements."""

    expression: Expression
    position: int
    lines: tuple[View | None, ...]

    @property
    def sources(self) -> list[View]:
        return [line for line in self.lines if line is not None]

    def affine(self, channels: int) -> Affine | None:
        values = [
            None if line is None else Affine(None, np.asarray(line.numpy(), np.float64))
            for line in self.lines
        ]
        values[self.position] = Affine(np.ones(channels), np.zeros(channels))
        return _evaluate(self.expression, values)


def fold_affine(program: Program, pool: ConstantPool) -> Program:
    """Folds what happens to the channels of a product by constant weights into these and one addition.

    For a Conv or MatMul without epilogue whose second operand is constant, and the longest chain of maps
    behind it of which each is the only reader of the one before, and multiplies, divides, adds or subtracts
    constants that differ by output channel at most (the bias of a convolution, then BatchNormalization):
    afterwards the weights hold all factors, and one map adds all that is added: for a Conv as its epilogue,
    where it may be that. New weights are computed in float64, rounded, and kept in ``pool``, once for all
    plans of the model. Results may differ from those before by rounding.
    """
    index = Index.of(program)
    for operation in program.operations:
        if operation in index.order and _has_constant_weights(operation):
            chain = _chain(index, operation, pool)
            if chain is not None:
                _fold(index, operation, chain)
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


def _chain(index: Index, product: Operation, pool: ConstantPool) -> _Chain | None:
    result = product.outputs[0]
    operations: list[Operation] = []
    steps: list[_Step] = []
    best: View | None = None
    count = 0
    while index.sole_writer(result.storage) is not None:
        operation = index.sole_reader(result.storage)
        found = None if operation is None else _channel_map(operation, result)
        if operation is None or found is None:
            break
        step, moved = found
        if has_rows(result) and not has_rows(moved):
            # A copy into another order: what comes before it can be an epilogue, together they cannot.
            break
        result = moved
        operations.append(operation)
        steps.append(step)
        if result.dtype is product.outputs[0].dtype:
            best, count = result, len(steps)
    if best is None:
        return None
    channels = _together(product, steps[:count], pool)
    if channels is None:
        return None
    only_adds = count == 1 and channels.weights == product.inputs[1]
    return _Chain(tuple(operations[:count]), None if only_adds else channels, best)


def _together(product: Operation, steps: list[_Step], pool: ConstantPool) -> Channels | None:
    """All ``steps`` behind ``product``, one after the other; ``None`` where something overflows."""
    weights, output = product.inputs[1], product.outputs[0]

    def compute() -> tuple[Channels | None]:
        count = output.shape[-1]
        affines = []
        for step in steps:
            affine = step.affine(count)
            assert affine is not None
            affines.append(affine)
        return (fold_channels(weights, output.dtype, affines, pool),)

    key = "channels", weights, output.shape[-1], output.dtype, *steps
    sources = [weights, *[view for step in steps for view in step.sources]]
    (channels,) = pool.recall(key, sources, compute, lambda found: output.shape[-1] * output.dtype.itemsize)
    return channels


def _channel_map(operation: Operation, result: View) -> tuple[_Step, View] | None:
    """What a map does to each channel (the last axis) of ``result``, and its output in the same axes."""
    primitive, inputs = operation.primitive, operation.inputs
    if not isinstance(primitive, MapReduce) or primitive.axes or len(operation.outputs) != 1:
        return None
    if not _has_affine_operations(primitive.expression):
        return None
    reads = [number for number, view in enumerate(inputs) if view.storage is result.storage]
    if len(reads) != 1 or inputs[reads[0]].size != result.size:
        return None
    position, output = reads[0], operation.outputs[0]
    known = [view.storage.is_constant and view.dtype.is_float for view in inputs]
    followed = follow(inputs[position], result, (output, *compress(inputs, known)))
    target, *layouts = followed or (None,)
    if target is None:
        return None
    rest = iter(layouts)
    lines = tuple([_by_channel(view, next(rest)) if known[n] else None for n, view in enumerate(inputs)])
    if not _is_affine(primitive.expression, position, tuple([line is not None for line in lines])):
        return None
    return _Step(primitive.expression, position, lines), View(output.storage, *target)


@functools.lru_cache(maxsize=4096)
def _has_affine_operations(expression: Expression) -> bool:
    """Could it be affine, whatever its inputs are?"""
    return all(instruction.op in AFFINE for instruction in expression.instructions)


@functools.lru_cache(maxsize=4096)
def _is_affine(expression: Expression, position: int, known: tuple[bool, ...]) -> bool:
    """Is it affine in input ``position``, if those that are ``known`` are constants? No element decides."""
    one = np.ones(())
    values = [Affine(None, one) if constant else None for constant in known]
    values[position] = Affine(one, one)
    found = _evaluate(expression, values)
    return found is not None and found.scale is not None


def _by_channel(view: View, layout: Layout | None) -> View | None:
    """The elements of a constant for each channel, if they differ by channel only.

    ``layout`` is that of ``view`` in the axes of the result, of which channels are the last.
    """
    if layout is None:
        return None
    offset, shape, strides = layout
    if any(stride and extent > 1 for extent, stride in zip(shape[:-1], strides[:-1], strict=True)):
        return None
    return View(view.storage, offset, shape[-1:], strides[-1:])


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
    if not instruction.dtype.is_float or instruction.op not in AFFINE:
        return None
    first = arguments[0]
    if instruction.op == "cast":
        return first
    if instruction.op == "neg":
        return Affine(None if first.scale is None else -first.scale, -first.shift)
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


def _fold(index: Index, product: Operation, chain: _Chain) -> None:
    channels = chain.channels
    if channels is None:
        folded, last = product, chain.operations[0]
    else:
        folded, last = _folded(product, channels, chain)
    joined = attach(folded, last) if _may_join(index, product, chain) else None
    if joined is not None:
        index.remove(product)
        last = joined
    elif channels is not None:
        index.become(product, folded)
    else:
        return
    for operation in chain.operations[:-1]:
        index.remove(operation)
    index.become(chain.operations[-1], last)


def _folded(product: Operation, channels: Channels, chain: _Chain) -> tuple[Operation, Operation]:
    """The product by the weights of ``channels``, and the map that adds the shift."""
    output = product.outputs[0]
    nodes = merged_nodes(product, *chain.operations)
    inputs: tuple[View, ...] = (output,)
    expression = identity(output.dtype)
    if channels.shift is not None:
        inputs = (output, channels.shift.expand(output.shape))
        expression = scalar_expression("add", (output.dtype, output.dtype))
    folded = Operation(product.primitive, (product.inputs[0], channels.weights), (output,), nodes)
    return folded, Operation(MapReduce(expression, output.shape), inputs, (chain.result,), nodes)


def _may_join(index: Index, product: Operation, chain: _Chain) -> bool:
    """May what is added be the product's epilogue at once, as it would become in the end?

    Factors may still move to a map behind a matrix product, and zeros around a map become padding.
    """
    return isinstance(product.primitive, Conv) and index.sole_writer(chain.result.storage) is not None
