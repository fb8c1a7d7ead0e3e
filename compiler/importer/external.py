"""Files of external data: mapped, and confined to the model's folder."""

from __future__ import annotations

import mmap
import ntpath
import os
import stat
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.errors import InvalidModelError


class ExternalFiles:
    """The files of external data that belong to the model at ``path``; a model without one has none.

    ``given`` are the bytes of files by location, which are not looked for.
    """

    def __init__(self, path: str | None, given: Mapping[str, memoryview] | None = None) -> None:
        self._path = path
        self.files: dict[str, npt.NDArray[np.uint8]] = {
            location: np.frombuffer(data, np.uint8) for location, data in (given or {}).items()
        }
        self.mappings: list[mmap.mmap] = []

    def open(self, location: str, what: str) -> npt.NDArray[np.uint8]:
        """The bytes of the file at ``location``, mapped read-only; ``what`` names the tensor in errors.

        Raises :class:`InvalidModelError` for locations outside of the model's folder and for what is no
        regular file.
        """
        known = self.files.get(location)
        if known is None:
            if self._path is None:
                raise InvalidModelError(
                    f"{what} is stored in the external file {location!r}; give the model as a path, so that "
                    "the file can be found beside it"
                )
            mapping = _map(self._resolve(location, what), what)
            if mapping is None:
                known = np.empty(0, np.uint8)
            else:
                known = np.frombuffer(mapping, np.uint8)
                self.mappings.append(mapping)
            self.files[location] = known
        return known

    def _resolve(self, location: str, what: str) -> str:
        """The file at ``location``, after checking that it belongs to the model."""
        assert self._path is not None
        if not location:
            raise InvalidModelError(f"{what} is stored in an external file, but no location is given")
        parts = location.replace("\\", "/").split("/")
        absolute = os.path.isabs(location) or ntpath.isabs(location) or ntpath.splitdrive(location)[0]
        if absolute or ".." in parts or "\0" in location:
            raise InvalidModelError(
                f"{what} refers to the external file {location!r}; only relative paths that stay in the "
                "model's folder are allowed"
            )
        folder = os.path.dirname(os.path.abspath(self._path))
        path = os.path.join(folder, *parts)
        target = os.path.realpath(path)
        if not any(_is_below(target, root) for root in self._roots(folder)):
            raise InvalidModelError(
                f"{what} refers to {location!r}, a link to {target!r}, which is outside of the model's "
                f"folder {folder!r}"
            )
        return target

    def _roots(self, folder: str) -> list[str]:
        """Folders that external data may resolve to.

        The model's own, the one its file resolves to, and the ``blobs`` beside the ``snapshots`` of a Hugging
        Face cache, whose files are links into it.
        """
        assert self._path is not None
        roots = [os.path.realpath(folder), os.path.dirname(os.path.realpath(self._path))]
        parts = folder.split(os.sep)
        if "snapshots" in parts:
            position = len(parts) - 1 - parts[::-1].index("snapshots")
            roots.append(os.path.realpath(os.sep.join([*parts[:position], "blobs"])))
        return roots


def _is_below(path: str, root: str) -> bool:
    try:
        return os.path.commonpath([path, root]) == root
    except ValueError:
        return False


def _map(path: str, what: str) -> mmap.mmap | None:
    """The file at ``path``, ``None`` if it is empty (there are no empty mappings)."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InvalidModelError(f"{what}: its external file {path!r} is not a regular file")
        # Should it be replaced by a FIFO in between, opening it must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise InvalidModelError(
            f"{what}: its external file {path!r} cannot be opened: {error.strerror}"
        ) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidModelError(f"{what}: its external file {path!r} is not a regular file")
        if status.st_size == 0:
            return None
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)
