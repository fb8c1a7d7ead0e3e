"""Steps of a plan that may run beside each other, and the streams that they are captured on.

A captured graph keeps the order that streams and events give its steps. On one stream that is a chain; here
steps that do not depend on each other come to lie on several, where that is estimated to pay.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxplan.compiler.plan import ExecutionPlan, Operand
from onnxplan.compiler.records import dataclass

MOST_BRANCHES = 4
"""Streams of one graph."""
CROSSING_SECONDS = 1.5e-6
"""What a dependency between streams costs beside one on the same stream."""
LEAST_GAIN = 3e-6
"""How much earlier a step must be able to begin for it to leave the stream that it follows."""
LEAST_SAVING = 0.05
"""Share of a plan's estimated time that branches must save, ..."""
LEAST_SAVED_SECONDS = 5e-6
"""... and how much at least."""
KERNEL_SECONDS = 2e-6
"""The least that a step of a graph takes."""


@dataclass(frozen=True, slots=True)
class Work:
    """A launch as the schedule sees it: ``step`` is its number in the plan.

    A ``wide`` one fills the device by itself, so that nothing is gained by running others beside it.
    """

    step: int
    seconds: float
    wide: bool


@dataclass(frozen=True, slots=True)
class Branches:
    """For each launch its stream (0 is the slot's own) and the earlier launches on other streams that it
    waits for; ``tails`` are the launches that the end of the graph waits for."""

    streams: tuple[int, ...]
    waits: tuple[tuple[int, ...], ...]
    tails: tuple[int, ...]

    @property
    def count(self) -> int:
        """Streams."""
        return max(self.streams, default=0) + 1

    @property
    def recorded(self) -> frozenset[int]:
        """The launches that others wait for."""
        return frozenset(self.tails).union(*self.waits)


def serial(count: int) -> Branches:
    """All launches on one stream."""
    return Branches((0,) * count, ((),) * count, ())


def schedule(plan: ExecutionPlan, work: Sequence[Work]) -> Branches:
    """Streams for the launches of a plan, in its order; :func:`serial` where branches would not pay."""
    needs = dependencies(plan, [item.step for item in work])
    seconds = [max(item.seconds, KERNEL_SECONDS) for item in work]
    streams: list[int] = []
    ends: list[float] = []
    free = [0.0]
    tail: list[int | None] = [None]
    for number, item in enumerate(work):
        begins = [
            max([time, *(ends[d] + CROSSING_SECONDS * (streams[d] != stream) for d in needs[number])])
            for stream, time in enumerate(free)
        ]
        last = max(needs[number], key=lambda d: ends[d], default=None)
        home = 0 if last is None else streams[last]
        best = home
        if not item.wide:
            if len(free) < MOST_BRANCHES:
                begins.append(max((ends[d] + CROSSING_SECONDS for d in needs[number]), default=0.0))
            earliest = min(range(len(begins)), key=lambda stream: (begins[stream], stream))
            if begins[home] - begins[earliest] > LEAST_GAIN:
                best = earliest
        if best == len(free):
            free.append(0.0)
            tail.append(None)
        streams.append(best)
        free[best] = begins[best] + seconds[number]
        ends.append(free[best])
        tail[best] = number
    joined = max(ends, default=0.0) + CROSSING_SECONDS * (len(free) > 1)
    alone = sum(seconds)
    if len(free) == 1 or alone - joined < max(LEAST_SAVED_SECONDS, alone * LEAST_SAVING):
        return serial(len(work))
    tails = tuple(number for number in tail[1:] if number is not None)
    return Branches(tuple(streams), _waits(streams, needs), tails)


def _waits(streams: Sequence[int], needs: Sequence[frozenset[int]]) -> tuple[tuple[int, ...], ...]:
    """Which dependencies need an event: not those that a stream knows of already."""
    known: list[dict[int, int]] = []
    latest: dict[int, dict[int, int]] = {}
    waits: list[tuple[int, ...]] = []
    for number, stream in enumerate(streams):
        clock = dict(latest.get(stream, {}))
        waited: list[int] = []
        for need in sorted(needs[number], reverse=True):
            if clock.get(streams[need], -1) < need:
                waited.append(need)
                for other, position in known[need].items():
                    clock[other] = max(clock.get(other, -1), position)
        waits.append(tuple(sorted(waited)))
        clock[stream] = number
        known.append(clock)
        latest[stream] = clock
    return tuple(waits)


@dataclass(slots=True)
class _Writer:
    launch: int
    buffer: int
    low: int
    high: int


class _Segment:
    """Bytes that every buffer covers as a whole or not at all: who wrote them last, and who reads that."""

    __slots__ = ("readers", "writers")

    def __init__(self) -> None:
        self.writers: list[_Writer] = []
        self.readers: set[int] = set()


def dependencies(plan: ExecutionPlan, steps: Sequence[int]) -> list[frozenset[int]]:
    """For each of ``steps`` the earlier ones (by place in ``steps``) that must be over when it begins.

    Steps conflict where one writes a buffer that another uses, or one that shares memory with it. Only two
    that write different parts of the same buffer (of a concatenation) do not.
    """
    segments, spans = _segments(plan)
    needs: list[frozenset[int]] = []
    for launch, number in enumerate(steps):
        step = plan.steps[number]
        found: set[int] = set()
        written: dict[int, tuple[int, int]] = {}
        for position in step.outputs:
            operand = step.operands[position]
            low, high = _bytes(operand)
            known = written.get(operand.buffer, (low, high))
            written[operand.buffer] = min(low, known[0]), max(high, known[1])
        read = {o.buffer for position, o in enumerate(step.operands) if position not in step.outputs}
        for buffer in read:
            for segment in (segments[place] for place in spans.get(buffer, ())):
                found.update(writer.launch for writer in segment.writers)
        for buffer, (low, high) in written.items():
            for segment in (segments[place] for place in spans.get(buffer, ())):
                found.update(segment.readers)
                others = [each for each in segment.writers if not _is_apart(each, buffer, low, high)]
                found.update(writer.launch for writer in others)
                if low <= 0 and high >= plan.buffers[buffer].size:
                    # All that uses these bytes later comes after this launch, and so after what came before.
                    segment.writers, segment.readers = [], set()
                else:
                    covered = [each for each in others if _covers(each, buffer, low, high)]
                    segment.writers = [each for each in segment.writers if each not in covered]
                segment.writers.append(_Writer(launch, buffer, low, high))
        for buffer in read:
            for segment in (segments[place] for place in spans.get(buffer, ())):
                segment.readers.add(launch)
        found.discard(launch)
        needs.append(frozenset(found))
    return needs


def _is_apart(writer: _Writer, buffer: int, low: int, high: int) -> bool:
    return writer.buffer == buffer and (high <= writer.low or writer.high <= low)


def _covers(writer: _Writer, buffer: int, low: int, high: int) -> bool:
    """Does whatever meets the writer's bytes meet these too?"""
    return writer.buffer == buffer and low <= writer.low and writer.high <= high


def _bytes(operand: Operand) -> tuple[int, int]:
    """The bytes of its buffer that an operand may reach."""
    if 0 in operand.shape:
        return operand.offset, operand.offset
    item = operand.dtype.itemsize
    reaches = [(n - 1) * s * item for n, s in zip(operand.shape, operand.strides, strict=True)]
    low = operand.offset + sum(reach for reach in reaches if reach < 0)
    return low, operand.offset + sum(reach for reach in reaches if reach > 0) + item


def _segments(plan: ExecutionPlan) -> tuple[list[_Segment], dict[int, range]]:
    """Segments of all memory that steps write, and those of each buffer; constants have none."""
    by_place: dict[tuple[str, int], list[int]] = {}
    for number, buffer in enumerate(plan.buffers):
        if buffer.space != "constant" and buffer.size:
            by_place.setdefault((buffer.space, buffer.index), []).append(number)
    segments: list[_Segment] = []
    spans: dict[int, range] = {}
    for members in by_place.values():
        bounds = sorted({b for n in members for b in _range(plan, n)})
        first = len(segments)
        place = {bound: first + number for number, bound in enumerate(bounds)}
        segments += [_Segment() for _ in bounds]
        for number in members:
            low, high = _range(plan, number)
            spans[number] = range(place[low], place[high])
    return segments, spans


def _range(plan: ExecutionPlan, number: int) -> tuple[int, int]:
    buffer = plan.buffers[number]
    return buffer.offset, buffer.offset + buffer.size
