"""A bound on the CUDA graphs of a device: each takes memory of device and host."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Protocol

GRAPHS = 128


class GraphHolder(Protocol):
    """A slot; a run holds ``lock`` while it uses it."""

    @property
    def lock(self) -> threading.Lock: ...

    @property
    def pending(self) -> bool: ...

    def drop_graph(self) -> None: ...


class GraphCache:
    """The slots that have a graph, up to ``limit``; the graph that was not launched for longest goes first.

    Graphs of runs in flight stay, so the limit is exceeded while more runs than that are in flight.
    """

    def __init__(self, limit: int = GRAPHS) -> None:
        self.limit = limit
        self._holders: OrderedDict[int, GraphHolder] = OrderedDict()
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._holders)

    def make_room(self) -> None:
        """Destroys graphs of idle slots until there is room for another."""
        with self._lock:
            for key, holder in list(self._holders.items()):
                if len(self._holders) < self.limit:
                    return
                if not holder.lock.acquire(blocking=False):
                    continue
                try:
                    if not holder.pending:
                        del self._holders[key]
                        holder.drop_graph()
                finally:
                    holder.lock.release()

    def add(self, holder: GraphHolder) -> None:
        with self._lock:
            self._holders[id(holder)] = holder

    def touch(self, holder: GraphHolder) -> None:
        """Tells that the graph is launched now."""
        with self._lock:
            self._holders.move_to_end(id(holder))

    def remove(self, holder: GraphHolder) -> None:
        with self._lock:
            self._holders.pop(id(holder), None)
