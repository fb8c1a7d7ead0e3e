"""A bounded cache of plans that costs nothing to read."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Generic, Protocol, TypeVar


class Used(Protocol):
    """Something that tells whether it was used since this was last asked."""

    used: bool


K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Used)


class StageCache(Generic[K, V]):
    """Up to ``limit`` entries; a new one displaces one that was not used for long ("second chance").

    Readers only set a flag and need no lock; writers must be one at a time. Source of the algorithm: F. J.
    Corbató, A paging experiment with the Multics system, 1968.
    """

    def __init__(self, limit: int, dropped: Callable[[K, V], None] | None = None) -> None:
        self._limit = limit
        self._dropped = dropped
        self._entries: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        entry = self._entries.get(key)
        if entry is not None:
            entry.used = True
        return entry

    def put(self, key: K, entry: V) -> None:
        """Adds ``entry``, which must not be there yet."""
        while len(self._entries) >= self._limit:
            self._drop_one()
        entry.used = False
        self._entries[key] = entry

    def _drop_one(self) -> None:
        for _ in range(len(self._entries)):
            key, entry = next(iter(self._entries.items()))
            if not entry.used:
                break
            # Asked again only after all others: to the end of the queue.
            entry.used = False
            del self._entries[key]
            self._entries[key] = entry
        key = next(iter(self._entries))
        entry = self._entries.pop(key)
        if self._dropped is not None:
            self._dropped(key, entry)

    def items(self) -> Iterator[tuple[K, V]]:
        return iter(list(self._entries.items()))

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        self._entries.clear()
