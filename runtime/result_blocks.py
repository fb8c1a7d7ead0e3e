"""Memory of results that nobody refers to any longer serves later runs.

Memory that the system hands out anew costs a fault and a page of zeros for every 4 KiB, more than writing a
result takes.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.blocks import empty_block
from onnxplan.runtime.budget import Budget
from onnxplan.runtime.device import AnyArray, Device

Array: TypeAlias = npt.NDArray[Any]
Block: TypeAlias = tuple[Array, int]
"""The array that owns memory, which NumPy makes the base of all views, and the first byte of a result."""

LEAST_BYTES = 1 << 16
"""Smaller results come from the heap, which keeps their pages."""
MOST_BLOCKS = 16
"""Blocks of an output that are looked at again; others are freed with their last reader."""
MOST_SPARES = 1
"""Blocks that are kept though no run needs them."""
WINDOW = 64
"""Results among which the number of those alive at once is looked at: how many depends on who comes first."""


def _references(block: Block) -> int:
    return sys.getrefcount(block[0])


def _make_block(nbytes: int) -> Block:
    data = empty_block(nbytes, np.dtype(np.uint8))
    owner = data.base
    assert isinstance(owner, np.ndarray)
    return owner, data.ctypes.data - owner.ctypes.data


def _unread_references() -> int | None:
    """The references to a block that no result reads; ``None`` where this interpreter does not count them."""
    is_locked = getattr(sys, "_is_gil_enabled", lambda: True)()
    if sys.implementation.name != "cpython" or not is_locked:
        return None
    block = _make_block(LEAST_BYTES)
    unread = _references(block)
    reader: Array | None = np.ndarray((1,), np.uint8, block[0], block[1])[:1].view()
    read = _references(block)
    del reader
    return unread if read > unread == _references(block) else None


UNREAD = _unread_references()


def result_maker(
    device: Device, budget: Budget, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Callable[[], AnyArray]:
    """What makes arrays on the host for an output of ``device``; it raises ``MemoryError``.

    What sessions with a limit of memory do not need now, they do not keep.
    """
    if not device.runs_inline:
        return partial(device.allocate, shape, dtype, host=True)
    if UNREAD is None or budget.limit is not None or math.prod(shape) * dtype.itemsize < LEAST_BYTES:
        return partial(np.empty, shape, dtype)
    blocks = ResultBlocks(shape, dtype)
    budget.keep_results(blocks)
    return blocks


class ResultBlocks:
    """Makes arrays of one output, each of which is its caller's as long as anything refers to its memory.

    Calls may come from several threads at once.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._shape, self._dtype = shape, dtype
        self._nbytes = math.prod(shape) * dtype.itemsize
        self._blocks: deque[Block] = deque(maxlen=MOST_BLOCKS)
        self._begin_window()

    def _begin_window(self) -> None:
        self._left = WINDOW
        self._least_spares = MOST_BLOCKS

    def __call__(self) -> Array:
        """An array of unspecified content. Raises ``MemoryError``."""
        block = self._take() or _make_block(self._nbytes)
        result = np.ndarray(self._shape, self._dtype, *block)
        self._blocks.append(block)
        return result

    @property
    def spare_bytes(self) -> int:
        """Bytes of blocks that no result reads."""
        return self._nbytes * sum(_references(block) == UNREAD for block in tuple(self._blocks))

    def trim(self) -> int:
        """Gives up the blocks that no result reads; the number of bytes."""
        freed = self.spare_bytes
        self._blocks.clear()
        return freed

    def after_fork(self) -> None:
        """Nothing to forget: the child has copies of all blocks."""

    def _take(self) -> Block | None:
        """A block that no result reads. What is being looked at is out of sight of other threads."""
        found, spares = None, 0
        surplus = self._surplus()
        for _ in range(len(self._blocks)):
            try:
                block = self._blocks.popleft()
            except IndexError:
                break
            if _references(block) == UNREAD:
                if found is None:
                    found = block
                    continue
                if surplus > 0:
                    surplus -= 1
                    continue
                spares += 1
            self._blocks.append(block)
        self._least_spares = min(self._least_spares, spares)
        return found

    def _surplus(self) -> int:
        """How many blocks to give up: at the end of a window those that were spare all the time."""
        self._left -= 1
        if self._left > 0:
            return 0
        surplus = self._least_spares - MOST_SPARES
        self._begin_window()
        return surplus
