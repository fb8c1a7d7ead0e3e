"""The kernel store: object code on disk, found by the content of everything it was made from.

Beside it are compiled artifacts of models, by what identifies the model's file.

Any number of processes may use one store at once. An entry is written to a temporary file and renamed, and
carries a digest of its content: a damaged one is never trusted but built again. Where the disk cannot be
read or written, the store says so once in the log and everything still works. What keeps it within its
bound is in :mod:`onnxplan.runtime.store_upkeep`, how processes share the work in
:mod:`onnxplan.runtime.shared_build`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, Protocol

from onnxplan.compiler.records import dataclass
from onnxplan.runtime.digests import blake2b
from onnxplan.runtime.file_lock import try_lock

logger = logging.getLogger("onnxplan.store")

MAGIC = b"onnxplan kernel 1\n"
"""Begins every entry; the number changes with the form of the entries."""
DIGEST_BYTES = 32
ENTRY_SUFFIX, LOCK_SUFFIX, TEMPORARY_SUFFIX = ".kernel", ".lock", ".tmp"
MODEL_SUFFIX = ".model"
"""Of the compiled artifacts of models that were seen (:mod:`onnxplan.runtime.seen_models`)."""
FAILED_FOLDER = "failed"
"""The folder beside the entries where sources that did not compile are kept."""
TOUCH_SECONDS = 3600.0
"""An entry's last use is its file's modification time, which is kept no more exactly than this."""
OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0)
# Neither a link nor a pipe is an entry.
OPEN_FLAGS |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)

ADMINISTRATOR = 0

Release = Callable[[], None]

_troubles: dict[Path, str] = {}
"""What is in the log about directories that cannot be used as they should."""


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
    digest = blake2b(digest_size=DIGEST_BYTES)
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
        self.directory = directory
        self.unchecked_bytes = 0
        """What was written since the size of the directory was last looked at."""

    def get(self, key: str) -> StoredCode | None:
        """The entry of ``key``, or None where there is none that is whole."""
        if self.directory is None:
            return None
        path = self._path(key)
        try:
            data = self._read(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(f"cannot read {path}: {error}")
            return None
        if data is None:
            return None
        entry = _decode(data, key)
        if entry is None:
            logger.warning("damaged kernel store entry %s is built again", path)
            with contextlib.suppress(OSError):
                path.unlink()
        return entry

    def has(self, key: str) -> bool:
        """Is there an entry of ``key``, whole or not?"""
        return self.directory is not None and os.path.exists(self._path(key))

    def put(self, key: str, code: ObjectCode, target: str = "") -> None:
        """Keeps ``code`` for later processes, if the disk allows; ``target`` is what it is shown as."""
        if self.directory is None:
            return
        data = _encode(key, code, target)
        self._write(self._path(key), lambda file: file.write(data))

    def open_model(self, key: str) -> tuple[Path, int] | None:
        """The artifact of ``key``, and a descriptor of it that the caller closes; None if there is none."""
        if self.directory is None:
            return None
        path = self._path(key, MODEL_SUFFIX)
        try:
            handle = self._open(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(f"cannot read {path}: {error}")
            return None
        return None if handle is None else (path, handle)

    def put_model(self, key: str, write: Callable[[IO[bytes]], object]) -> None:
        """Keeps the artifact that ``write`` writes for later processes, if the disk allows.

        It is on the disk before it has its name: nobody checks the constants in it.
        """
        if self.directory is not None:
            self._write(self._path(key, MODEL_SUFFIX), write, durable=True)

    def remove_model(self, key: str) -> None:
        """Removes an artifact that is of no use."""
        if self.directory is not None:
            with contextlib.suppress(OSError):
                self._path(key, MODEL_SUFFIX).unlink()

    def _write(self, path: Path, write: Callable[[IO[bytes]], object], *, durable: bool = False) -> None:
        temporary = path.with_name(f".{os.urandom(8).hex()}{TEMPORARY_SUFFIX}")
        try:
            _make_folder(path.parent)
            try:
                with os.fdopen(os.open(temporary, WRITE_FLAGS, 0o644), "wb") as file:
                    write(file)
                    size = file.tell()
                    if durable:
                        file.flush()
                        os.fsync(file.fileno())
                os.replace(temporary, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
        except OSError as error:
            self._warn(f"cannot write to {path.parent}: {error}")
        else:
            self.unchecked_bytes += size
            logger.debug("wrote %d bytes to %s", size, path)

    def claim(self, key: str) -> Release | None:
        """The right to build the entry of ``key``, as the function that gives it back; does not wait.

        None while another process has it. Where there are no locks, everybody gets it: building twice does
        no harm.
        """
        if self.directory is None:
            return _no_lock
        path = self._path(key).with_suffix(LOCK_SUFFIX)
        try:
            _make_folder(path.parent)
            lock = try_lock(path)
        except OSError as error:
            logger.debug("no lock on %s: %s", path, error)
            return _no_lock
        return None if lock is None else lock.release

    def _path(self, key: str, suffix: str = ENTRY_SUFFIX) -> Path:
        assert self.directory is not None
        return self.directory / key[:2] / f"{key[2:]}{suffix}"

    def _read(self, path: Path) -> bytes | None:
        handle = self._open(path)
        if handle is None:
            return None
        with os.fdopen(handle, "rb") as file:
            return file.read()

    def _open(self, path: Path) -> int | None:
        """A descriptor of a file that only this user or the administrator can have written; else None."""
        handle = os.open(path, OPEN_FLAGS)
        status = os.fstat(handle)
        if not _is_trusted(status):
            os.close(handle)
            self._warn(f"{path} may have been written by others than this user, so it is not used")
            return None
        if time.time() - status.st_mtime > TOUCH_SECONDS:
            # In a store that is read only, entries need no time.
            with contextlib.suppress(OSError):
                os.utime(path)
        return handle

    def _warn(self, text: str) -> None:
        assert self.directory is not None
        if self.directory not in _troubles:
            _troubles[self.directory] = text
            logger.warning("kernel store: %s; kernels are compiled again in each process", text)


def store_trouble(directory: Path) -> str | None:
    """Why this process could not read or write a store, if so."""
    return _troubles.get(directory)


def _no_lock() -> None:
    """Gives back a right that everybody has."""


def _make_folder(path: Path) -> None:
    """A folder for entries: others may read them (what is made as root in an image), but never write."""
    if not path.is_dir():
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.mkdir(mode=0o755, exist_ok=True)


def _is_trusted(status: os.stat_result) -> bool:
    """Can only this user or the administrator have written the file, which will be executed?"""
    if not stat.S_ISREG(status.st_mode):
        return False
    if sys.platform == "win32":
        return True
    return status.st_uid in (ADMINISTRATOR, os.getuid()) and not status.st_mode & stat.S_IWOTH


def _encode(key: str, code: ObjectCode, target: str) -> bytes:
    header = json.dumps({"key": key, "symbol": code.symbol, "target": target}).encode()
    body = len(header).to_bytes(4, "little") + header + code.code
    return MAGIC + blake2b(body, digest_size=DIGEST_BYTES).digest() + body


def _decode(data: bytes, key: str) -> StoredCode | None:
    start = len(MAGIC) + DIGEST_BYTES
    body = data[start:]
    digest = blake2b(body, digest_size=DIGEST_BYTES).digest()
    if not data.startswith(MAGIC) or data[len(MAGIC) : start] != digest or len(body) < 4:
        return None
    end = 4 + int.from_bytes(body[:4], "little")
    header = json.loads(body[4:end])
    return StoredCode(header["symbol"], body[end:]) if header["key"] == key else None


def entry_target(path: Path) -> str:
    """What an entry says it was made for (``cpu avx512``), or an empty text. Raises ``OSError``."""
    start = len(MAGIC) + DIGEST_BYTES
    with os.fdopen(os.open(path, OPEN_FLAGS), "rb") as file:
        head = file.read(start + 4)
        if not head.startswith(MAGIC):
            return ""
        text = file.read(min(int.from_bytes(head[start:], "little"), 1 << 16))
    try:
        header: Any = json.loads(text)
    except ValueError:
        # Nobody checked the digest.
        return ""
    found = header.get("target") if isinstance(header, dict) else None
    return found if isinstance(found, str) else ""
