"""Happens-before by vector clocks, and the accesses that must be ordered by it.

Every stream is a timeline; an operation is a position on it. A clock maps a timeline to the last position
that is known to come before. The host has one clock whatever its threads: what one thread has waited for is
taken to be known to all of them, so that an ordering by locks or queues is never a false alarm.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from standin_errors import StrictError

Clock = dict[int, int]

READ = "reads"
WRITE = "writes"
UNKNOWN = "reads or writes"
ANY = (READ, WRITE, UNKNOWN)
CHANGES = (WRITE, UNKNOWN)


class Access(NamedTuple):
    """Bytes ``start`` to ``end`` (addresses, end excluded) and what is done to them."""

    start: int
    end: int
    mode: str


def join(clock: Clock, other: Clock) -> None:
    """Let ``clock`` know all that ``other`` knows."""
    for timeline, position in other.items():
        if clock.get(timeline, 0) < position:
            clock[timeline] = position


def conflict(first: str, second: str) -> bool:
    """Whether two accesses to the same bytes need an ordering. Two unknown ones may both be reads."""
    if first == second:
        return first == WRITE
    return True


class AccessLog:
    """The accesses to one allocation, except old ones that the host knows to be over."""

    def __init__(self) -> None:
        self._positions: dict[tuple[int, Access], tuple[int, str]] = {}

    def check(self, access: Access, clock: Clock, ordering: Ordering, label: str) -> None:
        """Raise unless every conflicting access so far comes before an operation that has this clock."""
        for other, timeline, position, name in self._overlapping(access):
            if conflict(other.mode, access.mode) and not ordering.covers(clock, timeline, position):
                raise StrictError(
                    f"{label} {access.mode} {access.end - access.start} bytes at {access.start:#x} while"
                    f" {name} {other.mode} {other.end - other.start} bytes at {other.start:#x}"
                    " and nothing orders the two (no event, wait or synchronisation between their streams)"
                )

    def record(self, access: Access, timeline: int, position: int, label: str) -> None:
        self._positions[timeline, access] = (position, label)

    def unfinished(self, ordering: Ordering, start: int, end: int) -> Iterator[tuple[Access, str]]:
        """The accesses to some bytes that the host does not know to be over."""
        for access, timeline, position, name in self._overlapping(Access(start, end, UNKNOWN)):
            if not ordering.covers(ordering.host, timeline, position):
                yield access, name

    def prune(self, ordering: Ordering) -> None:
        if len(self._positions) > 64:
            self._positions = {
                key: value
                for key, value in self._positions.items()
                if not ordering.covers(ordering.host, key[0], value[0])
            }

    def _overlapping(self, access: Access) -> Iterator[tuple[Access, int, int, str]]:
        for (timeline, other), (position, name) in self._positions.items():
            if other.start < access.end and access.start < other.end:
                yield other, timeline, position, name


class Ordering:
    """The timelines that exist and what the host knows of them."""

    def __init__(self) -> None:
        self.host: Clock = {}
        self._live: set[int] = set()
        self._last = 0

    def open_timeline(self) -> int:
        self._last += 1
        self._live.add(self._last)
        return self._last

    def close_timeline(self, timeline: int) -> None:
        """Forget a timeline; all that happened on it counts as over."""
        self._live.discard(timeline)
        self.host.pop(timeline, None)

    def trimmed(self, clock: Clock) -> Clock:
        """A copy of a clock without timelines that are closed."""
        return {timeline: position for timeline, position in clock.items() if timeline in self._live}

    def covers(self, clock: Clock, timeline: int, position: int) -> bool:
        """Whether a clock knows a position to be over."""
        return timeline not in self._live or clock.get(timeline, 0) >= position

    def host_learns(self, clock: Clock) -> None:
        join(self.host, self.trimmed(clock))


def merged(accesses: Iterable[Access]) -> tuple[Access, ...]:
    """Each access once, in order of first appearance."""
    return tuple(dict.fromkeys(accesses))
