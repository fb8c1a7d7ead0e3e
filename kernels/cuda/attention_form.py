"""What variants of the kernel for attention say: tiles, rows, scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression
from onnxplan.compiler.records import dataclass
from onnxplan.kernels.cuda.tensor_core import COPY_BYTES

FAMILY = "attention"

WARP_ROWS = 16
"""Queries of the sums of a matrix instruction."""

HELD_WORDS = 32
"""Registers that a lane may hold queries in; above that they are read from shared memory for each block."""


@dataclass(frozen=True, slots=True)
class Tile:
    """What a block computes: ``warps * groups * 16`` queries, ``keys`` keys at a time.

    ``depth`` and ``width`` are the extents of heads, rounded up to 16; ``size`` are bytes of an element.
    """

    form: str
    warps: int
    groups: int
    keys: int
    depth: int
    width: int
    size: int

    @property
    def threads(self) -> int:
        return 32 * self.warps

    @property
    def rows(self) -> int:
        return WARP_ROWS * self.groups * self.warps

    @property
    def chunk(self) -> int:
        """Elements of 16 bytes. Rows in shared memory are so much longer: eight of them lie in all banks."""
        return COPY_BYTES // self.size

    @property
    def held(self) -> bool:
        """Do queries stay in registers?"""
        return self.form == "matrix" and self.groups * self.depth // (2 * self.chunk) * 4 <= HELD_WORDS

    @property
    def registers(self) -> int:
        """Of a lane, for scores, results and queries."""
        sums = self.groups * (self.keys + self.width) // 2
        return sums + (self.groups * self.depth // (2 * self.chunk) * 4 if self.held else 8)

    @property
    def shared_bytes(self) -> int:
        """Queries, keys and values; weights too where no fragments of registers hold them."""
        elements = (self.rows + self.keys) * (self.depth + self.chunk) + self.keys * (self.width + self.chunk)
        weights = self.rows * (self.keys + self.chunk) if self.form == "scalar" else 0
        return (elements + weights) * self.size


@dataclass(frozen=True, slots=True)
class Rows:
    """What rows are, and what becomes of them.

    With ``heads`` they are the queries of several heads that share keys, one head after the other. With
    ``split`` several blocks share the keys, and their results are those of parts. Weights of ``fine`` rows
    are not rounded to the type of the values.
    """

    heads: bool
    split: bool
    fine: bool

    def strided(self, extras: int) -> tuple[str, ...]:
        """The operands with a stride from one head to the next."""
        return ("q", *(f"x{number}" for number in range(extras)), "out") if self.heads else ()

    def offset(self, name: str, row: str) -> str:
        """Where a row of an operand begins."""
        if self.heads:
            return f"{row} / head_rows * {name}_head + {row} % head_rows * {name}_row"
        return f"{row} * {name}_row"


@dataclass(frozen=True, slots=True)
class Scores:
    """What becomes of the sums of products: ``expression`` of them and the extras, then the softmax.

    Without an expression exponents are ``scale`` times the sum. ``inner`` is what ``expression`` amounts to
    in blocks that a table names.
    """

    softmax: str
    scale: float
    expression: Expression | None
    inner: Expression | None
    dtypes: tuple[DType, ...]

    @property
    def variant(self) -> tuple[Any, ...]:
        labels = tuple(dtype.label for dtype in self.dtypes)
        return (self.softmax, self.scale, self.expression, self.inner, labels)

    @staticmethod
    def from_variant(
        softmax: str,
        scale: float,
        expression: Expression | None,
        inner: Expression | None,
        labels: Sequence[str],
    ) -> Scores:
        dtypes = tuple(DType.from_label(label) for label in labels)
        return Scores(softmax, scale, expression, inner, dtypes)
