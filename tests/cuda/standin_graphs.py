"""Stream capture and graphs: what a captured stream records, and what a launch of it does."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from standin_errors import (
    CAPTURE_INVALIDATED,
    CAPTURE_UNJOINED,
    CAPTURE_UNMATCHED,
    CAPTURE_WRONG_THREAD,
    CudaStatus,
    StrictError,
)
from standin_order import Access, conflict, merged
from standin_streams import Busy, Operation, Run, Stream, Work

GLOBAL, THREAD_LOCAL, RELAXED = 0, 1, 2
MODE_NAMES = ("global", "thread local", "relaxed")


@dataclass(eq=False)
class Node:
    """One operation of a graph; ``before`` has bit n set where node n must run first.

    ``exact`` is what it touches, compared with other branches.
    """

    number: int
    work: Work
    before: int
    exact: tuple[Access, ...]

    @property
    def after_it(self) -> int:
        """What comes before a node that depends on this one."""
        return self.before | 1 << self.number


@dataclass(eq=False)
class Capture:
    """A capture under way on ``origin`` and the streams that joined it by events."""

    origin: Stream
    mode: int
    thread: int
    nodes: list[Node] = field(default_factory=list)
    tails: dict[Stream, int] = field(default_factory=dict)
    """Per stream the nodes (as bits) that its next node comes after."""
    spoilt: str | None = None
    """Why the capture cannot give a graph any more."""

    def add(self, stream: Stream, work: Work, exact: tuple[Access, ...]) -> None:
        """Record an operation; raises where an earlier node of another branch conflicts with it."""
        if self.spoilt is not None:
            raise CudaStatus(CAPTURE_INVALIDATED, self.spoilt)
        before = self.tails[stream]
        node = Node(len(self.nodes), work, before, exact)
        if before != (1 << node.number) - 1:
            self._check_branches(node)
        self.nodes.append(node)
        self.tails[stream] = node.after_it

    def _check_branches(self, node: Node) -> None:
        for other in self.nodes:
            if node.before >> other.number & 1:
                continue
            for mine in node.exact:
                for theirs in other.exact:
                    overlap = mine.start < theirs.end and theirs.start < mine.end
                    if overlap and conflict(mine.mode, theirs.mode):
                        raise StrictError(
                            f"in a capture {node.work.label} {mine.mode} {mine.start:#x} and"
                            f" {other.work.label} {theirs.mode} it in another branch, and nothing orders them"
                        )

    def fork(self, stream: Stream, bits: int) -> None:
        """Let a stream come after nodes, and take it into the capture if it is not in it."""
        self.tails[stream] = self.tails.get(stream, 0) | bits
        stream.capture = self

    def spoil(self, why: str) -> None:
        self.spoilt = self.spoilt or why

    def release(self) -> None:
        for stream in self.tails:
            stream.capture = None

    def finish(self, stream: Stream) -> tuple[Node, ...]:
        """The nodes, at the end of the capture on ``stream``."""
        if stream is not self.origin:
            raise CudaStatus(CAPTURE_UNMATCHED, "the capture began on another stream")
        if self.mode != RELAXED and self.thread != threading.get_ident():
            raise CudaStatus(CAPTURE_WRONG_THREAD, "the capture began on another thread")
        self.release()
        if self.spoilt is not None:
            raise CudaStatus(CAPTURE_INVALIDATED, self.spoilt)
        joined = self.tails[self.origin]
        if any(tail & ~joined for tail in self.tails.values()):
            raise CudaStatus(CAPTURE_UNJOINED, "a stream that was forked off was not joined again")
        return tuple(self.nodes)


@dataclass(eq=False)
class Graph:
    handle: int
    nodes: tuple[Node, ...]

    def __str__(self) -> str:
        return f"graph {self.handle:#x}"


class GraphExec:
    """An instantiated graph. It is work for a stream: all its nodes as one operation."""

    def __init__(self, handle: int, device: int, nodes: tuple[Node, ...], chance) -> None:
        self.handle = handle
        self.device = device
        self.nodes = nodes
        self.last_launch: Operation | None = None
        self.accesses: tuple[Access, ...] = merged(access for node in nodes for access in node.work.accesses)
        self._chance = chance

    @property
    def label(self) -> str:
        return f"{self} of {len(self.nodes)} nodes"

    def __str__(self) -> str:
        return f"executable graph {self.handle:#x}"

    def issue(self, busy: Busy) -> Run:
        touched: list[Access] = []

        def busy_inside(address: int, nbytes: int, modes: tuple[str, ...]) -> bool:
            inside = any(
                access.start < address + nbytes and address < access.end and access.mode in modes
                for access in touched
            )
            return inside or busy(address, nbytes, modes)

        runs = []
        for node in self.nodes:
            runs.append(node.work.issue(busy_inside))
            touched += node.work.accesses
        order = self._order()

        def run() -> None:
            for number in order:
                runs[number]()

        return run

    def _order(self) -> list[int]:
        """Node numbers in an order that a device may take."""
        if self._chance is None:
            return list(range(len(self.nodes)))
        done, order, left = 0, [], list(self.nodes)
        while left:
            ready = [node for node in left if not node.before & ~done]
            node = self._chance.choice(ready)
            left.remove(node)
            order.append(node.number)
            done |= 1 << node.number
        return order
