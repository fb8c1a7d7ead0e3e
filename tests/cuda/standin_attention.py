"""What an operation graph of attention means, where the stand-in's cuDNN takes it, and its result by NumPy.

Source: the comments of ``cudnn_graph.h``; for the chain, and for what scores become inside of the one
operation, https://github.com/NVIDIA/cudnn-frontend (``scaled_dot_product_flash_attention.h``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from standin_cudnn_launch import DTYPES, Tensor
from standin_cudnn_rules import APPLY, ATTEND, BAND, MULTIPLY, REDUCE, SOFTMAX

FLOAT, HALF, INT32, BFLOAT16, BOOLEAN = 0, 2, 4, 9, 11
ADD, MUL, DIV, SUB, EXP, LOG = 0, 1, 6, 9, 13, 14
GREATER_OR_EQUAL, INDEX, SELECT = 303, 501, 601
REDUCE_ADD, REDUCE_MAX = 0, 3
OPERANDS = (751, 752, 758)
LARGEST_HEAD = 128
SHORT = 92100
"""The first version whose engines ask for mask and softmax as one operation each."""


@dataclass(frozen=True)
class Problem:
    """``out = softmax(scale * q k + bias) v``; ``hidden``, if any, is the score of keys behind a query."""

    form: str
    q: Tensor
    k: Tensor
    v: Tensor
    output: Tensor
    scale: Tensor | None
    bias: Tensor | None
    hidden: Tensor | None

    counter: ClassVar[str] = "attentions"
    label: ClassVar[str] = "cuDNN's attention"

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.q, self.k, self.v, *([] if self.bias is None else [self.bias]))

    @property
    def scalars(self) -> tuple[Tensor, ...]:
        return tuple(tensor for tensor in (self.scale, self.hidden) if tensor is not None)

    def by(self, notes: tuple[int, ...]) -> Problem:
        """The same: engines differ in nothing that is seen here."""
        return self

    def result(self, tensors: Mapping[int, np.ndarray], scalars: Mapping[int, float]) -> np.ndarray:
        """Scores are float32, weights of the type of the values."""
        group = self.q.shape[1] // self.k.shape[1]
        q = tensors[self.q.number].astype(np.float64)
        k, v = (np.repeat(tensors[t.number].astype(np.float64), group, 1) for t in (self.k, self.v))
        with np.errstate(all="ignore"):
            scores = (q @ np.swapaxes(k, 2, 3)).astype(np.float32)
            if self.scale is not None:
                scores = scores * np.float32(scalars[self.scale.number])
            if self.bias is not None:
                scores = scores + tensors[self.bias.number].astype(np.float32)
            if self.hidden is not None:
                seen = np.tril(np.ones(scores.shape[2:], np.bool_))
                scores = np.where(seen, scores, np.float32(scalars[self.hidden.number]))
            powers = np.exp(scores - scores.max(3, keepdims=True))
            weights = (powers / powers.sum(3, keepdims=True)).astype(DTYPES[self.q.type])
            return (weights.astype(np.float64) @ v).astype(DTYPES[self.output.type])


def problem_of(operations: Sequence[Any], version: int) -> Problem:
    """The problem of finalised operations; raises ``ValueError`` for what the stand-in's engines lack."""
    problem = _one_operation(operations[0]) if operations[0].kind == ATTEND else _chain(operations, version)
    if operations[0].kind == ATTEND and len(operations) > 1:
        raise ValueError("operations behind the attention")
    _check(problem)
    return problem


def _check(problem: Problem) -> None:
    q, k, v, out = problem.q, problem.k, problem.v, problem.output
    memory = [*problem.inputs, out]
    if len({tensor.number for tensor in (*memory, *problem.scalars)}) != len(memory) + len(problem.scalars):
        raise ValueError("two tensors have the same number")
    if any(tensor.virtual or tensor.by_value for tensor in memory):
        raise ValueError("tensors in memory that are virtual or scalars")
    if len({t.type for t in (q, k, v, out)}) != 1 or q.type not in (HALF, BFLOAT16):
        raise ValueError("attention is of 16-bit floats, all of one type")
    if any(len(tensor.shape) != 4 or tensor.strides[3] != 1 for tensor in memory):
        raise ValueError("tensors are not (batch, heads, tokens, width), neighbours along the width")
    (batch, heads, queries, depth), (_, groups, keys, _), width = q.shape, k.shape, v.shape[3]
    if k.shape != (batch, groups, keys, depth) or v.shape != (batch, groups, keys, width):
        raise ValueError(f"keys {k.shape} or values {v.shape} that do not fit queries {q.shape}")
    if out.shape != (batch, heads, queries, width) or heads % groups:
        raise ValueError(f"a result {out.shape} of queries {q.shape} and values {v.shape}")
    if any(extent % 8 or extent > LARGEST_HEAD for extent in (depth, width)):
        raise ValueError(f"heads that are {depth} and {width} wide")
    if problem.bias is not None:
        pairs = zip(problem.bias.shape, (batch, heads, queries, keys), strict=True)
        if any(own not in (1, extent) for own, extent in pairs) or problem.bias.type not in (FLOAT, q.type):
            raise ValueError(f"a bias {problem.bias.shape} of type {problem.bias.type}")
    for scalar in problem.scalars:
        if not scalar.by_value or scalar.virtual or scalar.type != FLOAT or scalar.shape != (1, 1, 1, 1):
            raise ValueError("a scale or hidden score that is no scalar of float32")


def _one_operation(operation: Any) -> Problem:
    q, k, v, out = (Tensor.of(operation.one(number)) for number in (2800, 2801, 2802, 2803))
    scale = Tensor.of(operation.one(2805)) if 2805 in operation.values else None
    bias = hidden = None
    if 2811 in operation.values:
        shape = (*q.shape[:3], k.shape[2])
        bias, hidden = _scores(operation, shape)
    return Problem("one operation", q, k, v, out, scale, bias, hidden)


def _scores(operation: Any, shape: tuple[int, ...]) -> tuple[Tensor | None, Tensor | None]:
    """What the graph of the scores adds, and what it hides keys by."""
    bias = hidden = None
    value = None
    for inner in operation.one(2811).values[801]:
        source, result = (
            Tensor.of(inner.one(n)) for n in ((751, 753) if inner.kind == APPLY else (3000, 3006))
        )
        _check_virtual(source, shape)
        _check_virtual(result, shape)
        if value is None and source.number != operation.one(2812):
            raise ValueError("the graph of the scores does not begin with its input")
        if value is not None and source != value:
            raise ValueError("the graph of the scores is no chain")
        if inner.kind == APPLY and inner.one(750).one(0) == ADD and bias is None and hidden is None:
            bias = Tensor.of(inner.one(752))
        elif inner.kind == BAND and inner.one(3007) == GREATER_OR_EQUAL and hidden is None:
            hidden = Tensor.of(inner.one(3005))
        else:
            raise ValueError("the graph of the scores has another operation than a sum and a causal mask")
        value = result
    if value is None or value.number != operation.one(2813):
        raise ValueError("the graph of the scores does not end with its output")
    return bias, hidden


def _check_virtual(tensor: Tensor, shape: tuple[int, ...], dtype: int = FLOAT) -> None:
    if not tensor.virtual or tensor.by_value or tensor.type != dtype or tensor.shape != shape:
        raise ValueError(f"between operations there is a virtual {shape} of type {dtype}, not {tensor}")


class _Chain:
    """Reads operations one by one; each result must be what the next one takes."""

    def __init__(self, operations: Sequence[Any]) -> None:
        self._operations = list(operations)

    def product(self) -> tuple[Tensor, Tensor, Tensor]:
        operation = self._take(MULTIPLY)
        if operation.one(1523).one(1500) != FLOAT:
            raise ValueError("a product whose sums are not float32")
        a, b, c = (Tensor.of(operation.one(number)) for number in (1520, 1521, 1522))
        return a, b, c

    def reduction(self, operator: int, operand: Tensor) -> Tensor:
        operation = self._take(REDUCE)
        descriptor = operation.one(1612)
        if (descriptor.one(1600), descriptor.one(1601)) != (operator, FLOAT):
            raise ValueError("a reduction that is no part of a softmax")
        if Tensor.of(operation.one(1610)) != operand:
            raise ValueError("a reduction of something else than the scores")
        result = Tensor.of(operation.one(1611))
        _check_virtual(result, (*operand.shape[:3], 1))
        return result

    def causal(self, value: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores behind a mask, and what hides keys, where there is a mask."""
        if self._operations[0].kind != BAND:
            return value, None
        operation = self._take(BAND)
        if operation.one(3007) != GREATER_OR_EQUAL or Tensor.of(operation.one(3000)) != value:
            raise ValueError("a mask of something else than the scores, or not a causal one")
        result = Tensor.of(operation.one(3006))
        _check_virtual(result, value.shape)
        return result, Tensor.of(operation.one(3005))

    def softmax(self, value: Tensor, result_type: int) -> Tensor:
        operation = self._take(SOFTMAX)
        if Tensor.of(operation.one(3100)) != value:
            raise ValueError("a softmax of something else than the scores")
        result = Tensor.of(operation.one(3101))
        _check_virtual(result, value.shape, result_type)
        return result

    def next_mode(self) -> int | None:
        """Of the pointwise operation that comes next, if one does."""
        first = self._operations[0] if self._operations else None
        return first.one(750).one(0) if first is not None and first.kind == APPLY else None

    def pointwise(
        self, mode: int, *known: Tensor, result: int = FLOAT, precision: int = FLOAT, axis: int | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Result and operands of the next operation, the first of which are ``known``."""
        operation = self._take(APPLY)
        descriptor = operation.one(750)
        if (descriptor.one(0), descriptor.one(1)) != (mode, precision):
            raise ValueError(f"pointwise operation {descriptor.one(0)} in {descriptor.one(1)}")
        if descriptor.values.get(9, [None]) != [axis]:
            raise ValueError(f"an axis {descriptor.values.get(9)} of pointwise operation {mode}")
        operands = [Tensor.of(operation.one(number)) for number in OPERANDS if number in operation.values]
        if tuple(operands[: len(known)]) != known:
            raise ValueError(f"pointwise operation {mode} of something else than the chain's values")
        found = Tensor.of(operation.one(753))
        _check_virtual(found, known[0].shape, result)
        return found, operands

    def _take(self, kind: int) -> Any:
        if not self._operations or self._operations[0].kind != kind:
            raise ValueError(f"an operation of kind {kind} is missed")
        return self._operations.pop(0)

    def end(self) -> None:
        if self._operations:
            raise ValueError("operations behind the second product")


def _chain(operations: Sequence[Any], version: int) -> Problem:
    chain = _Chain(operations)
    q, turned, value = chain.product()
    if len(turned.shape) != 4 or turned.strides[2] != 1:
        raise ValueError("keys are not transposed")
    k = Tensor(
        turned.number,
        turned.type,
        tuple(turned.shape[axis] for axis in (0, 1, 3, 2)),
        tuple(turned.strides[axis] for axis in (0, 1, 3, 2)),
        turned.alignment,
        turned.virtual,
    )
    shape = (*q.shape[:3], k.shape[2])
    _check_virtual(value, shape)
    scale = bias = hidden = None
    if chain.next_mode() == MUL:
        value, (_, scale) = chain.pointwise(MUL, value)
    if chain.next_mode() == ADD:
        value, (_, bias) = chain.pointwise(ADD, value)
    if version >= SHORT:
        value, hidden = chain.causal(value)
    elif chain.next_mode() == INDEX:
        row, _ = chain.pointwise(INDEX, value, result=INT32, axis=2)
        column, _ = chain.pointwise(INDEX, value, result=INT32, axis=3)
        seen, _ = chain.pointwise(GREATER_OR_EQUAL, row, column, result=BOOLEAN, precision=BOOLEAN)
        value, (_, hidden, asked) = chain.pointwise(SELECT, value)
        if asked != seen:
            raise ValueError("the mask is not what is selected by")
    if version >= SHORT:
        weights = chain.softmax(value, q.type)
    else:
        top = chain.reduction(REDUCE_MAX, value)
        value, _ = chain.pointwise(SUB, value, top)
        powers, _ = chain.pointwise(EXP, value)
        total = chain.reduction(REDUCE_ADD, powers)
        logarithm, _ = chain.pointwise(LOG, total)
        chain.pointwise(ADD, top, logarithm)
        weights, _ = chain.pointwise(DIV, powers, total, result=q.type)
    left, v, out = chain.product()
    if left != weights:
        raise ValueError("the second product is not of the weights")
    chain.end()
    return Problem("chain", q, k, v, out, scale, bias, hidden)
