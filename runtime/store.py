"""The kernel store: object code on disk, found by the content of everything it was made from.

Any number of processes may use one store at once. An entry is written to a temporary file and renamed, and
carries a digest of its content: a damaged one is never trusted but built again. Where the disk cannot be
written, the store says so once in the log and everything still works.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import stat
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

logger = logging.getLogger("onnxplan.store")

MAGIC = b"onnxplan kernel 1\n"
"""Begins every entry; the number changes with the form of the entries."""
DIGEST_BYTES = 32


class ObjectCode(Protocol):
    """Relocatable object code for this machine, and the name of the function in it."""

    @property
    def symbol(self) -> str: ...

    @property
    def code(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class StoredCode:
    """Object code as the store gives it back."""

    symbol: str
    code: bytes


def store_directory() -> Path:
    """Where kernels are kept: ``ONNXPLAN_CACHE_DIR``, else the user's cache directory of the platform.

    Source: https://specifications.freedesktop.org/basedir-spec/latest/ (``XDG_CACHE_HOME``).
    """
    if chosen := os.environ.get("ONNXPLAN_CACHE_DIR"):
        return Path(chosen)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        chosen = os.environ.get("XDG_CACHE_HOME", "")
        base = Path(chosen) if os.path.isabs(chosen) else Path.home() / ".cache"
    return base / "onnxplan" / "kernels"


def content_key(*parts: str | bytes) -> str:
    """A hexadecimal digest that is equal exactly for equal sequences of parts."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def source_digest(sources: Iterable[Path]) -> str:
    """A digest of Python files, and of all those under folders, so that edited kernels are built again."""
    parts: list[str | bytes] = []
    for source in sources:
        for path in sorted(source.rglob("*.py")) if source.is_dir() else [source]:
            parts += [path.relative_to(source.parent).as_posix(), path.read_bytes()]
    return content_key(*parts)


class KernelStore:
    """Object code by content key in one directory; with ``directory=None`` it keeps nothing."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._warned = False

    def get(self, key: str) -> StoredCode | None:
        """The entry of ``key``, or None where there is none that is whole."""
        if self._directory is None:
            return None
        path = self._path(key)
        try:
            if not _is_trusted(path):
                self._warn(f"{path} belongs to another user or may be written by others, so it is not used")
                return None
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(f"cannot read {path}: {error}")
            return None
        entry = _decode(data, key)
        if entry is None:
            logger.warning("damaged kernel store entry %s is built again", path)
            with contextlib.suppress(OSError):
                path.unlink()
        return entry

    def put(self, key: str, code: ObjectCode) -> None:
        """Keeps ``code`` for later processes, if the disk allows."""
        if self._directory is None:
            return
        path = self._path(key)
        temporary: str | None = None
        import tempfile

        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
            with os.fdopen(handle, "wb") as file:
                file.write(_encode(key, code))
            os.replace(temporary, path)
        except OSError as error:
            self._warn(f"cannot write to {path.parent}: {error}")
            if temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)

    def _path(self, key: str) -> Path:
        assert self._directory is not None
        return self._directory / key[:2] / f"{key[2:]}.kernel"

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("kernel store: %s; kernels are compiled again in each process", text)


def _is_trusted(path: Path) -> bool:
    """Whether only this user or the administrator can have written the file, which will be executed."""
    if sys.platform == "win32":
        return True
    status = path.stat()
    return status.st_uid in (0, os.getuid()) and not status.st_mode & stat.S_IWOTH


def _encode(key: str, code: ObjectCode) -> bytes:
    header = json.dumps({"key": key, "symbol": code.symbol}).encode()
    body = len(header).to_bytes(4, "little") + header + code.code
    return MAGIC + hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest() + body


def _decode(data: bytes, key: str) -> StoredCode | None:
    start = len(MAGIC) + DIGEST_BYTES
    body = data[start:]
    digest = hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest()
    if not data.startswith(MAGIC) or data[len(MAGIC) : start] != digest or len(body) < 4:
        return None
    end = 4 + int.from_bytes(body[:4], "little")
    header = json.loads(body[4:end])
    return StoredCode(header["symbol"], body[end:]) if header["key"] == key else None
