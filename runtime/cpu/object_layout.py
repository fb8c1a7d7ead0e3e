"""Where this interpreter and this NumPy keep what the executor reads natively; found by looking."""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.records import dataclass

WORD_BYTES = 8
DTYPE_WORDS = (16, 24)
"""Byte offsets of two words of an element type (PyArray_Descr) that are equal for equal types: the scalar's
type; kind, byte order and number. Arrays that come from another process have element types of their own."""
LOW_HALF = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class ObjectLayout:
    """Byte offsets: type of any object; length and items of a tuple; of an array its data pointer, rank (32
    bits), pointer to the shape, element type, and flags (32 bits).
    """

    type_offset: int
    size_offset: int
    items_offset: int
    data_offset: int
    rank_offset: int
    shape_offset: int
    dtype_offset: int
    flags_offset: int


@functools.cache
def object_layout() -> ObjectLayout | None:
    """The offsets, each verified on several objects, or None where one cannot be found."""
    arrays = [np.empty(number, np.float32) for number in (3, 5, 70)]
    tuples = [tuple(object() for _ in range(length)) for length in (7, 11, 13)]
    kinds = (*arrays, *tuples)
    type_offset = _offset([(id(item), id(type(item)), _bytes(item)) for item in kinds])
    data_offset = _offset([(id(array), array.ctypes.data, _bytes(array)) for array in arrays])
    size_offset = _offset([(id(items), len(items), _bytes(items)) for items in tuples])
    items_offset = _offset([(id(items), id(items[0]), _bytes(items)) for items in tuples])
    if type_offset is None or data_offset is None or size_offset is None or items_offset is None:
        return None
    for items in tuples:
        for position, item in enumerate(items):
            if _word(id(items) + items_offset + WORD_BYTES * position) != id(item):
                return None
    # From the data pointer on, NumPy's binary interface fixes the fields (PyArrayObject_fields,
    # https://numpy.org/doc/stable/reference/c-api/types-and-structures.html).
    rank_offset, shape_offset, dtype_offset, flags_offset = (data_offset + 8 * n for n in (1, 2, 5, 6))
    if not all(_is_array_layout(id(array), array, data_offset) for array in _array_samples()):
        return None
    return ObjectLayout(
        type_offset,
        size_offset,
        items_offset,
        data_offset,
        rank_offset,
        shape_offset,
        dtype_offset,
        flags_offset,
    )


def _array_samples() -> list[npt.NDArray[Any]]:
    base = np.zeros((6, 5, 4), np.int64)
    return [np.zeros((2, 3)), np.zeros(7, np.float32), base, base[::2], base.T, np.zeros((), np.bool_)]


def _is_array_layout(address: int, array: npt.NDArray[Any], data_offset: int) -> bool:
    """Do rank, element type and flags stand where they should, and if so, the shape?"""
    rank, shape, dtype, flags = (address + data_offset + 8 * n for n in (1, 2, 5, 6))
    if _word(rank) & LOW_HALF != array.ndim or _word(dtype) != id(array.dtype):
        return False
    if _word(flags) & LOW_HALF != array.flags.num or not _is_dtype_layout(array.dtype):
        return False
    extents = [_word(_word(shape) + WORD_BYTES * axis) for axis in range(array.ndim)]
    return extents == list(array.shape)


def _bytes(item: object) -> int:
    """What may be read of an object: its basic size, and the items of a tuple."""
    return type(item).__basicsize__ + (WORD_BYTES * len(item) if isinstance(item, tuple) else 0)


def _offset(samples: list[tuple[int, int, int]]) -> int | None:
    """The one offset at which each object, given as (address, wanted word, bytes), holds its wanted word."""
    found = None
    for offset in range(0, min(size for _, _, size in samples) - WORD_BYTES + 1, WORD_BYTES):
        if all(_word(address + offset) == wanted for address, wanted, _ in samples):
            if found is not None:
                return None
            found = offset
    return found


def _word(address: int) -> int:
    return ctypes.c_int64.from_address(address).value


def _is_dtype_layout(dtype: np.dtype[Any]) -> bool:
    scalar, kind = DTYPE_WORDS
    described = ctypes.string_at(id(dtype) + kind, WORD_BYTES)
    return (
        _word(id(dtype) + scalar) == id(dtype.type)
        and described[0] == ord(dtype.kind)
        and described[2] == ord(dtype.byteorder)
        and int.from_bytes(described[4:], sys.byteorder) == dtype.num
    )
