"""What all plans of a model share: constants, and what was found out about them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node, Value
from onnxplan.compiler.view import READS, Storage, View

T = TypeVar("T")

MEMO_BYTES = 64 << 10
"""Evaluated constants of at least this size, or computed of such, are kept for all plans of the model."""

RECALLED_BYTES = 16 << 20
"""So many bytes of smaller ones, and of what passes found out about constants, are kept, too."""

RECALLED_ENTRY_BYTES = 1 << 10
"""What keeping one of them costs beside its elements, about."""

RELEASE_BYTES = 4 << 20
"""After so many bytes of new constants, what they were made of is given back to the system."""


class ConstantPool:
    """Constants shared by all plans of a model: initializers, folded results, packed weights.

    ``release_sources`` gives back the memory of mapped files that initializers are views of. It is called
    whenever :data:`RELEASE_BYTES` of constants were made, which read them.
    """

    def __init__(self, release_sources: Callable[[], object] | None = None) -> None:
        self._storages: dict[str, Storage] = {}
        self._recalled: dict[Hashable, Any] = {}
        self._lasting: set[Storage] = set()
        self._recalled_bytes = 0
        self.settled: dict[Node, int] = {}
        """Nodes that need not be lowered again, as they make constants of constants alone; how many storages
        they took names for."""
        self.lowered: dict[Value, View] = {}
        """What the results of these nodes became."""
        self._release_sources = release_sources
        self._made_bytes = 0
        self._read_bytes = 0

    def get(self, key: str, make: Callable[[], npt.NDArray[Any]], name: str = "") -> Storage:
        """The constant called ``key``, made on first use."""
        next(READS)
        storage = self._storages.get(key)
        if storage is None:
            array = np.ascontiguousarray(make())
            storage = Storage(DType.from_numpy(array.dtype), array.size, name or key, array.reshape(-1), key)
            self._storages[key] = storage
            self._lasting.add(storage)
            self._count_made(array.nbytes)
        return storage

    def settle(self, node: Node, reads: Iterable[Value], lowered: Mapping[Value, object], names: int) -> None:
        """Keeps what ``node``, which emitted nothing, became if that is the same in all plans.

        It is where it made constants of constants alone. ``names`` is how many storages it took names for.
        """
        for value in reads:
            if value.constant is None and value not in self.lowered:
                return
        results = {output: lowered.get(output) for output in node.outputs if output is not None}
        views = {value: view for value, view in results.items() if isinstance(view, View)}
        if len(views) < len(results) or not all(view.is_constant for view in views.values()):
            return
        self.settled[node] = names
        self.lowered.update(views)
        self._lasting.update(view.storage for view in views.values())

    def fold(self, key: Hashable, sources: Sequence[View], make: Callable[[], Storage]) -> Storage:
        """The small constant that ``make`` computes of ``sources``; ``key`` says how: see :meth:`recall`."""
        storage = self.recall(key, sources, make, lambda made: made.nbytes)
        if key in self._recalled:
            self._lasting.add(storage)
        return storage

    def recall(
        self, key: Hashable, sources: Iterable[View], make: Callable[[], T], nbytes: Callable[[T], int]
    ) -> T:
        """What ``make`` finds out about constants; ``nbytes`` says how large that is.

        It is computed once for all plans where ``sources``, which ``key`` holds, belong to all of them.
        """
        next(READS)
        found: T | None = self._recalled.get(key)
        if found is not None:
            return found
        found = make()
        if all(view.storage in self._lasting for view in sources):
            size = nbytes(found) + RECALLED_ENTRY_BYTES
            if self._recalled_bytes + size <= RECALLED_BYTES:
                self._recalled[key] = found
                self._recalled_bytes += size
        return found

    def defer(
        self, key: str, dtype: DType, size: int, make: Callable[[], npt.NDArray[Any]], name: str = ""
    ) -> Storage:
        """The constant called ``key``, of ``size`` elements: made whenever it is read, where it is large."""
        next(READS)
        if size * dtype.itemsize < MEMO_BYTES:
            return self.get(key, make, name)
        storage = self._storages.get(key)
        if storage is None:

            def elements() -> npt.NDArray[Any]:
                array = np.ascontiguousarray(make())
                self._count_made(array.nbytes)
                return array

            storage = self._storages[key] = Storage(dtype, size, name or key, None, key, elements)
            self._lasting.add(storage)
        return storage

    def _count_made(self, nbytes: int) -> None:
        self._made_bytes += nbytes
        self._read_bytes += nbytes
        if self._release_sources is not None and self._read_bytes >= RELEASE_BYTES:
            self._read_bytes = 0
            self._release_sources()

    def take_made_bytes(self) -> int:
        """Bytes of the constants made since this was last asked."""
        made, self._made_bytes = self._made_bytes, 0
        return made

    @property
    def nbytes(self) -> int:
        """Bytes of all constants held, initializers included."""
        return sum(storage.nbytes for storage in self._storages.values() if storage.constant is not None)

    def keep_only(self, constants: Iterable[npt.NDArray[Any]]) -> None:
        """Drops what is none of ``constants``, such as folded weights that were packed since.

        It is made again if it is asked for again.
        """
        kept = {id(array) for array in constants}
        self._storages = {
            key: storage for key, storage in self._storages.items() if id(storage.constant) in kept
        }
        self._lasting = set(self._storages.values())
        self._recalled_bytes = 0
        for memory in (self._recalled, self.settled, self.lowered):
            memory.clear()


def content_key(view: View) -> str:
    """A text equal for equal constants: where a large one came from, what a small one holds."""
    storage = view.storage
    if not storage.key:
        assert storage.constant is not None
        constant = storage.constant
        content = repr(constant.tolist()).encode() if constant.dtype.hasobject else constant.tobytes()
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        storage.key = f"{storage.dtype}:{digest}"
    return f"{storage.key}@{view.offset}{view.shape}{view.strides}"


def derived_key(what: str, sources: Sequence[View]) -> str:
    """The key of a constant that ``what`` makes of ``sources``."""
    text = "\n".join([what, *map(content_key, sources)])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
