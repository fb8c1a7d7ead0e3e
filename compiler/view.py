"""Views: strided windows on storages. Reshape, transpose, slice and expand cost nothing at run time."""

from __future__ import annotations

import functools
import itertools
import math
import weakref
from collections.abc import Callable
from dataclasses import field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass

Shape = tuple[int, ...]
Layout = tuple[int, Shape, Shape]
"""Offset, shape and strides of a view: all but its storage."""

READS = itertools.count()
"""Goes on whenever elements of constants are read, or what was found out about them is."""


@dataclass(eq=False, slots=True)
class Storage:
    """A dense block of ``size`` elements: an input, a constant, or what operations write.

    ``constant`` holds the elements (one-dimensional) of a constant, or else ``make`` computes them (a
    contiguous array of any shape) whenever they are asked for: they are often read once, to be packed, and
    need no memory before and after. ``key`` identifies a constant's content by where it came from, so that
    work derived from it (folding, packing) is done once per model. ``transient`` constants hang on strings or
    other elements of a run: what is derived from them serves no other plan.
    """

    dtype: DType
    size: int
    name: str = ""
    constant: npt.NDArray[Any] | None = field(default=None, repr=False)
    key: str = ""
    make: Callable[[], npt.NDArray[Any]] | None = field(default=None, repr=False)
    transient: bool = False
    _made: weakref.ref[npt.NDArray[Any]] | None = field(default=None, init=False, repr=False)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def is_constant(self) -> bool:
        return self.constant is not None or self.make is not None

    def elements(self) -> npt.NDArray[Any] | None:
        """The elements (one-dimensional) of a constant, ``None`` for others.

        Those that ``make`` computes are computed again where nobody holds them any more.
        """
        next(READS)
        if self.constant is not None or self.make is None:
            return self.constant
        array = None if self._made is None else self._made()
        if array is None:
            array = self.make()
            # Views of it, which is what callers hold, keep it alive.
            self._made = weakref.ref(array)
        return array.reshape(-1)


@dataclass(slots=True)
class View:
    """``shape`` elements of ``storage`` at ``offset + sum(index * strides)``, all counted in elements.

    Strides may be 0 (broadcast) or negative (reversed). Views compare by value, storages by identity. They
    never change; type checkers see to it, as a class that refuses takes three times as long to make one, and
    planning makes thousands.
    """

    storage: Final[Storage]
    offset: Final[int]
    shape: Final[Shape]
    strides: Final[Shape]

    def __hash__(self) -> int:
        return hash((self.storage, self.offset, self.shape, self.strides))

    @staticmethod
    def dense(storage: Storage, shape: Shape) -> View:
        """The row-major view of the whole storage."""
        return View(storage, 0, shape, dense_strides(shape))

    @property
    def layout(self) -> Layout:
        return self.offset, self.shape, self.strides

    @property
    def dtype(self) -> DType:
        return self.storage.dtype

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def is_constant(self) -> bool:
        return self.storage.is_constant

    @property
    def is_dense(self) -> bool:
        """Row-major without gaps (it may start anywhere in its storage)."""
        return normal_strides(self.shape, self.strides) == normal_strides(
            self.shape, dense_strides(self.shape)
        )

    @property
    def covers_storage(self) -> bool:
        """Does it hold each element of its storage exactly once, in any order?"""
        return self.size == self.storage.size and permuted_dense_order(self) is not None

    def numpy(self) -> npt.NDArray[Any]:
        """The elements of a constant, read-only and without a copy."""
        data = self.storage.elements()
        if data is None:
            raise ValueError(f"storage {self.storage.name!r} is not a constant")
        return strided_window(data, self.offset, self.shape, self.strides, writeable=False)

    def transpose(self, permutation: tuple[int, ...]) -> View:
        return View(
            self.storage,
            self.offset,
            tuple(self.shape[axis] for axis in permutation),
            tuple(self.strides[axis] for axis in permutation),
        )

    def expand(self, shape: Shape) -> View:
        """Broadcast to ``shape`` by NumPy's rules; raises ``ValueError`` where they do not allow it."""
        lead = len(shape) - self.rank
        if lead < 0:
            raise ValueError(f"cannot broadcast {self.shape} to {shape}")
        strides = [0] * lead
        for own, wanted, stride in zip(self.shape, shape[lead:], self.strides, strict=True):
            if own == wanted:
                strides.append(stride)
            elif own == 1:
                strides.append(0)
            else:
                raise ValueError(f"cannot broadcast {self.shape} to {shape}")
        return View(self.storage, self.offset, shape, tuple(strides))

    def squeeze(self, axes: tuple[int, ...]) -> View:
        """Without the axes ``axes``, which must have extent 1."""
        kept = [axis for axis in range(self.rank) if axis not in axes]
        return View(
            self.storage,
            self.offset,
            tuple(self.shape[axis] for axis in kept),
            tuple(self.strides[axis] for axis in kept),
        )

    def unsqueeze(self, axes: tuple[int, ...]) -> View:
        """With axes of extent 1 at the positions ``axes`` of the result."""
        shape, strides = list(self.shape), list(self.strides)
        for axis in sorted(axes):
            shape.insert(axis, 1)
            strides.insert(axis, 0)
        return View(self.storage, self.offset, tuple(shape), tuple(strides))

    def slice(self, axis: int, start: int, length: int, step: int = 1) -> View:
        """``length`` elements along ``axis`` from ``start`` in steps of ``step`` (may be negative)."""
        shape, strides = list(self.shape), list(self.strides)
        offset = self.offset + (start * strides[axis] if length else 0)
        shape[axis] = length
        strides[axis] *= step
        return View(self.storage, offset, tuple(shape), tuple(strides))

    def reshape(self, shape: Shape) -> View | None:
        """The same elements in row-major order under another shape, or ``None`` if that needs a copy."""
        if math.prod(shape) != self.size:
            raise ValueError(f"cannot reshape {self.shape} to {shape}")
        strides = reshape_strides(self.shape, self.strides, shape)
        return None if strides is None else View(self.storage, self.offset, shape, strides)

    def __str__(self) -> str:
        text = f"{self.storage.name}:{self.dtype}{list(self.shape)}"
        if self.is_dense and self.offset == 0:
            return text
        return f"{text}@{self.offset}{list(self.strides)}"


def strided_window(
    block: npt.NDArray[Any], offset: int, shape: Shape, strides: Shape, *, writeable: bool
) -> npt.NDArray[Any]:
    """A strided window on the one-dimensional ``block``, without a copy; offset and strides in elements."""
    if 0 in shape:
        return np.empty(shape, block.dtype)
    if strides == dense_strides(shape):
        # Most windows are of whole constants, for which general strides take ten times as long.
        dense = block[offset : offset + math.prod(shape)].reshape(shape)
        if not writeable:
            dense.flags.writeable = False
        return dense
    # NumPy's array interface takes the one-byte float8e5m2 for a type of its own; show it bytes.
    plain = block.view(np.uint8) if block.dtype.kind == "f" and block.itemsize == 1 else block
    steps = [stride * block.itemsize for stride in strides]
    view = np.lib.stride_tricks.as_strided(plain[offset:], shape, steps, writeable=writeable)
    return view if plain is block else view.view(block.dtype)


@functools.lru_cache(maxsize=4096)
def dense_strides(shape: Shape) -> Shape:
    """Row-major strides in elements."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        # NumPy's integers equal Python's, and must not come back to who asks with these.
        strides[axis] = strides[axis + 1] * max(int(shape[axis + 1]), 1)
    return tuple(strides)


def normal_strides(shape: Shape, strides: Shape) -> Shape:
    """Strides with those of axes of extent 1 set to 0: they never matter. All 0 for an empty shape."""
    if 0 in shape:
        return (0,) * len(shape)
    if 1 not in shape:
        return strides
    return tuple(0 if extent == 1 else stride for extent, stride in zip(shape, strides, strict=True))


def permuted_dense_order(view: View) -> tuple[int, ...] | None:
    """The axes of extent above 1 from outermost to innermost in memory if the view is dense in that order.

    ``None`` if there are gaps, overlaps or negative strides.
    """
    axes = sorted(
        (axis for axis in range(view.rank) if view.shape[axis] != 1),
        key=lambda axis: view.strides[axis],
        reverse=True,
    )
    if view.size == 0:
        return tuple(axes)
    expected = 1
    for axis in reversed(axes):
        if view.strides[axis] != expected:
            return None
        expected *= view.shape[axis]
    return tuple(axes)


def reshape_strides(old_shape: Shape, old_strides: Shape, new_shape: Shape) -> Shape | None:
    """Strides of ``new_shape`` over the same elements, or ``None`` if no strides can express it."""
    if 0 in old_shape:
        return dense_strides(new_shape)
    if old_shape == new_shape and 1 not in old_shape:
        return old_strides
    old = [(n, s) for n, s in zip(old_shape, old_strides, strict=True) if n != 1]
    strides = [0] * len(new_shape)
    axes = [axis for axis, n in enumerate(new_shape) if n != 1]
    position = 0
    taken = 0
    while position < len(old) and taken < len(axes):
        group_old = [old[position]]
        group_new = [axes[taken]]
        product_old, product_new = old[position][0], new_shape[axes[taken]]
        position, taken = position + 1, taken + 1
        while product_old != product_new:
            if product_old < product_new:
                group_old.append(old[position])
                product_old *= old[position][0]
                position += 1
            else:
                group_new.append(axes[taken])
                product_new *= new_shape[axes[taken]]
                taken += 1
        for (_, outer), (extent, inner) in itertools.pairwise(group_old):
            if outer != inner * extent:
                return None
        stride = group_old[-1][1]
        for axis in reversed(group_new):
            strides[axis] = stride
            stride *= new_shape[axis]
    return tuple(strides)
