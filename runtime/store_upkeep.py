"""Keeps the kernel store within its bound, and tells what is in it.

Other processes write, read and remove files meanwhile, so that none of them is sure to be there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from onnxplan.compiler.records import dataclass
from onnxplan.runtime.file_lock import try_lock
from onnxplan.runtime.store import (
    ENTRY_SUFFIX,
    FAILED_FOLDER,
    LOCK_SUFFIX,
    MODEL_SUFFIX,
    TEMPORARY_SUFFIX,
    KernelStore,
)

logger = logging.getLogger("onnxplan.store")

DEFAULT_BOUND = 4 << 30
LARGEST_PART = 0.5
"""The part of the bound that one model may take."""
KEPT = 0.75
"""The part of the bound that is kept when entries must go, so that this is not soon needed again."""
CHECK_SECONDS = 600.0
"""So often the directory is looked at, by one of its processes that wrote something."""
CHECK_PART = 16
"""A process that wrote this part of the bound looks at once."""
STALE_SECONDS = 3600.0
"""Nobody needs so long to write an entry: an older temporary file is one of a dead process."""
MARK = "checked"
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:([KMGT])(?:I?B)?|B)?\s*", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the store, its size in bytes, and when it was last used, in seconds since the epoch.

    The time is exact to :data:`~onnxplan.runtime.store.TOUCH_SECONDS`.
    """

    path: Path
    size: int
    used: float

    @property
    def is_model(self) -> bool:
        """Is it the compiled artifact of a model, no kernel?"""
        return self.path.suffix == MODEL_SUFFIX


@dataclass(frozen=True, slots=True)
class Freed:
    """Entries that were removed, ``models`` of them models, and the bytes of all files that were."""

    entries: int
    size: int
    models: int = 0


def parse_size(text: str) -> int:
    """Bytes from ``"500M"``, ``"2 GiB"`` or ``"1000"``; units are powers of 1024. Raises ``ValueError``."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f"expected a number of bytes such as 500M or 2G, not {text!r}")
    return int(float(found[1]) * 1024 ** " KMGT".index((found[2] or " ").upper()))


def size_bound() -> int:
    """Bytes that the store may take: ``ONNXPLAN_CACHE_SIZE``, else 4 GiB. Raises ``ValueError``."""
    text = os.environ.get("ONNXPLAN_CACHE_SIZE")
    if not text:
        return DEFAULT_BOUND
    try:
        return parse_size(text)
    except ValueError as error:
        raise ValueError(f"ONNXPLAN_CACHE_SIZE: {error}") from error


def kept_bound() -> int:
    """The same, but for a setting that is no size the default, with a warning in the log."""
    try:
        return size_bound()
    except ValueError as error:
        logger.warning("%s; the bound is 4 GiB", error)
        return DEFAULT_BOUND


def list_entries(directory: Path) -> list[Entry]:
    """The entries, in no order; none where there is no directory. Raises ``OSError`` for one out of reach."""
    return list(_files(directory, ENTRY_SUFFIX, MODEL_SUFFIX))


def tidy(store: KernelStore) -> None:
    """Brings a store that this process wrote to within its bound, if it is time to look; never fails.

    Between two looks the bound may be exceeded by what the processes write meanwhile.
    """
    if store.directory is None or not store.unchecked_bytes:
        return
    bound = kept_bound()
    mark = store.directory / MARK
    try:
        if store.unchecked_bytes * CHECK_PART < bound and _was_checked(mark):
            return
        lock = try_lock(mark.with_suffix(LOCK_SUFFIX))
        if lock is None:
            return
        try:
            mark.touch(mode=0o644)
            store.unchecked_bytes = 0
            _remove_leavings(store.directory, time.time() - STALE_SECONDS)
            evict(store.directory, bound)
        finally:
            lock.release()
    except OSError as error:
        logger.debug("cannot tidy the kernel store: %s", error)


def evict(directory: Path, bound: int) -> Freed:
    """Removes entries of a store that takes more than ``bound`` bytes, the least recently used ones first.

    Models go before kernels, which are small and take long to make.
    """
    entries = list_entries(directory)
    excess = sum(entry.size for entry in entries) - bound
    if excess <= 0:
        return Freed(0, 0)
    excess += bound - int(KEPT * bound)
    going = []
    for entry in sorted(entries, key=lambda entry: (not entry.is_model, entry.used)):
        if excess <= 0:
            break
        going.append(entry)
        excess -= entry.size
    freed = _remove(going)
    logger.info(
        "kernel store: %d entries (%d bytes) removed to stay below %d bytes", freed.entries, freed.size, bound
    )
    return freed


def clear(directory: Path, unused_since: float | None = None) -> Freed:
    """Removes all entries, or those not used since a time, and what dead processes left; nothing else.

    Raises ``OSError`` for a directory that cannot be read, and for entries that cannot be removed.
    """
    before = time.time() if unused_since is None else unused_since
    going = list_entries(directory)
    if unused_since is not None:
        going = [entry for entry in going if entry.used < unused_since]
    freed = _remove(going, strict=True)
    failed = [file for file in _files_in(directory / FAILED_FOLDER, ".cu") if file.used < before]
    leavings = _remove_leavings(directory, min(before, time.time() - STALE_SECONDS))
    return Freed(freed.entries, freed.size + leavings + _remove(failed).size, freed.models)


def _was_checked(mark: Path) -> bool:
    try:
        return 0 <= time.time() - mark.stat().st_mtime < CHECK_SECONDS
    except FileNotFoundError:
        return False


def _remove_leavings(directory: Path, before: float) -> int:
    """Removes temporary files and locks last written before a time; the bytes of the former."""
    temporaries = [file for file in _files(directory, TEMPORARY_SUFFIX) if file.used < before]
    for file in _files(directory, LOCK_SUFFIX):
        if file.used < before:
            with contextlib.suppress(OSError):
                lock = try_lock(file.path)
                if lock is not None:
                    lock.release()
    return _remove(temporaries).size


def _remove(files: Iterable[Entry], *, strict: bool = False) -> Freed:
    count = size = models = 0
    for file in files:
        try:
            file.path.unlink()
        except FileNotFoundError:
            continue
        except OSError:
            if strict:
                raise
            continue
        count += 1
        size += file.size
        models += file.is_model
    return Freed(count, size, models)


def _files(directory: Path, *suffixes: str) -> Iterator[Entry]:
    """The store's files with one of these suffixes."""
    try:
        folders = [item.path for item in os.scandir(directory) if len(item.name) == 2 and item.is_dir()]
    except FileNotFoundError:
        return
    for folder in folders:
        yield from _files_in(Path(folder), *suffixes)


def _files_in(folder: Path, *suffixes: str) -> Iterator[Entry]:
    try:
        items = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for item in items:
        if item.name.endswith(suffixes):
            with contextlib.suppress(FileNotFoundError):
                status = item.stat(follow_symlinks=False)
                yield Entry(Path(item.path), status.st_size, status.st_mtime)
