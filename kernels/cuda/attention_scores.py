"""What the score of attention amounts to, if that is a factor, something added, and a causal mask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression, Instruction
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.scalar import evaluate_quietly
from onnxplan.compiler.view import View
from onnxplan.kernels.cuda.score_blocks import HIDDEN, MOST_SCORES, constant_of

Array = npt.NDArray[Any]
FLOATS = (DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32)


@dataclass(frozen=True, slots=True)
class PlainScores:
    """``scale`` times the product, plus the extra number ``bias``; ``causal`` queries see no later keys.

    Query 0 stands at key 0. Roundings in between are left out.
    """

    scale: float
    bias: int | None
    causal: bool


@dataclass(frozen=True, slots=True)
class _Value:
    """An instruction's result, as far as it is known.

    ``known`` are the elements of constants (1 where they do not vary), ``extra`` is the extra that it is,
    whatever its type, ``hides`` the one that it asks to be minus infinity. What became of the product has a
    ``scale``, and then a ``bias`` and keys that are ``seen``.
    """

    known: Array | None = None
    extra: int | None = None
    hides: int | None = None
    scale: float | None = None
    bias: int | None = None
    seen: Array | None = None

    @property
    def is_product(self) -> bool:
        """Is it the product times a number, and no more?"""
        return self.scale is not None and self.bias is None and self.seen is None


def plain_scores(
    score: Expression | None, extras: Sequence[View], rows: int, keys: int
) -> PlainScores | None:
    """``None`` where ``score`` is more than that; extras are views of ``(*batch, rows, keys)``."""
    if score is None:
        return PlainScores(1.0, None, causal=False)
    large = rows * keys > MOST_SCORES
    constants = [None if large else constant_of(view) for view in extras]
    values: list[_Value] = []
    for instruction in score.instructions:
        values.append(_evaluate(instruction, [values[p] for p in instruction.operands], constants))
    (output,) = score.outputs
    result = values[output]
    if result.scale is None:
        return None
    if result.seen is None or bool(result.seen.all()):
        return PlainScores(result.scale, result.bias, causal=False)
    causal = np.arange(keys) <= np.arange(rows)[:, None]
    if not np.array_equal(np.broadcast_to(result.seen, (rows, keys)), causal):
        return None
    return PlainScores(result.scale, result.bias, causal=True)


def _evaluate(
    instruction: Instruction, operands: Sequence[_Value], constants: Sequence[Array | None]
) -> _Value:
    """The value of an instruction; one without any content is nothing that is understood."""
    if instruction.op == "input":
        number = instruction.arguments[0] - 1
        return _Value(scale=1.0) if number < 0 else _Value(known=constants[number], extra=number)
    if instruction.op == "constant":
        return _Value(known=np.array(instruction.number, instruction.dtype.numpy).reshape(1, 1))
    if instruction.op == "cast" and instruction.dtype in FLOATS and operands[0].known is None:
        return operands[0]
    known = [operand.known for operand in operands if operand.known is not None]
    if operands and len(known) == len(operands):
        value = evaluate_quietly(instruction.op, instruction.dtype, known)
        return _Value(known=value, extra=operands[0].extra if instruction.op == "cast" else None)
    rule = {"mul": _scaled, "add": _added, "select": _chosen, "equal": _asked}.get(instruction.op)
    return _Value() if rule is None else rule(operands)


def _scaled(operands: Sequence[_Value]) -> _Value:
    first, second = operands if operands[0].scale is not None else reversed(operands)
    if not first.is_product or second.known is None or second.known.size != 1:
        return _Value()
    assert first.scale is not None
    scale = first.scale * float(second.known.item())
    return _Value(scale=scale) if 0 < scale < math.inf else _Value()


def _added(operands: Sequence[_Value]) -> _Value:
    first, second = operands if operands[0].scale is not None else reversed(operands)
    if first.scale is None or second.scale is not None:
        return _Value()
    if second.known is not None:
        hidden = np.asarray(second.known.astype(np.float64) <= HIDDEN)
        if bool((hidden | (second.known == 0)).all()):
            return _masked(first, ~hidden)
    if second.extra is None or first.bias is not None:
        return _Value()
    return _Value(scale=first.scale, bias=second.extra, seen=first.seen)


def _chosen(operands: Sequence[_Value]) -> _Value:
    condition, chosen, other = operands
    if condition.hides is not None and _hides(chosen) and other.bias == condition.hides:
        # Adding minus infinity says the same.
        return other
    if condition.known is None:
        return _Value()
    seen = condition.known.astype(np.bool_)
    if chosen.scale is None:
        chosen, other, seen = other, chosen, ~seen
    return _masked(chosen, seen) if chosen.scale is not None and _hides(other) else _Value()


def _asked(operands: Sequence[_Value]) -> _Value:
    first, second = operands if operands[0].extra is not None else reversed(operands)
    if first.extra is None or second.known is None or bool((second.known != -math.inf).any()):
        return _Value()
    return _Value(hides=first.extra)


def _hides(value: _Value) -> bool:
    return value.known is not None and bool((value.known.astype(np.float64) <= HIDDEN).all())


def _masked(value: _Value, seen: Array) -> _Value:
    seen = seen if value.seen is None else value.seen & seen
    return _Value(scale=value.scale, bias=value.bias, seen=seen)
