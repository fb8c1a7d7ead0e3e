"""How an expression with reductions is computed: one pass over the reduced axes for each depth of reductions.

The depth of a reduction is one more than that of the deepest reduction its argument hangs on. Pass ``d``
computes the reductions of depth ``d``; a last pass computes the results that vary along the reduced axes.
"""

from __future__ import annotations

import functools

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import LEAVES, REDUCTIONS, TRANSCENDENTAL, Expression
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.scalar import WIDE_FLOATS


@dataclass(frozen=True, slots=True)
class Phase:
    """A pass: the instructions whose values it needs at each point, those of them that it caches first."""

    roots: tuple[int, ...]
    reductions: tuple[int, ...]
    outputs: tuple[int, ...]
    cost: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """All passes; ``cached`` are the instructions kept from the pass that computes them for later ones."""

    phases: tuple[Phase, ...]
    cached: tuple[int, ...]


def depths(expression: Expression) -> list[int]:
    """For each instruction the number of passes over the reduced axes that must come before its value."""
    found: list[int] = []
    for instruction in expression.instructions:
        depth = max((found[a] for a in instruction.operands), default=0)
        found.append(depth + (instruction.op in REDUCTIONS))
    return found


@functools.lru_cache(maxsize=4096)
def schedule(expression: Expression, *, cache: bool) -> Schedule:
    """The passes of ``expression``; with ``cache`` costly values that several passes need are kept."""
    instructions, reduced, levels = expression.instructions, expression.reduced(), depths(expression)
    reductions = [p for p, instruction in enumerate(instructions) if instruction.op in REDUCTIONS]
    groups: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for level in range(1, max((levels[p] for p in reductions), default=0) + 1):
        members = tuple(p for p in reductions if levels[p] == level)
        groups.append((members, ()))
    varying = tuple(number for number, output in enumerate(expression.outputs) if not reduced[output])
    if varying:
        groups.append(((), varying))
    roots = [
        tuple(instructions[p].arguments[0] for p in members)
        + tuple(expression.outputs[number] for number in outputs)
        for members, outputs in groups
    ]
    needed = [_closure(expression, group, reduced) for group in roots]
    cached: list[int] = []
    if cache:
        for position, instruction in enumerate(instructions):
            uses = sum(position in closure for closure in needed)
            if uses > 1 and not reduced[position] and instruction.op in TRANSCENDENTAL:
                cached.append(position)
    phases: list[Phase] = []
    known: set[int] = set()
    for (members, outputs), group in zip(groups, roots, strict=True):
        closure = _closure(expression, group, reduced, known)
        known |= {position for position in cached if position in closure}
        cost = sum(
            10 if instructions[p].op in TRANSCENDENTAL else instructions[p].op not in LEAVES for p in closure
        )
        phases.append(Phase(group, members, outputs, cost + len(members)))
    return Schedule(tuple(phases), tuple(cached))


def _closure(
    expression: Expression, roots: tuple[int, ...], reduced: tuple[bool, ...], known: set[int] | None = None
) -> set[int]:
    """The varying instructions that ``roots`` need, without what only ``known`` ones need."""
    found: set[int] = set()
    pending = list(roots)
    while pending:
        position = pending.pop()
        if position in found or reduced[position] or (known is not None and position in known):
            continue
        found.add(position)
        pending.extend(expression.instructions[position].operands)
    return found


def accumulator(dtype: DType) -> DType:
    """The type that a reduction of ``dtype`` is accumulated and kept in: small floats in float32."""
    return WIDE_FLOATS.get(dtype, dtype)


def reduction_identity(op: str, dtype: DType) -> float | int:
    """What a reduction over nothing gives."""
    if op in ("reduce_sum", "reduce_prod"):
        return int(op == "reduce_prod")
    largest = op == "reduce_min"
    if dtype.is_float:
        return float("inf") if largest else float("-inf")
    if dtype is DType.BOOL:
        return int(largest)
    bits = 8 * dtype.itemsize - (dtype.kind == "i")
    if largest:
        return (1 << bits) - 1
    return -(1 << bits) if dtype.kind == "i" else 0
