"""The layout of weights quantised in blocks: panels of columns, and all that a block needs together.

A panel holds ``width`` neighbouring columns (features). For each block along the depth there is a record:
scales of the columns, their zero points unless all are the middle of the range, then the numbers,
``32 / bits`` consecutive ones of a column in each 32-bit word, the first in the lowest bits, and the words of
a panel's columns side by side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.blocks import empty_block
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.primitives import BlockMatMul
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.view import View
from onnxplan.kernels.cpu.tiling import ceil_div


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """``zeros`` is the type of the zero points, ``None`` where all of them are ``2 ** (bits - 1)``."""

    bits: int
    block: int
    scales: DType
    zeros: DType | None
    width: int

    @property
    def each(self) -> int:
        """Numbers in a word."""
        return 32 // self.bits

    @property
    def words(self) -> int:
        """Words of a block of a column."""
        return self.block // self.each

    @property
    def zeros_at(self) -> int:
        return self.width * self.scales.itemsize

    @property
    def numbers_at(self) -> int:
        """Where they begin in a record, in bytes."""
        return self.zeros_at + (0 if self.zeros is None else self.width * self.zeros.itemsize)

    @property
    def record(self) -> int:
        """Bytes of a block of a panel."""
        return self.numbers_at + 4 * self.width * self.words

    @property
    def variant(self) -> Variant:
        zeros = "" if self.zeros is None else self.zeros.label
        return (self.bits, self.block, self.scales.label, zeros, self.width)

    @staticmethod
    def from_variant(variant: Variant) -> BlockFormat:
        bits, block, scales, zeros, width = variant
        assert isinstance(bits, int)
        assert isinstance(block, int)
        assert isinstance(width, int)
        return BlockFormat(
            bits, block, DType.from_label(str(scales)), DType.from_label(str(zeros)) if zeros else None, width
        )


def format_of(primitive: BlockMatMul, scales: View, zeros: View, width: int) -> BlockFormat:
    middle = 1 << (primitive.bits - 1)
    # The default is one element for all.
    fixed = not any(zeros.strides) and zeros.size > 0 and zeros.numpy().reshape(-1)[0] == middle
    kind = None if fixed or not zeros.size else zeros.dtype
    return BlockFormat(primitive.bits, primitive.block, scales.dtype, kind, width)


def pack_blocks(emit: StepEmitter, packed: View, scales: View, zeros: View, form: BlockFormat) -> View:
    """The constant weights in the layout of ``form``, as bytes."""

    def make(
        packed: npt.NDArray[Any], scales: npt.NDArray[Any], zeros: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        return _pack(packed, scales, zeros, form)

    features, blocks = scales.shape
    size = ceil_div(features, form.width) * blocks * form.record
    sources = (packed, scales) if form.zeros is None else (packed, scales, zeros)
    layout = "blocks " + " ".join(map(str, form.variant))
    return View.dense(emit.constant(sources, layout, make), (size,))


def _pack(
    packed: npt.NDArray[Any], scales: npt.NDArray[Any], zeros: npt.NDArray[Any] | None, form: BlockFormat
) -> npt.NDArray[Any]:
    features, blocks = scales.shape
    panels = ceil_div(features, form.width)
    flat = empty_block(panels * blocks * form.record, np.dtype(np.uint8))
    records = flat.reshape(panels, blocks, form.record)
    for number in range(panels):
        columns = slice(number * form.width, (number + 1) * form.width)
        record = records[number]
        _put(record[:, : form.zeros_at], scales[columns].T, form.width)
        if zeros is not None:
            _put(record[:, form.zeros_at : form.numbers_at], zeros[columns].T, form.width)
        words = np.ascontiguousarray(packed[columns]).view("<u4")
        by_word = words.transpose(1, 2, 0)
        part = record[:, form.numbers_at :].reshape(blocks, form.words, 4 * form.width)
        _put(part, by_word, form.width)
    return flat


def _put(target: npt.NDArray[np.uint8], source: npt.NDArray[Any], width: int) -> None:
    """Writes rows of elements as bytes, filled up to ``width`` of them with zeros."""
    filled = np.zeros((*source.shape[:-1], width), source.dtype)
    filled[..., : source.shape[-1]] = source
    target[...] = filled.view(np.uint8).reshape(target.shape)
