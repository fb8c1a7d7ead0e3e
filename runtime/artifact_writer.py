"""Writing artifacts: sections, a header that describes them, and a prefix that vouches for the header."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import IO, Any

import numpy as np

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.structures import Structure
from onnxplan.compiler.target import Target
from onnxplan.runtime.artifact import ALIGNMENT, MAGIC, PAGE, PREFIX_BYTES, SIGNATURE_BYTES, digest
from onnxplan.runtime.artifact_structures import write_structure
from onnxplan.runtime.description import Description
from onnxplan.runtime.device import Array
from onnxplan.runtime.elf import ElfError, link
from onnxplan.runtime.executable import MAPS_IMAGES
from onnxplan.runtime.image import Image
from onnxplan.runtime.planner import PlannedStage, Request
from onnxplan.runtime.store import ObjectCode

Bytes = bytes | memoryview
PIECE_BYTES = 4 << 20
"""Written at once."""
Sign = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class ExecutorCode:
    """Object code of the native executor, its functions, and the digest of what it was built from."""

    digest: str
    code: bytes
    functions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TargetCode:
    """The code of kernels for a target; ``requires`` are the features of a machine that it needs."""

    requires: tuple[str, ...]
    objects: Mapping[KernelSpec, ObjectCode]
    executor: ExecutorCode | None = None


def _no_step() -> None:
    """Nobody follows the work."""


class ArtifactWriter:
    """Collects what goes into one artifact; :meth:`write` makes the file.

    ``step`` is called every few milliseconds of work; what it raises ends the work.
    """

    def __init__(self, step: Callable[[], None] = _no_step) -> None:
        self._step = step
        self.fields: dict[str, Any] = {
            "inputs": [], "outputs": [], "metadata": {}, "description": Description().to_json(),
            "producer": {}, "options": {}, "sections": [], "targets": [], "constants": [], "plans": [],
            "model": None, "external": {}, "origin": None,
        }  # fmt: skip
        self._sections: list[list[Bytes]] = []
        self._constants: list[Bytes] = []
        self._constant_bytes = 0
        self._places: dict[tuple[str, bytes], int] = {}
        self._known: dict[int, tuple[Array, int]] = {}
        # Constants share one section, whose size is known in the end.
        self._sections.append(self._constants)

    def add_section(self, data: Bytes) -> int:
        self._sections.append([data])
        return len(self._sections) - 1

    def add_target(self, target: Target, code: TargetCode) -> int:
        """A target with its kernels; its number."""
        specs, objects, executor = list(code.objects), list(code.objects.values()), code.executor
        entry: dict[str, Any] = {
            "target": target.to_json(), "requires": list(code.requires), "imports": [], "rebases": [],
            "executor": {}, "executor_digest": "",
        }  # fmt: skip
        joined = None if executor is None else _joined(objects, executor)
        if joined is None:
            entry["form"] = "objects"
            entry["kernels"], offset = {}, 0
            for spec, item in zip(specs, objects, strict=True):
                entry["kernels"][spec.key] = [offset, len(item.code), item.symbol]
                offset += len(item.code)
            data = b"".join(item.code for item in objects)
        else:
            image, entries, functions = joined
            entry["form"] = "image"
            entry["kernels"] = {spec.key: [place, 0, ""] for spec, place in zip(specs, entries, strict=True)}
            entry["imports"] = [list(item) for item in image.imports]
            entry["rebases"] = list(image.rebases)
            entry["executor"] = functions
            entry["executor_digest"] = executor.digest if executor else ""
            data = image.code
        entry["code"] = self.add_section(data)
        self.fields["targets"].append(entry)
        return len(self.fields["targets"]) - 1

    def add_plan(self, target: int, request: Request, planned: PlannedStage) -> None:
        compiled, facts = planned.compiled, planned.facts
        texts = {
            name: [list(array.shape), [str(item) for item in array.flat]]
            for name, array in facts.texts.items()
        }
        constants = [self._add_constant(array) for array in compiled.constants]
        plan = self.add_section(compiled.plan.to_json().encode())
        self.fields["plans"].append(
            [
                target, list(request.names), [list(shape) for shape in request.shapes], facts.run_key,
                texts, plan, constants, _structures(request.structures),
                _structures(facts.structures.items()),
            ]
        )  # fmt: skip

    def _add_constant(self, array: Array) -> int:
        """The number of a constant; equal elements are written once."""
        known = self._known.get(id(array))
        if known is None:
            self._step()
            dtype = DType.from_numpy(array.dtype).label
            data = np.ascontiguousarray(array).view(np.uint8).reshape(-1).data
            key = dtype, digest(data)
            number = self._places.get(key)
            if number is None:
                number = self._places[key] = len(self.fields["constants"])
                padding = -self._constant_bytes % ALIGNMENT
                self.fields["constants"].append([dtype, array.size, 0, self._constant_bytes + padding])
                self._constants += [bytes(padding), data]
                self._constant_bytes += padding + data.nbytes
            known = self._known[id(array)] = array, number
        return known[1]

    def write(self, path: str | os.PathLike[str], sign: Sign | None = None) -> None:
        """Writes the file beside ``path`` and renames it, so that nobody sees half of it.

        A link stays one: the file that it leads to is replaced. Raises ``OSError``, also where ``path`` is
        something else than a file, such as a device, which a rename would put an end to.
        """
        path = os.path.realpath(os.fsdecode(path))
        if os.path.exists(path) and not os.path.isfile(path):
            number = errno.EISDIR if os.path.isdir(path) else errno.EINVAL
            raise OSError(number, "an artifact replaces nothing but a file", path)
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                self.write_to(file, sign)
            _allow_others_to_read(temporary)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise

    @property
    def nbytes(self) -> int:
        """About what the file will take."""
        return sum(map(_size, self._sections))

    def write_to(self, file: IO[bytes], sign: Sign | None = None, *, digest_constants: bool = True) -> None:
        """Writes all of it at the beginning of ``file``.

        The digest of the constants, which only ``verify_key`` checks, is left empty without
        ``digest_constants``. Raises ``OSError``.
        """
        sizes = [_size(parts) for parts in self._sections]
        digests = [
            digest(*parts).hex() if digest_constants or parts is not self._constants else ""
            for parts in self._sections
        ]
        # The offsets are part of the header, whose length moves the sections.
        start = 0
        while True:
            offsets, end = [], start
            for size in sizes:
                offsets.append(end)
                end += size + -size % PAGE
            self.fields["sections"] = [list(item) for item in zip(offsets, sizes, digests, strict=True)]
            header = json.dumps(self.fields, separators=(",", ":")).encode()
            needed = PREFIX_BYTES + len(header)
            needed += -needed % PAGE
            if needed == start:
                break
            start = needed
        prefix = MAGIC + len(header).to_bytes(8, "little") + digest(header)
        file.write(prefix + (sign(prefix) if sign is not None else bytes(SIGNATURE_BYTES)) + header)
        for offset, parts in zip(offsets, self._sections, strict=True):
            file.seek(offset)
            for part in parts:
                for start in range(0, len(part), PIECE_BYTES):
                    self._step()
                    file.write(memoryview(part)[start : start + PIECE_BYTES])
        file.truncate(offsets[-1] + sizes[-1])


def _size(parts: Sequence[Bytes]) -> int:
    return sum(memoryview(part).nbytes for part in parts)


def _structures(structures: Iterable[tuple[str, Structure[str]]]) -> dict[str, Any]:
    return {name: write_structure(structure) for name, structure in structures}


def _joined(
    objects: Sequence[ObjectCode], executor: ExecutorCode
) -> tuple[Image, tuple[int, ...], dict[str, int]] | None:
    """All code in one image, where the kernels and the executor's functions are in it; None where it cannot
    be."""
    if not MAPS_IMAGES:
        return None
    try:
        images = [link(code.code) for code in objects]
        native = link(executor.code)
    except ElfError:
        return None
    image, places = Image.join([*images, native])
    entries = tuple(
        place + each.exports[code.symbol] for place, each, code in zip(places, images, objects, strict=False)
    )
    return image, entries, {name: places[-1] + native.exports[name] for name in executor.functions}


def _allow_others_to_read(path: str) -> None:
    """Gives the file the mode that it would have had without the detour; temporary files are private."""
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(path, 0o666 & ~mask)
