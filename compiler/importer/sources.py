"""The bytes of a model: from a file (mapped where it is large), from memory, or from a ``ModelProto``."""

from __future__ import annotations

import errno
import mmap
import os
import stat

from onnx.onnx_ml_pb2 import ModelProto

from onnxplan.compiler.errors import InvalidModelError
from onnxplan.compiler.records import dataclass

ModelSource = str | os.PathLike[str] | bytes | bytearray | memoryview | ModelProto

MAPPED_BYTES = 1 << 20
"""Smaller files are read, so that nothing happens to a session when somebody overwrites them."""

MESSAGE_LIMIT = (1 << 31) - 1
"""Bytes of the largest message that protobuf writes."""

_FOREIGN = (
    (b"version https://git-lfs", "it is a Git LFS pointer: run `git lfs pull` to get the model itself"),
    (b"PK\x03\x04", "it is a ZIP archive (a PyTorch checkpoint?): export the model to ONNX, or unpack it"),
    (b"\x80\x02", "it is a Python pickle (a PyTorch checkpoint?): export the model to ONNX"),
    (b"\x89HDF", "it is an HDF5 file (a Keras model?): convert the model to ONNX"),
    (b"\x1f\x8b", "it is compressed by gzip: unpack it"),
    (b"<!DOCTYPE", "it is an HTML page: the download failed"),
    (b"<html", "it is an HTML page: the download failed"),
    (b"<?xml", "it is an XML file"),
    (b"GGUF", "it is a GGUF file: convert the model to ONNX"),
    (b"{", "it is a JSON file"),
)
_FOREIGN_AT_4 = (
    (b"ORTM", "it is in onnxruntime's own format: use the ONNX model that it was made from"),
    (b"TFL3", "it is a TensorFlow Lite file: convert the model to ONNX"),
)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from.

    ``data`` are its bytes; ``proto`` is set instead for a message too large to have any. ``path`` is the
    file, if there is one, and ``label`` names the source in errors.
    """

    label: str
    path: str | None = None
    data: memoryview | None = None
    proto: ModelProto | None = None

    @property
    def portable(self) -> str | bytes | ModelProto | None:
        """From what the model can be loaded again: its absolute path, its bytes, or else the message.

        ``None`` for a part of a mapped file.
        """
        if self.path is not None:
            return self.path
        if self.mappings:
            return None
        if self.data is None:
            return self.proto
        return self.data.obj if isinstance(self.data.obj, bytes) else bytes(self.data)

    @property
    def mappings(self) -> tuple[mmap.mmap, ...]:
        """The file, if it is mapped."""
        owner = None if self.data is None else self.data.obj
        return (owner,) if isinstance(owner, mmap.mmap) else ()

    def hint(self) -> str:
        """What the bytes are, if they are known to be something else than a model; empty if not."""
        head = bytes(self.data[:32]) if self.data is not None else b""
        known = [text for start, text in _FOREIGN if head.startswith(start)]
        known += [text for start, text in _FOREIGN_AT_4 if head[4:].startswith(start)]
        if self.path is None and head.strip().endswith(b".onnx"):
            known.append("it looks like a path: give paths as str or pathlib.Path")
        return f"; {known[0]}" if known else ""


def open_source(source: ModelSource) -> Source:
    """The bytes of ``source``.

    A ``ModelProto`` is serialised, so that it may change or be released afterwards; one of more than 2 GiB
    cannot be and is used itself. Raises :class:`InvalidModelError`, ``OSError``, and ``TypeError`` for what
    is no source of a model.
    """
    if isinstance(source, ModelProto):
        if source.ByteSize() > MESSAGE_LIMIT:
            return Source("the ModelProto", proto=source)
        return Source("the ModelProto", data=memoryview(source.SerializeToString()))
    if isinstance(source, bytes | bytearray | memoryview):
        # What nobody can change, such as a mapped file, is used where it is.
        keeps = isinstance(source, memoryview) and source.readonly and source.c_contiguous
        data = source.cast("B") if isinstance(source, memoryview) and keeps else memoryview(bytes(source))
        if not data.nbytes:
            raise InvalidModelError("the bytes given as model are empty")
        return Source(f"the {data.nbytes} bytes given as model", data=data)
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"a model is given as path, bytes or onnx.ModelProto, not as {type(source).__name__}")
    path = os.path.abspath(os.fsdecode(source))
    return Source(f"file {path!r}", path=path, data=_read(path))


def _read(path: str) -> memoryview:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "there is no such model file", path) from None
    except ValueError as error:
        raise InvalidModelError(f"{path!r} is no path: {error}") from error
    if stat.S_ISDIR(mode):
        models = sorted(name for name in os.listdir(path) if name.endswith(".onnx"))
        inside = f" (there are {', '.join(models[:5])} in it)" if models else ""
        raise InvalidModelError(f"{path!r} is a directory; expected an ONNX file{inside}")
    if not stat.S_ISREG(mode):
        raise InvalidModelError(f"{path!r} is not a regular file; expected an ONNX file")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise InvalidModelError(f"file {path!r} is empty")
        if size < MAPPED_BYTES:
            return memoryview(file.read())
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
