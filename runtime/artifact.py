"""Compiled artifacts: plans, their kernels and constants in one file that is mapped, not read.

``docs/artifact.md`` describes the format. Everything that is used without a digest being checked (constants,
the model) is only read; machine code and plans are checked against the header's digests before use.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.checked_json import (
    MalformedError,
    count,
    counts,
    demand,
    each,
    fail,
    index,
    indices,
    items,
    mapping,
    parse,
    text,
    truth,
)
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import InvalidArtifactError
from onnxplan.compiler.ir import ValueType
from onnxplan.compiler.plan_json import read_target
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.structures import Structure, tensors
from onnxplan.compiler.target import Target
from onnxplan.runtime.artifact_structures import read_dim, read_structure, read_type
from onnxplan.runtime.description import Description
from onnxplan.runtime.digests import blake2b
from onnxplan.runtime.origin import Origin

MAGIC = b"onnxplan plan\0\2\n"
"""Begins every artifact; the byte before the last is the version of the format."""
DIGEST_BYTES = 32
SIGNATURE_BYTES = 64
PREFIX_BYTES = len(MAGIC) + 8 + DIGEST_BYTES + SIGNATURE_BYTES
MOST_HEADER_BYTES = 1 << 28
PAGE = 4096
"""Sections begin at multiples of this many bytes."""
FORMS = ("image", "objects")
ALIGNMENT = 64
"""Constants begin at multiples of this many bytes of their section."""

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Section:
    """A range of the file."""

    offset: int
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """An input or output of the model, and whether it has a default.

    ``type`` is the element type of a tensor, or else the type of what it is.
    """

    name: str
    type: str | ValueType | None
    dims: tuple[int | str | None, ...] | None
    optional: bool


@dataclass(frozen=True, slots=True)
class TargetEntry:
    """What plans were made for, and the kernels for it, whose code is in the section ``code``.

    ``requires`` are the processor's features that the code uses. Where ``form`` is ``image``, that section is
    an :class:`onnxplan.runtime.elf.Image` with ``imports`` and ``rebases``, and ``kernels`` gives the offsets
    of the functions by the keys of kernels; it may hold the functions of the native executor too, which was
    built from sources of ``executor_digest``. Where it is ``objects``, the section is a sequence of objects
    (or cubins), and ``kernels`` gives their offsets, sizes and symbols.
    """

    target: Target
    requires: tuple[str, ...]
    form: str
    code: int
    kernels: Mapping[str, tuple[int, int, str]]
    imports: tuple[tuple[str, int], ...]
    rebases: tuple[int, ...]
    executor: Mapping[str, int]
    executor_digest: str


@dataclass(frozen=True, slots=True)
class ConstantEntry:
    """A constant: elements of ``dtype`` from byte ``offset`` of a section."""

    dtype: DType
    size: int
    section: int
    offset: int


@dataclass(frozen=True, slots=True)
class PlanEntry:
    """One plan: for which target and request, and where it and its constants are.

    ``given`` are inputs and ``made`` outputs that are no tensors, by the names of the tensors in them.
    """

    target: int
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    run_key: str
    texts: Mapping[str, tuple[tuple[int, ...], tuple[str, ...]]]
    plan: int
    constants: tuple[int, ...]
    given: tuple[tuple[str, Structure[str]], ...]
    made: Mapping[str, Structure[str]]


@dataclass(frozen=True, slots=True)
class Header:
    """The header of an artifact; ``model`` and ``external`` are the sections of the ONNX model, if it has it.

    ``origin`` are the files that an entry of the kernel store was made of, None for what users wrote.
    """

    producer: Mapping[str, str]
    options: Mapping[str, Any]
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    metadata: Mapping[str, str]
    description: Description
    sections: tuple[Section, ...]
    targets: tuple[TargetEntry, ...]
    constants: tuple[ConstantEntry, ...]
    plans: tuple[PlanEntry, ...]
    model: int | None
    external: Mapping[str, int]
    origin: Origin | None


def is_artifact(path: object) -> bool:
    """Is ``path`` a file that begins as artifacts do, of whatever version?"""
    if not isinstance(path, str | os.PathLike):
        return False
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC))[:-2] == MAGIC[:-2]
    except OSError:
        return False


class Artifact:
    """An artifact, mapped into memory. It must not be changed in place while it is in use.

    Raises :class:`InvalidArtifactError` for what is damaged, cut short, of another version, or, where
    ``verify_key`` (a PEM file's bytes of an Ed25519 public key) is given, not signed by that key's owner;
    ``OSError`` where the file cannot be opened. ``handle`` is the file if it is open already; it is closed.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, verify_key: bytes | None = None, handle: int | None = None
    ) -> None:
        self.path = os.path.abspath(os.fsdecode(path))
        self._checked: set[int] = set()
        try:
            with open(self.path if handle is None else handle, "rb") as file:
                if os.fstat(file.fileno()).st_size < PREFIX_BYTES:
                    fail("it is cut short")
                self.memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.header = _header(self.memory, verify_key)
        except MalformedError as error:
            raise InvalidArtifactError(f"artifact {self.path!r}: {error}") from None
        if verify_key is not None:
            for number in range(len(self.header.sections)):
                self.checked(number)

    def section(self, number: int) -> memoryview:
        """The bytes of a section, unchecked."""
        section = self.header.sections[number]
        return memoryview(self.memory)[section.offset : section.offset + section.size]

    def checked(self, number: int) -> memoryview:
        """The bytes of a section that are what the header says."""
        data = self.section(number)
        if number not in self._checked:
            if digest(data).hex() != self.header.sections[number].digest:
                raise InvalidArtifactError(f"artifact {self.path!r}: section {number} is damaged")
            self._checked.add(number)
        return data

    @cached_property
    def _bytes(self) -> npt.NDArray[np.uint8]:
        return np.frombuffer(self.memory, np.uint8)

    def constant(self, number: int) -> Array:
        """A constant, as a read-only view of the mapped file."""
        entry = self.header.constants[number]
        start = self.header.sections[entry.section].offset + entry.offset
        nbytes = entry.size * entry.dtype.itemsize
        view: Array = self._bytes[start : start + nbytes].view(entry.dtype.numpy)
        return view


def digest(*parts: bytes | memoryview) -> bytes:
    """The BLAKE2b digest of the parts, one after the other."""
    found = blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        found.update(part)
    return found.digest()


def _header(memory: mmap.mmap, verify_key: bytes | None) -> Header:
    prefix = memory[:PREFIX_BYTES]
    if prefix[: len(MAGIC)] != MAGIC:
        if prefix[: len(MAGIC) - 2] == MAGIC[:-2]:
            fail(f"it has version {prefix[len(MAGIC) - 2]} of the format, this is version {MAGIC[-2]}")
        fail("it is no artifact")
    start = len(MAGIC)
    size = int.from_bytes(prefix[start : start + 8], "little")
    if size > MOST_HEADER_BYTES or PREFIX_BYTES + size > len(memory):
        fail("its header is cut short or damaged")
    data = memory[PREFIX_BYTES : PREFIX_BYTES + size]
    if digest(data) != prefix[start + 8 : start + 8 + DIGEST_BYTES]:
        fail("its header is damaged")
    if verify_key is not None:
        from onnxplan.runtime.signing import verify

        verify(verify_key, prefix[-SIGNATURE_BYTES:], prefix[:-SIGNATURE_BYTES])
    return read_header(parse(data), len(memory))


# The header's fields

_FIELDS = (
    "producer", "options", "inputs", "outputs", "metadata", "description", "sections", "targets", "constants",
    "plans", "model", "external", "origin",
)  # fmt: skip


def read_header(document: Any, size: int) -> Header:
    """The header of a file of ``size`` bytes; raises :class:`MalformedError`."""
    fields = mapping(document, "the header", _FIELDS)
    sections = each(fields["sections"], "sections", lambda item, where: _section(item, where, size))
    count_of = len(sections)
    targets = each(fields["targets"], "targets", lambda item, where: _target(item, where, sections))
    constants = each(fields["constants"], "constants", lambda item, where: _constant(item, where, sections))
    model, origin = fields["model"], fields["origin"]
    return Header(
        producer=_texts(fields["producer"], "producer"),
        options=mapping(fields["options"], "options", ("math", "optimize")),
        inputs=each(fields["inputs"], "inputs", _tensor),
        outputs=each(fields["outputs"], "outputs", _tensor),
        metadata=_texts(fields["metadata"], "metadata"),
        description=Description.from_json(fields["description"], "description"),
        sections=sections,
        targets=targets,
        constants=constants,
        plans=each(
            fields["plans"],
            "plans",
            lambda item, where: _plan(item, where, len(targets), count_of, len(constants)),
        ),
        model=None if model is None else index(model, "model", count_of),
        external={
            name: index(number, "external", count_of)
            for name, number in mapping(fields["external"], "external").items()
        },
        origin=None if origin is None else Origin.from_json(origin, "origin"),
    )


def _texts(value: Any, where: str) -> dict[str, str]:
    return {name: text(item, where) for name, item in mapping(value, where).items()}


def _section(value: Any, where: str, size: int) -> Section:
    offset, length, expected = items(value, where, 3)
    section = Section(count(offset, where), count(length, where), text(expected, where))
    demand(section.offset % PAGE == 0, f"{where} does not begin at a page")
    demand(section.offset + section.size <= size, f"{where} reaches beyond the file, which is cut short")
    return section


def _tensor(value: Any, where: str) -> TensorEntry:
    name, dtype, dims, optional = items(value, where, 4)
    kind = dtype if dtype is None or isinstance(dtype, str) else read_type(dtype, where)
    shape = None if dims is None else each(dims, where, read_dim)
    return TensorEntry(text(name, where), kind, shape, truth(optional, where))


def _target(value: Any, where: str, sections: tuple[Section, ...]) -> TargetEntry:
    names = (
        "target", "requires", "form", "code", "kernels", "imports", "rebases", "executor", "executor_digest",
    )  # fmt: skip
    fields = mapping(value, where, names)
    code = index(fields["code"], f"{where}.code", len(sections))
    form, size = text(fields["form"], f"{where}.form"), sections[code].size
    demand(form in FORMS, f"{where}.form is {form!r}")

    def offset(item: Any, place: str) -> int:
        return index(item, place, size)

    def word(item: Any, place: str) -> int:
        return index(item, place, size - 7)

    def imported(item: Any, place: str) -> tuple[str, int]:
        name, at = items(item, place, 2)
        return text(name, place), word(at, place)

    return TargetEntry(
        target=read_target(fields["target"]),
        requires=each(fields["requires"], f"{where}.requires", text),
        form=form,
        code=code,
        kernels={
            key: _kernel(item, f"{where}.kernels", size)
            for key, item in mapping(fields["kernels"], f"{where}.kernels").items()
        },
        imports=each(fields["imports"], f"{where}.imports", imported),
        rebases=indices(fields["rebases"], f"{where}.rebases", size - 7),
        executor={
            name: index(item, f"{where}.executor", size)
            for name, item in mapping(fields["executor"], f"{where}.executor").items()
        },
        executor_digest=text(fields["executor_digest"], f"{where}.executor_digest"),
    )


def _kernel(value: Any, where: str, size: int) -> tuple[int, int, str]:
    offset, length, symbol = items(value, where, 3)
    demand(index(offset, where, size) + count(length, where) <= size, f"{where} reach beyond their section")
    return offset, length, text(symbol, where)


def _constant(value: Any, where: str, sections: tuple[Section, ...]) -> ConstantEntry:
    label, size, section, offset = items(value, where, 4)
    try:
        dtype = DType.from_label(text(label, where))
    except KeyError:
        raise MalformedError(f"{where}: {label!r} is no element type") from None
    demand(dtype is not DType.STRING, f"{where}: strings are no constants")
    index(section, where, len(sections))
    end = count(offset, where) + count(size, where) * dtype.itemsize
    demand(end <= sections[section].size, f"{where} reaches beyond its section")
    return ConstantEntry(dtype, size, section, offset)


def _plan(value: Any, where: str, targets: int, sections: int, constants: int) -> PlanEntry:
    target, names, shapes, run_key, texts, plan, numbers, given, made = items(value, where, 9)
    inputs = each(names, where, text)
    extents = each(shapes, where, counts)
    demand(len(inputs) == len(extents), f"{where} has {len(inputs)} names and {len(extents)} shapes")
    parts = _structures(given, f"{where}.given")
    fed = {name for structure in parts.values() for name in tensors(structure)}
    demand(fed <= set(inputs), f"{where}.given names tensors that are not fed")
    return PlanEntry(
        target=index(target, f"{where}.target", targets),
        names=inputs,
        shapes=extents,
        run_key=text(run_key, where),
        texts={name: _text_tensor(item, where) for name, item in mapping(texts, f"{where}.texts").items()},
        plan=index(plan, f"{where}.plan", sections),
        constants=indices(numbers, where, constants),
        given=tuple(parts.items()),
        made=_structures(made, f"{where}.made"),
    )


def _structures(value: Any, where: str) -> dict[str, Structure[str]]:
    return {name: read_structure(item, where) for name, item in mapping(value, where).items()}


def _text_tensor(value: Any, where: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    shape, elements = items(value, where, 2)
    extents, texts = each(shape, where, count), each(elements, where, text)
    demand(int(np.prod(extents, dtype=np.int64)) == len(texts), f"{where} has {len(texts)} texts")
    return extents, texts
