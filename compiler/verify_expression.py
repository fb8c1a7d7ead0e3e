"""What a scalar expression must be: every instruction reads what precedes it, of the right types."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NoReturn

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import REDUCTIONS, Expression, Instruction
from onnxplan.compiler.scalar import OPERATIONS


class MalformedError(ValueError):
    """What is wrong with an operation; the caller adds where.

    Where a lowering rule emits one, the node's operands are at fault: it is the model's author who reads it.
    """


def fail(text: str) -> NoReturn:
    raise MalformedError(text)


def demand(condition: bool, text: str) -> None:
    """Fails unless ``condition``. What is checked often fails by itself: a text takes longer than a check."""
    if not condition:
        fail(text)


def check_expression(expression: Expression, inputs: Sequence[DType], rank: int, *, reductions: bool) -> None:
    """Raises :class:`MalformedError` unless ``expression`` is well-formed over operands of types ``inputs``.

    ``rank`` is that of the iteration space; ``reductions`` says whether it may hold any.
    """
    _check(expression, tuple(inputs), rank, reductions)


@functools.lru_cache(maxsize=4096)
def _check(expression: Expression, inputs: tuple[DType, ...], rank: int, reductions: bool) -> None:
    # The same few expressions stand in most operations; what is malformed raises anew each time.
    instructions = expression.instructions
    for position, instruction in enumerate(instructions):
        try:
            _check_instruction(instruction, position, instructions, inputs, rank, reductions)
        except MalformedError as error:
            raise MalformedError(f"instruction {position} ({instruction.op}) {error}") from None
    demand(bool(expression.outputs), "the expression has no outputs")
    for output in expression.outputs:
        if not 0 <= output < len(instructions):
            fail(f"output {output} is no instruction")


def _check_instruction(
    instruction: Instruction,
    position: int,
    instructions: Sequence[Instruction],
    inputs: Sequence[DType],
    rank: int,
    reductions: bool,
) -> None:
    op, arguments, dtype = instruction.op, instruction.arguments, instruction.dtype
    if op == "input":
        if len(arguments) != 1:
            fail("takes one operand number")
        if not 0 <= arguments[0] < len(inputs):
            fail(f"reads no operand {arguments[0]} of {len(inputs)}")
        if inputs[arguments[0]] is not dtype:
            fail(f"is {dtype}, operand {arguments[0]} {inputs[arguments[0]]}")
    elif op == "constant":
        _check_constant(instruction)
    elif op == "index":
        if len(arguments) != 1:
            fail("takes one axis")
        if not 0 <= arguments[0] < rank:
            fail(f"has no axis {arguments[0]}")
        if dtype is not DType.INT64:
            fail(f"is {dtype}, not int64")
    else:
        for argument in arguments:
            if not 0 <= argument < position:
                fail(f"reads what does not precede it: {arguments}")
        types = [instructions[argument].dtype for argument in arguments]
        if op not in REDUCTIONS:
            _check_scalar(instruction, types)
        elif not reductions:
            fail("stands where no reduction may")
        elif types != [dtype]:
            fail(f"of {types} is {dtype}")
        elif dtype.kind not in "fiub":
            fail(f"of {dtype}")


def _check_constant(instruction: Instruction) -> None:
    dtype, value = instruction.dtype, instruction.value
    if instruction.arguments != ():
        fail("takes no arguments")
    if dtype.is_float:
        if not isinstance(value, str):
            fail(f"holds {value!r}, which is not a hexadecimal float")
        return
    if type(value) is not int:
        fail(f"holds {value!r}, which is not an int")
    bits = _BITS.get(dtype, 8 * dtype.itemsize)
    low, high = (-(1 << (bits - 1)), 1 << (bits - 1)) if dtype.kind == "i" else (0, 1 << bits)
    if not low <= value < high:
        fail(f"holds {value}, which is out of the range of {dtype}")


_BITS = {DType.INT4: 4, DType.UINT4: 4, DType.INT2: 2, DType.UINT2: 2, DType.BOOL: 1}


def _check_scalar(instruction: Instruction, types: list[DType]) -> None:
    entry = OPERATIONS.get(instruction.op)
    if entry is None:
        fail("is no scalar operation")
    if len(types) != entry.arity:
        fail(f"has {len(types)} arguments, not {entry.arity}")
    if instruction.op.startswith("cast"):
        for dtype, way in ((types[0], "of"), (instruction.dtype, "to")):
            if dtype.kind not in "fiub":
                fail(f"{way} {dtype}")
        return
    if instruction.op == "select":
        if types[0] is not DType.BOOL:
            fail(f"chooses by {types[0]}")
        types = types[1:]
    common = types[0]
    if any(dtype is not common for dtype in types):
        fail(f"mixes {', '.join(map(str, types))}")
    if common.kind not in entry.kinds:
        fail(f"of {common}")
    expected = DType.BOOL if entry.result == "bool" else common
    if instruction.dtype is not expected:
        fail(f"of {common} is {instruction.dtype}, not {expected}")
