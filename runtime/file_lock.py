"""Locks between processes, each on a file of its own: the system gives up those of a process that dies."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

_held: set[FileLock] = set()


class FileLock:
    """A lock that this process holds, given up by :meth:`release` or by the end of the process."""

    def __init__(self, path: Path, handle: int) -> None:
        self._path = path
        self._handle = handle
        _held.add(self)

    def release(self) -> None:
        """Gives up the lock and removes its file."""
        _held.discard(self)
        if sys.platform == "win32":
            # Open files cannot be removed there, so nobody can hold the one that is.
            os.close(self._handle)
            _remove(self._path)
        else:
            # Before it is given up: who has opened the file meanwhile finds that it is gone.
            _remove(self._path)
            _unlock(self._handle)
            os.close(self._handle)

    def forget(self) -> None:
        """In the child of a fork, which must not keep the lock when its parent dies."""
        _held.discard(self)
        os.close(self._handle)


def try_lock(path: Path) -> FileLock | None:
    """The lock of ``path``, a file that exists only for it, or None while somebody else holds it.

    Does not wait. Raises ``OSError`` where the file cannot be made, and on file systems without locks.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    while True:
        handle = os.open(path, flags, 0o644)
        try:
            if not _try_lock(handle):
                os.close(handle)
                return None
            if _is_at(handle, path):
                return FileLock(path, handle)
            # The last owner removed the file while it was opened here: the lock is one on nothing.
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: int) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

else:
    import fcntl

    def _try_lock(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(handle: int) -> None:
        # Closing is not enough where a child of a fork has the file open too.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)


def _after_fork_in_child() -> None:
    for lock in tuple(_held):
        lock.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
