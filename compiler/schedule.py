"""The order of the steps: as lowered, or another one where that needs less memory."""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterable, Sequence

from onnxplan.compiler.emission import EmittedStep
from onnxplan.compiler.overlap import may_overlap
from onnxplan.compiler.view import Storage, View

_CANDIDATES = 16
"""How many of the steps that could come next are compared."""


def schedule(steps: Sequence[EmittedStep], external: Container[Storage]) -> list[EmittedStep]:
    """The steps in the order that keeps fewer bytes alive: theirs, or one found greedily.

    ``external`` storages take no arena. Dependencies on storages (what is read after it was written, what
    is overwritten after it was read) are kept. The given order stays where the other is no better.
    """
    sizes = _sizes(steps, external)
    storages = [dict.fromkeys([v.storage for v in step.operands if v.storage in sizes]) for step in steps]
    given = range(len(steps))
    peak = _peak(storages, given, sizes)
    if peak <= max((sum([sizes[each] for each in used]) for used in storages), default=0):
        return list(steps)
    order = _greedy(steps, storages, sizes)
    if _peak(storages, order, sizes) < peak:
        return [steps[number] for number in order]
    return list(steps)


def _sizes(steps: Sequence[EmittedStep], external: Container[Storage]) -> dict[Storage, int]:
    """The bytes of the storages that take any of the arena."""
    used = dict.fromkeys([view.storage for step in steps for view in step.operands])
    arena = [storage for storage in used if not storage.is_constant and storage not in external]
    return {storage: nbytes for storage in arena if (nbytes := storage.nbytes)}


def _peak(storages: Sequence[Iterable[Storage]], order: Sequence[int], sizes: dict[Storage, int]) -> int:
    """The most bytes alive at once where the steps that use ``storages`` run in ``order``."""
    last: dict[Storage, int] = {}
    for number in order:
        last.update(dict.fromkeys(storages[number], number))
    seen: set[Storage] = set()
    alive = peak = 0
    for number in order:
        for storage in storages[number]:
            if storage not in seen:
                seen.add(storage)
                alive += sizes[storage]
        peak = max(peak, alive)
        for storage in storages[number]:
            if last[storage] == number:
                alive -= sizes[storage]
    return peak


def dependencies(steps: Sequence[EmittedStep]) -> list[set[int]]:
    """For each step the numbers of the steps that must come before it."""
    before: list[set[int]] = [set() for _ in steps]
    writes: dict[Storage, list[tuple[int, View]]] = {}
    reads: dict[Storage, list[tuple[int, View]]] = {}
    for number, step in enumerate(steps):
        needed = before[number]
        used = [(view, position in step.outputs) for position, view in enumerate(step.operands)]
        used = [(view, is_written) for view, is_written in used if not view.is_constant]
        for view, is_written in used:
            earlier = writes.get(view.storage, ())
            if is_written:
                needed.update([n for n, other in earlier if may_overlap(view, other)])
                needed.update([n for n, other in reads.get(view.storage, ()) if may_overlap(view, other)])
            else:
                needed.update([n for n, _ in earlier])
        for view, is_written in used:
            (writes if is_written else reads).setdefault(view.storage, []).append((number, view))
    return before


def _greedy(
    steps: Sequence[EmittedStep], storages: Sequence[Iterable[Storage]], sizes: dict[Storage, int]
) -> list[int]:
    """Of the steps that could come next, always the one after which the fewest bytes are alive."""
    before = dependencies(steps)
    after: list[list[int]] = [[] for _ in steps]
    for number, needed in enumerate(before):
        for other in needed:
            after[other].append(number)
    missing = [len(needed) for needed in before]
    uses: dict[Storage, int] = {}
    for used in storages:
        for storage in used:
            uses[storage] = uses.get(storage, 0) + 1
    seen: set[Storage] = set()
    ready = [number for number, count in enumerate(missing) if count == 0]
    order: list[int] = []

    def growth(number: int) -> int:
        total = 0
        for storage in storages[number]:
            if storage not in seen:
                total += sizes[storage]
            if uses[storage] == 1:
                total -= sizes[storage]
        return total

    while ready:
        candidates = [heapq.heappop(ready) for _ in range(min(_CANDIDATES, len(ready)))]
        chosen = min(candidates, key=lambda number: (growth(number), number))
        for number in candidates:
            if number != chosen:
                heapq.heappush(ready, number)
        order.append(chosen)
        for storage in storages[chosen]:
            seen.add(storage)
            uses[storage] -= 1
        for number in after[chosen]:
            missing[number] -= 1
            if missing[number] == 0:
                heapq.heappush(ready, number)
    return order
