"""What constant masks say about attention: which keys a tile of queries needs, and which are unmasked."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.expression import Expression, ExpressionBuilder, Instruction
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.scalar import evaluate_quietly
from onnxplan.compiler.view import View

Flags = npt.NDArray[np.bool_]

HIDDEN = -1e30
"""Scores below this have a weight of exactly 0 beside any key that is not hidden."""

MOST_SCORES = 1 << 26
"""Masks of more elements are not looked at: that would take longer than it saves."""


@dataclass(frozen=True, slots=True)
class ScoreBlocks:
    """``inner`` is what the score amounts to in the blocks of the table.

    A row of ``table`` (int32) is for one tile of queries: the first block of keys that it needs, the first
    and the end of those that ``inner`` serves, the end of those that it needs.
    """

    inner: Expression
    table: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class _Value:
    """An instruction's result: where it is known or hides its key, and its position in ``inner``."""

    known: npt.NDArray[Any] | None
    hidden: Flags | None
    position: int


def score_blocks(
    score: Expression, extras: Sequence[View], rows: int, keys: int, tile_rows: int, block_keys: int
) -> ScoreBlocks | None:
    """The table for tiles of ``tile_rows`` queries and blocks of ``block_keys`` keys.

    ``None`` where the constants among ``extras`` (views of ``(*batch, rows, keys)``) allow nothing to be left
    out. What a hidden key would add to a result, if its value is NaN or infinite, is left out too.
    """
    if rows * keys > MOST_SCORES:
        return None
    known = [constant_of(view) for view in extras]
    if all(array is None for array in known):
        return None
    builder = ExpressionBuilder()
    plain: Flags = np.ones((1, 1), np.bool_)
    values: list[_Value] = []
    for instruction in score.instructions:
        value, condition = _evaluate(instruction, values, known, builder)
        values.append(value)
        if condition is not None:
            plain = plain & condition
    (output,) = score.outputs
    result = values[output]
    inner = builder.build((result.position,))
    alive = ~np.broadcast_to(result.hidden if result.hidden is not None else False, (rows, keys))
    # A row that hides all keys has the weights that their scores say.
    alive |= ~alive.any(axis=1, keepdims=True)
    table = _table(alive, np.broadcast_to(plain, (rows, keys)), tile_rows, block_keys)
    blocks = -(-keys // block_keys)
    everything = bool((table[:, 0] == 0).all() and (table[:, 3] == blocks).all())
    if everything and (inner == score or bool((table[:, 1] == table[:, 2]).all())):
        return None
    return ScoreBlocks(inner, table)


def constant_of(view: View) -> npt.NDArray[Any] | None:
    """The elements of a constant that all of the batch shares; of extent 1 where they do not vary."""
    outer = zip(view.shape[:-2], view.strides[:-2], strict=True)
    if not view.is_constant or any(stride and extent > 1 for extent, stride in outer):
        return None
    shape = tuple(
        extent if stride else 1 for extent, stride in zip(view.shape[-2:], view.strides[-2:], strict=True)
    )
    return View(view.storage, view.offset, shape, view.strides[-2:]).numpy()


def _evaluate(
    instruction: Instruction,
    values: Sequence[_Value],
    constants: Sequence[npt.NDArray[Any] | None],
    builder: ExpressionBuilder,
) -> tuple[_Value, Flags | None]:
    """The value of an instruction, and where it is what ``inner`` says."""
    if instruction.op in ("input", "constant", "index"):
        known = None
        if instruction.op == "constant":
            known = np.array(instruction.number, instruction.dtype.numpy).reshape(1, 1)
        elif instruction.op == "input" and instruction.arguments[0]:
            known = constants[instruction.arguments[0] - 1]
        return _Value(known, _hidden(known), builder.add(instruction)), None
    operands = [values[position] for position in instruction.operands]
    position = builder.add(
        Instruction(instruction.op, tuple(v.position for v in operands), instruction.dtype, instruction.value)
    )
    arrays = [operand.known for operand in operands]
    present = [array for array in arrays if array is not None]
    if len(present) == len(operands):
        known = evaluate_quietly(instruction.op, instruction.dtype, present)
        return _Value(known, _hidden(known), position), None
    if instruction.op == "select" and arrays[0] is not None:
        chosen = arrays[0].astype(np.bool_)
        branches = [np.False_ if v.hidden is None else v.hidden for v in operands[1:]]
        return _Value(None, np.where(chosen, *branches), operands[1].position), chosen
    if instruction.op == "add" and present:
        (added,) = present
        (other,) = (operand for operand in operands if operand.known is None)
        hiding = [flags for flags in (_hidden(added), other.hidden) if flags is not None]
        hidden = functools.reduce(np.logical_or, hiding) if hiding else None
        if bool((added == 0).any()) and added.size > 1:
            return _Value(None, hidden, other.position), added == 0
        return _Value(None, hidden, position), None
    passes = instruction.op == "cast" or (
        instruction.op == "mul" and bool(present) and bool((present[0] > 0).all())
    )
    hidden_operands = [operand.hidden for operand in operands if operand.known is None]
    return _Value(None, hidden_operands[0] if passes else None, position), None


def _hidden(known: npt.NDArray[Any] | None) -> Flags | None:
    if known is None or known.dtype.kind in "biu":
        return None
    return np.asarray(known.astype(np.float64) <= HIDDEN)


def _table(alive: Flags, plain: Flags, tile_rows: int, block_keys: int) -> npt.NDArray[np.int32]:
    rows, keys = alive.shape
    row_starts, key_starts = np.arange(0, rows, tile_rows), np.arange(0, keys, block_keys)
    needed = np.logical_or.reduceat(np.logical_or.reduceat(alive, row_starts, 0), key_starts, 1)
    inside = np.logical_and.reduceat(np.logical_and.reduceat(plain, row_starts, 0), key_starts, 1)
    # The last block may reach beyond the keys.
    inside[:, keys // block_keys :] = False
    table = np.zeros((len(row_starts), 4), np.int32)
    for row, (wanted, simple) in enumerate(zip(needed, inside, strict=True)):
        places = np.flatnonzero(wanted)
        first, last = int(places[0]), int(places[-1]) + 1
        start, end = _longest_run(simple[first:last])
        table[row] = first, first + start, first + end, last
    return table


def _longest_run(flags: Flags) -> tuple[int, int]:
    """The longest range in which all ``flags`` are set."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    runs = [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]
    return max(runs, key=lambda run: run[1] - run[0], default=(0, 0))
