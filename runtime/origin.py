"""Which files a model was read from, so that it is known without reading them whether they are still those.

A file is known by its inode, size and times of modification and of change, as to ``make`` and ``git``. No
content goes unnoticed that was written more than a moment after the file was looked at; what was written
within that moment may have the same times, so that such files are not told apart and have no identity (git
calls them racily clean), nor have files of systems that keep whole seconds or the times of an image.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterable, Mapping
from typing import Any

from onnxplan.compiler.checked_json import integer, items, mapping
from onnxplan.compiler.records import dataclass

RACY_SECONDS = 2.0
"""How old a file must be to have an identity: more than the resolution of any file system's clock."""
MAPPED_BYTES = 1 << 20
"""Smaller files are read, as models are (:mod:`onnxplan.compiler.importer.sources`)."""
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """A file's inode, size in bytes, and times in nanoseconds since the epoch.

    The number of the device is left out: it changes when a disk is mounted again, and the time of change
    tells files of two disks apart.
    """

    inode: int
    size: int
    modified: int
    changed: int

    @staticmethod
    def of(status: os.stat_result) -> FileIdentity:
        # Headers hold signed words.
        inode = status.st_ino & (1 << 63) - 1
        return FileIdentity(inode, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def is_certain(self, moment: float) -> bool:
        """Can the file not have changed between ``moment`` (seconds since the epoch) and this look at it?"""
        latest = int((moment - RACY_SECONDS) * _SECOND)
        return max(self.modified, self.changed) < latest and self.changed % _SECOND != 0


@dataclass(frozen=True, slots=True)
class Origin:
    """The identities of a model's file and of its files of external data, by location."""

    model: FileIdentity
    external: Mapping[str, FileIdentity]

    def to_json(self) -> list[Any]:
        return [_write(self.model), {name: _write(file) for name, file in self.external.items()}]

    @staticmethod
    def from_json(value: Any, where: str) -> Origin:
        """Raises :class:`~onnxplan.compiler.checked_json.MalformedError`."""
        model, external = items(value, where, 2)
        files = mapping(external, where)
        return Origin(_read(model, where), {name: _read(file, where) for name, file in files.items()})


def origin_of(path: str, locations: Iterable[str], moment: float) -> Origin | None:
    """The origin of the model at ``path`` that was read after ``moment``; None where it is not certain."""
    try:
        model = FileIdentity.of(os.stat(path))
        external = {name: FileIdentity.of(os.stat(external_path(path, name))) for name in locations}
    except OSError:
        return None
    certain = all(file.is_certain(moment) for file in (model, *external.values()))
    return Origin(model, external) if certain else None


def open_files(path: str, origin: Origin) -> tuple[memoryview, dict[str, memoryview]] | None:
    """The bytes of the model at ``path`` and of its external files; None if one is not that of ``origin``.

    They stay what they are if files are replaced later.
    """
    model = _open(path, origin.model)
    if model is None:
        return None
    external = {}
    for location, identity in origin.external.items():
        data = _open(external_path(path, location), identity)
        if data is None:
            return None
        external[location] = data
    return model, external


def external_path(path: str, location: str) -> str:
    return os.path.join(os.path.dirname(path), *location.replace("\\", "/").split("/"))


def _open(path: str, identity: FileIdentity) -> memoryview | None:
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or FileIdentity.of(status) != identity:
            return None
        if identity.size >= MAPPED_BYTES:
            return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
        data = os.read(descriptor, MAPPED_BYTES)
    finally:
        os.close(descriptor)
    return memoryview(data) if len(data) == identity.size else None


def _write(file: FileIdentity) -> list[int]:
    return [file.inode, file.size, file.modified, file.changed]


def _read(value: Any, where: str) -> FileIdentity:
    return FileIdentity(*[integer(item, where) for item in items(value, where, 4)])
