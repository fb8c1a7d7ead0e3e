"""Memory planning: where in the arena each temporary lies.

A storage is alive from the first to the last step that uses it. Where a kernel may write an output over an
input that dies at that step, the two share one place. Places are found greedily, best fit first, in several
orders, the first of which (by size, largest first) is that of Pisarchyk and Lee, *Efficient Memory
Management for Deep Neural Net Inference* (https://arxiv.org/abs/2001.03288).

Workers that share steps compute and read the same part of each storage, as far as they can: where a core
writes lines that another one's cache has, or reads lines that it wrote, each is fetched from there. So
storages lie around common middles, where that costs no memory: what is in one half of a storage is in the
same half of the next one at this place.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import field

from onnxplan.compiler.emission import EmittedStep
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.view import Storage, View

MIDDLE_ROUNDS = 2
"""What a place has no room for in the first round may have moved away by the second."""
MOST_MIDDLES = 8


@dataclass(frozen=True, slots=True)
class Placement:
    """Byte offsets of storages in the arena, its size, and the size below which no placement can be.

    The bound is the largest sum, over the steps, of the bytes alive at a step; sizes count rounded up to
    the alignment, storages that share a place count once. ``spans`` are the lifetimes of all storages.
    """

    offsets: dict[Storage, int]
    arena_bytes: int
    lower_bound: int
    spans: dict[Storage, tuple[int, int]]


@dataclass(slots=True, eq=False)
class _Place:
    """Storages that share memory one after the other; each is written over its predecessor."""

    size: int
    first: int
    last: int
    members: list[Storage] = field(default_factory=list)
    offset: int = 0


def lifetimes(steps: Sequence[EmittedStep]) -> dict[Storage, tuple[int, int]]:
    """The first and last step that use each storage."""
    first: dict[Storage, int] = {}
    last: dict[Storage, int] = {}
    for number, step in enumerate(steps):
        for view in step.operands:
            first.setdefault(view.storage, number)
            last[view.storage] = number
    return {storage: (number, last[storage]) for storage, number in first.items()}


def place(
    steps: Sequence[EmittedStep], external: Container[Storage], alignment: int, *, shared: bool = False
) -> Placement:
    """Places all storages that ``steps`` use, except constants and those in ``external``.

    ``shared`` says that several workers share steps.
    """
    spans = lifetimes(steps)
    alive = {
        storage: span
        for storage, span in spans.items()
        if not storage.is_constant and storage not in external
    }
    places = _shared_places(steps, alive, alignment)
    bound = _lower_bound(places, alive, len(steps), alignment)
    best: dict[_Place, int] | None = None
    arena = 0
    for order in _ORDERS:
        offsets, size = _best_fit(sorted(places, key=order), len(steps))
        if best is None or size < arena:
            best, arena = offsets, size
        if arena <= bound:
            break
    assert best is not None
    if shared:
        _share_middles(best, arena, len(steps), alignment)
    return Placement(
        {member: offset for place, offset in best.items() for member in place.members}, arena, bound, spans
    )


def _round_up(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _shared_places(
    steps: Sequence[EmittedStep], alive: dict[Storage, tuple[int, int]], alignment: int
) -> list[_Place]:
    by_storage: dict[Storage, _Place] = {}
    for number, step in enumerate(steps):
        for output, source in step.in_place:
            heir, dying = step.operands[output].storage, step.operands[source].storage
            if heir in by_storage or not _may_share(step, number, output, source, alive):
                continue
            shared = by_storage.get(dying)
            if shared is None:
                shared = by_storage[dying] = _Place(
                    _round_up(dying.nbytes, alignment), alive[dying][0], alive[dying][1], [dying]
                )
            if shared.members[-1] is not dying or _round_up(heir.nbytes, alignment) > shared.size:
                continue
            shared.members.append(heir)
            shared.last = alive[heir][1]
            by_storage[heir] = shared
    for storage, (first, last) in alive.items():
        if storage not in by_storage:
            by_storage[storage] = _Place(_round_up(storage.nbytes, alignment), first, last, [storage])
    return list(dict.fromkeys(by_storage.values()))


def _may_share(
    step: EmittedStep, number: int, output: int, source: int, alive: dict[Storage, tuple[int, int]]
) -> bool:
    """Does the source die here, the output begin here, and do all their views in this step coincide?"""
    heir, dying = step.operands[output].storage, step.operands[source].storage
    if heir is dying or heir not in alive or dying not in alive:
        return False
    if alive[heir][0] != number or alive[dying][1] != number:
        return False
    if heir.dtype.itemsize != dying.dtype.itemsize:
        return False
    for position, view in enumerate(step.operands):
        if view.storage is heir and position != output:
            return False
        if view.storage is dying and not (
            (output, position) in step.in_place and _coincide(view, step.operands[output])
        ):
            return False
    return True


def _coincide(a: View, b: View) -> bool:
    return a.offset == b.offset and a.shape == b.shape and a.strides == b.strides


def _lower_bound(
    places: Sequence[_Place], alive: dict[Storage, tuple[int, int]], count: int, alignment: int
) -> int:
    change = [0] * (count + 1)
    for shared in places:
        # From the step at which a member is written over its predecessor, only the member counts.
        for position, storage in enumerate(shared.members):
            first, last = alive[storage]
            if position + 1 < len(shared.members):
                last -= 1
            if position > 0:
                # Both are there during that step; the predecessor is the larger one.
                first += 1
                before = _round_up(shared.members[position - 1].nbytes, alignment)
                change[first - 1] += before
                change[first] -= before
            if first <= last:
                size = _round_up(storage.nbytes, alignment)
                change[first] += size
                change[last + 1] -= size
    bound = total = 0
    for delta in change:
        total += delta
        bound = max(bound, total)
    return bound


def _best_fit(places: Sequence[_Place], count: int) -> tuple[dict[_Place, int], int]:
    """Offsets for ``places`` in the given order, each in the smallest gap that holds it."""
    offsets: dict[_Place, int] = {}
    at_step: list[list[_Place]] = [[] for _ in range(count)]
    arena = 0
    for new in places:
        if new.size == 0:
            offsets[new] = 0
            continue
        neighbours = {other for step in at_step[new.first : new.last + 1] for other in step}
        taken = sorted((offsets[other], offsets[other] + other.size) for other in neighbours)
        offset = _gap(taken, new.size)
        offsets[new] = offset
        arena = max(arena, offset + new.size)
        for step in at_step[new.first : new.last + 1]:
            step.append(new)
    return offsets, arena


def _share_middles(offsets: dict[_Place, int], arena: int, count: int, alignment: int) -> None:
    """Moves places within the arena, the largest first, so that they lie around few middles."""
    at_step: list[list[_Place]] = [[] for _ in range(count)]
    for moved in offsets:
        for step in at_step[moved.first : moved.last + 1]:
            step.append(moved)
    order = sorted(offsets, key=_ORDERS[0])
    for _ in range(MIDDLE_ROUNDS):
        middles: dict[int, None] = {}
        for moved in order:
            others = {other for step in at_step[moved.first : moved.last + 1] for other in step} - {moved}
            taken = [(offsets[other], offsets[other] + other.size) for other in others]
            for middle in middles:
                start = (middle - moved.size // 2) // alignment * alignment
                if _is_free(taken, start, moved.size, arena):
                    offsets[moved] = start
                    break
            if len(middles) < MOST_MIDDLES:
                middles.setdefault(offsets[moved] + moved.size // 2)


def _is_free(taken: Sequence[tuple[int, int]], start: int, size: int, arena: int) -> bool:
    return 0 <= start <= arena - size and all(start + size <= low or high <= start for low, high in taken)


def _gap(taken: Sequence[tuple[int, int]], size: int) -> int:
    """The start of the smallest gap of at least ``size`` between sorted ranges, else their end."""
    best: int | None = None
    best_size = 0
    end = 0
    for low, high in taken:
        gap = low - end
        if gap >= size and (best is None or gap < best_size):
            best, best_size = end, gap
        end = max(end, high)
    return end if best is None else best


_ORDERS: tuple[Callable[[_Place], tuple[int, ...]], ...] = (
    lambda place: (-place.size, place.first),
    lambda place: (-place.size * (place.last - place.first + 1), place.first),
    lambda place: (place.first - place.last, -place.size),
    lambda place: (place.first, -place.size),
)
