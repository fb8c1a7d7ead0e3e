"""Tensors beyond the caches: results are written past them, so that nobody reads their lines before.

Operands of rows are fetched a row ahead, while memory would be idle, and so are those of maps that take long.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxplan.compiler.expression import Expression
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.geometry import unique_bytes
from onnxplan.kernels.phases import Phase, Schedule

STREAMED_BYTES = 32 << 20
"""A result from this size on leaves the caches before anybody reads it, an operand before it comes again."""
# Of shorter rows too many lines are written in two parts, which takes longer than reading them before.
LEAST_ROW_BYTES = 1024
# Of shorter ones that adjoin, putting such lines together takes longer.
LEAST_JOINED_ROW_BYTES = 256
JOINED_BYTES = 4
"""Elements as large and larger can be joined by a :class:`~onnxplan.kernels.cpu.stream_code.FloatStream`."""
LEAST_AHEAD, MOST_AHEAD = 4096, 16384
"""Bytes ahead: the processor's own prefetchers see less far; more would leave the first cache."""
# What an exponential costs.
COSTLY = 10


def streams(
    target: Target, output: View, kind: str, row_elements: int, lanes: int, *, joins: bool = False
) -> bool:
    """Should a kernel write ``output`` past the caches, in rows of neighbours and whole vectors of ``lanes``?

    Does it join what two rows that adjoin have in one line (``joins``)? ``kind`` is the output's access class
    along the rows (:func:`onnxplan.kernels.cpu.walk.access_class`).
    """
    size = output.dtype.itemsize
    joined = joins and size >= JOINED_BYTES and output.is_dense
    least = LEAST_JOINED_ROW_BYTES if joined else LEAST_ROW_BYTES
    return (
        has_streams(target)
        and kind == "c"
        and lanes * size == target.vector_bytes
        and row_elements * size >= least
        and beyond_caches(output)
    )


def beyond_caches(view: View) -> bool:
    """Is a tensor so large that caches do not help?"""
    return unique_bytes(view) >= STREAMED_BYTES


def has_streams(target: Target) -> bool:
    """Has the instruction set stores that pass the caches, and masks for what lies beside whole vectors?"""
    return target.isa in ("avx512", "avx2")


def streamed_output(
    target: Target, outputs: Sequence[View], kinds: str, row_elements: int, lanes: int, *, joins: bool
) -> bool:
    """:func:`streams` of the one output of a step; ``kinds`` are those of all operands, outputs last."""
    return len(outputs) == 1 and streams(target, outputs[0], kinds[-1], row_elements, lanes, joins=joins)


def fetching_pass(plan: Schedule, *, behind: bool) -> Phase:
    """The pass that fetches what later rows read: a costly one, as memory is idle meanwhile, or the last.

    Where the last is done one row ``behind``, it is beside the pass that fetches.
    """
    phases = plan.phases[:-1] if behind else plan.phases
    return next((costly for costly in phases if costly.cost >= COSTLY), phases[0 if behind else -1])


def fetches(expression: Expression, *, streamed: bool) -> bool:
    """Should a map fetch what lies :data:`LEAST_AHEAD` bytes ahead in its operands?

    While arithmetic fills the processor's window, too few reads are under way. Cheap maps only lose by it.
    """
    return streamed and expression.cost >= COSTLY


def fetched_ahead(inputs: Sequence[View], kinds: str, row_elements: int) -> tuple[tuple[int, ...], int]:
    """Which operands of a kernel of rows to fetch ahead, and how many bytes; ``kinds`` as above.

    That hangs on no number of rows, and how many bytes on their length alone: one kernel serves any.
    """
    found = tuple(
        number for number, view in enumerate(inputs) if kinds[number] == "c" and not view.is_constant
    )
    row = max((row_elements * inputs[number].dtype.itemsize for number in found), default=0)
    return found, row if LEAST_AHEAD <= row <= MOST_AHEAD else LEAST_AHEAD
