"""The order of the steps: as lowered, or another one where that needs less memory."""

from __future__ import annotations

import heapq
from collections.abc import Container, Sequence

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
    given = list(range(len(steps)))
    peak = _peak(steps, given, sizes)
    if peak <= max((_bytes_of(step, sizes) for step in steps), default=0):
        return list(steps)
    order = _greedy(steps, sizes)
    if _peak(steps, order, sizes) < peak:
        return [steps[number] for number in order]
    return list(steps)


def _sizes(steps: Sequence[EmittedStep], external: Container[Storage]) -> dict[Storage, int]:
    found: dict[Storage, int] = {}
    for step in steps:
        for view in step.operands:
            storage = view.storage
            if storage not in found:
                counts = not storage.is_constant and storage not in external
                found[storage] = storage.nbytes if counts else 0
    return found


def _storages(step: EmittedStep) -> dict[Storage, None]:
    return dict.fromkeys(view.storage for view in step.operands)


def _bytes_of(step: EmittedStep, sizes: dict[Storage, int]) -> int:
    return sum(sizes[storage] for storage in _storages(step))


def _peak(steps: Sequence[EmittedStep], order: Sequence[int], sizes: dict[Storage, int]) -> int:
    last: dict[Storage, int] = {}
    for position, number in enumerate(order):
        for view in steps[number].operands:
            last[view.storage] = position
    seen: set[Storage] = set()
    alive = peak = 0
    for position, number in enumerate(order):
        storages = _storages(steps[number])
        for storage in storages:
            if storage not in seen:
                seen.add(storage)
                alive += sizes[storage]
        peak = max(peak, alive)
        for storage in storages:
            if last[storage] == position:
                alive -= sizes[storage]
    return peak


def dependencies(steps: Sequence[EmittedStep]) -> list[set[int]]:
    """For each step the numbers of the steps that must come before it."""
    before: list[set[int]] = [set() for _ in steps]
    writes: dict[Storage, list[tuple[int, View]]] = {}
    reads: dict[Storage, list[tuple[int, View]]] = {}
    for number, step in enumerate(steps):
        outputs = set(step.outputs)
        for position, view in enumerate(step.operands):
            storage = view.storage
            if storage.is_constant:
                continue
            earlier = writes.get(storage, ())
            if position in outputs:
                conflicts = [
                    n for n, other in (*earlier, *reads.get(storage, ())) if may_overlap(view, other)
                ]
                before[number].update(conflicts)
            else:
                before[number].update(n for n, _ in earlier)
        for position, view in enumerate(step.operands):
            if not view.is_constant:
                events = writes if position in outputs else reads
                events.setdefault(view.storage, []).append((number, view))
        before[number].discard(number)
    return before


def _greedy(steps: Sequence[EmittedStep], sizes: dict[Storage, int]) -> list[int]:
    """Of the steps that could come next, always the one after which the fewest bytes are alive."""
    before = dependencies(steps)
    after: list[list[int]] = [[] for _ in steps]
    for number, needed in enumerate(before):
        for other in needed:
            after[other].append(number)
    missing = [len(needed) for needed in before]
    storages = [_storages(step) for step in steps]
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
