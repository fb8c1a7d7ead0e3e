"""Models that were seen before: their plans, code and packed constants, in the kernel store.

An entry is a compiled artifact without the model, in a file of its own that processes map and share. It is
found by the path of the model's file and all that decides on plans beside the file, and used while that file
and its external data are those it was made of (:mod:`onnxplan.runtime.origin`).
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from onnxplan.compiler.environment import is_on
from onnxplan.compiler.errors import InvalidArtifactError
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target
from onnxplan.runtime.artifact import MAGIC, Artifact
from onnxplan.runtime.origin import open_files
from onnxplan.runtime.store import KernelStore, content_key, store_directory

ROOMS = ("compiler", "kernels", "runtime")
"""The folders beside each other whose sources decide on plans and code."""
SETTINGS = ("ONNXPLAN_WINOGRAD", "ONNXPLAN_CUDNN")
"""Switches that decide on plans; on by default."""
INSPECTIONS = ("ONNXPLAN_DUMP", "ONNXPLAN_STOP_AFTER", "ONNXPLAN_VERIFY")
"""Environment variables that want models to be compiled in the process where they are on."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the entry of a model file is, for one target and level of optimisation."""

    store: KernelStore
    key: str
    path: str
    """The absolute path of the model."""

    def open(self) -> SeenModel | None:
        """The entry, if it is whole and of the model as it is now."""
        opened = self.store.open_model(self.key)
        if opened is None:
            return None
        path, handle = opened
        try:
            artifact = Artifact(path, handle=handle)
            for number, section in enumerate(artifact.header.sections):
                if section.digest:
                    artifact.checked(number)
        except (InvalidArtifactError, OSError, ValueError):
            # Damaged, or cut to nothing: it is made again.
            self.store.remove_model(self.key)
            return None
        origin = artifact.header.origin
        files = None if origin is None else open_files(self.path, origin)
        return None if files is None else SeenModel(artifact, *files)


@dataclass(frozen=True, slots=True)
class SeenModel:
    """An entry, and the model that it is of: its bytes, and those of external files by location."""

    artifact: Artifact
    data: memoryview
    external: dict[str, memoryview]


_anew: ContextVar[bool] = ContextVar("onnxplan_anew", default=False)


@contextmanager
def planned_anew() -> Iterator[None]:
    """Sessions that are opened inside, on this thread, make their plans themselves, whatever is kept."""
    token = _anew.set(True)
    try:
        yield
    finally:
        _anew.reset(token)


def place_of(path: str | os.PathLike[str], target: Target, optimize: int) -> Place | None:
    """Where a model is kept; None where it cannot be, or is to be compiled in any case."""
    stamp = _sources_stamp()
    if stamp is None or _anew.get() or any(map(is_on, INSPECTIONS)):
        return None
    absolute = os.path.abspath(os.fsdecode(path))
    settings = [str(is_on(name, default=True)) for name in SETTINGS]
    made_for = json.dumps([target.to_json(), optimize, settings])
    return Place(KernelStore(store_directory()), content_key(MAGIC, absolute, made_for, stamp), absolute)


@functools.cache
def _sources_stamp() -> str | None:
    """A digest of names, sizes and times of onnxplan's own sources; None where they are in no files.

    Reading them would take longer than all the rest.
    """
    parent = Path(__file__).parent.parent
    try:
        return content_key(repr([found for room in ROOMS for found in _sources(str(parent / room))]))
    except OSError:
        return None


def _sources(folder: str) -> Iterator[tuple[str, int, int]]:
    for name in sorted(os.listdir(folder)):
        path = f"{folder}/{name}"
        if name.endswith(".py"):
            status = os.stat(path)
            yield path, status.st_size, status.st_mtime_ns
        elif "." not in name and name != "__pycache__" and os.path.isdir(path):
            yield from _sources(path)
