"""What is alike but for its tensors: layers of a network ask the same of a compiler again and again.

A key holds all that decides about something done to tensors but the tensors themselves: types, sizes, shapes
and strides, which of them share a storage, and the elements of small constants. What was done for the first
of a key is done again for others by putting their storages in the places of the first one's.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.view import READS, Shape, Storage, View

SMALL_SIZE = 64
"""Constants of up to so many elements are told apart by these, larger ones only by their layout."""


@dataclass(frozen=True, slots=True)
class Key:
    """``parts`` are equal for what is alike; ``complete`` says that elements of all constants are in it."""

    parts: Hashable
    complete: bool

    def decides(self, start: int, apart: int) -> bool:
        """Was nothing read that is not in the key since :data:`READS` gave ``start``?

        ``apart`` is how far it went on for what is done anew for each.
        """
        return self.complete or next(READS) - start - apart == 1


_STRING = DType.STRING


def key_of(what: Hashable, operands: Iterable[object]) -> Key | None:
    """The key of ``what`` on ``operands``, views or ``None``; ``None`` where there are others, or strings."""
    parts: list[Hashable] = [what]
    storages: list[Storage] = []
    complete = True
    for view in operands:
        if not isinstance(view, View):
            if view is not None:
                return None
            parts.append(None)
            continue
        storage = view.storage
        if storage in storages:
            parts += (storages.index(storage), view.offset, view.shape, view.strides)
        else:
            dtype, size = storage.dtype, storage.size
            if dtype is _STRING:
                return None
            parts += (dtype, size, view.offset, view.shape, view.strides)
            if storage.constant is not None or storage.make is not None:
                elements = storage.constant if size <= SMALL_SIZE else None
                complete &= elements is not None
                parts.append((storage.transient, None if elements is None else elements.tobytes()))
        storages.append(storage)
    return Key(tuple(parts), complete)


@dataclass(frozen=True, slots=True)
class Window:
    """A view on the storage of this number."""

    storage: int
    offset: int
    shape: Shape
    strides: Shape


class Unlike(Exception):  # noqa: N818 - a signal, not an error
    """What was done hangs on more than the views of a key."""


class Places:
    """Numbers for the views that something works on: those given first, then windows on their storages.

    Views of other constants are kept as they are.
    """

    def __init__(self, views: Sequence[View]) -> None:
        self._numbers: dict[View, int] = {}
        self._storages: dict[Storage, int] = {}
        for number, view in enumerate(views):
            self._numbers.setdefault(view, number)
            self._storages.setdefault(view.storage, number)
        self._given = len(views)
        self._count = len(views)
        self.windows: list[Window | View] = []

    def add(self, storage: Storage) -> None:
        """Gives a new storage the next number."""
        self._storages[storage] = self._count
        self._count += 1

    def __contains__(self, storage: Storage) -> bool:
        return storage in self._storages

    def number(self, view: View) -> int:
        """The number of ``view``; raises :class:`Unlike` where it is on a storage that has none."""
        number = self._numbers.get(view)
        if number is None:
            window = self.window(view)
            number = self._numbers[view] = self._given + len(self.windows)
            self.windows.append(window)
        return number

    def window(self, view: View) -> Window | View:
        """What ``view`` is on a storage that has a number, or the view of another constant as it is."""
        storage = self._storages.get(view.storage)
        if storage is not None:
            return Window(storage, view.offset, view.shape, view.strides)
        if not view.is_constant:
            raise Unlike
        return view

    def numbers(self, views: Iterable[View]) -> tuple[int, ...]:
        return tuple([self.number(view) for view in views])


def put(windows: Iterable[Window | View], storages: Sequence[Storage]) -> list[View]:
    """The views that ``windows`` are on ``storages``."""
    return [
        window
        if isinstance(window, View)
        else View(storages[window.storage], window.offset, window.shape, window.strides)
        for window in windows
    ]
