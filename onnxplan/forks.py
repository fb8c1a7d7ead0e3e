"""Sessions in the child of a fork."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """Something that has to know of a fork."""

    def _after_fork(self) -> None:
        """In the child, where the parent's runs in flight and their threads do not exist."""
        ...


_known: weakref.WeakSet[Forked] = weakref.WeakSet()


def survive_forks(session: Forked) -> None:
    """Has ``session`` told of forks for as long as it exists."""
    _known.add(session)


def _after_fork_in_child() -> None:
    for session in tuple(_known):
        session._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
