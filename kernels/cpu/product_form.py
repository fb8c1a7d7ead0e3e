"""How the elements of a product's operands meet: alone, or several neighbours along the depth at a time.

Knows nothing of code generation.
"""

from __future__ import annotations

from dataclasses import replace

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.cpu.matrix_tiles import TILE, depth_unit, takes_tiles, tile_target
from onnxplan.kernels.cpu.pairs import PAIR, PAIR_UNIT, fills_pairs, takes_pairs
from onnxplan.kernels.cpu.parts import (
    BYTES,
    SPEED,
    SPLIT_DEPTH,
    may_be_worth_splitting,
    splits_float32,
    worth_splitting,
)
from onnxplan.kernels.cpu.quads import QUAD, quad_tile, takes_quads
from onnxplan.kernels.cpu.tiling import Extents, RegisterTile, register_tile, sum_dtype


@dataclass(frozen=True, slots=True)
class ProductForm:
    """``element`` neighbours of B along the depth are one element of the product.

    1, four bytes (:mod:`.quads`) or two of bfloat16 (:mod:`.pairs`), as which B of type ``b_dtype`` is
    packed, its depth filled up to a multiple of ``unit`` elements, in panels as wide as ``panel``. With
    ``tiles`` AMX multiplies them, else vectors; ``tile`` is the block of sums that registers hold. With
    ``parts`` (:mod:`.parts`) tiles multiply numbers that vectors could multiply as well.
    """

    element: int
    b_dtype: DType
    unit: int
    tile: RegisterTile
    tiles: bool
    panel: RegisterTile
    parts: bool = False

    @staticmethod
    def single(dtype: DType, tile: RegisterTile) -> ProductForm:
        """Elements of type ``dtype`` on their own."""
        return ProductForm(1, dtype, 1, tile, tiles=False, panel=tile)

    @property
    def quads(self) -> bool:
        return self.element == QUAD

    @property
    def row_unit(self) -> int:
        """Rows of A are as long as a multiple of so many elements."""
        if self.parts:
            return PAIR_UNIT
        return self.unit if self.tiles else 1

    @property
    def element_bytes(self) -> int:
        """Bytes of an element of B."""
        return self.element * self.b_dtype.itemsize

    @property
    def split_bytes(self) -> int:
        """Bytes of the parts of rows of B that a thread splits at a time."""
        return SPLIT_DEPTH * self.tile.width * BYTES if self.parts else 0

    @property
    def copied_bytes(self) -> int:
        """Bytes of an element of A or B as tiles are loaded from it."""
        return BYTES if self.parts else self.element_bytes

    def speed(self, target: Target) -> Target:
        """``target`` as fast as it multiplies elements of this form, for estimates."""
        if self.parts:
            return replace(target, flops=SPEED * target.flops)
        return tile_target(target) if self.tiles else target


def may_take_narrow_tiles(target: Target, a: DType, b: View, accumulator: DType) -> bool:
    """Do tile registers multiply elements of type ``a`` by ``b`` as bytes or bfloat16, if they are enough?"""
    quads = target.byte_tiles and takes_quads(target, a, b.dtype, accumulator)
    return quads or takes_pairs(target, a, b, accumulator)


def may_split(target: Target, a: DType, b: View, depth: int, columns: int, accumulator: DType) -> bool:
    """Are products of elements of type ``a`` by ``b`` computed in parts, if there are enough rows?"""
    return splits_float32(target, a, b, accumulator) and may_be_worth_splitting(depth, columns)


def product_form(
    target: Target, a: DType, b: View, extents: Extents, accumulator: DType, *, tiles: bool = True
) -> ProductForm:
    """The form of a product of elements of type ``a`` by ``b``; without ``tiles`` one for vectors.

    How B is packed does not depend on the rows, so that all plans share it, but where B is small.
    """
    if extents.depth > 0 and takes_quads(target, a, b.dtype, accumulator):
        tiles = tiles and takes_tiles(target, extents.rows)
        tile = TILE if tiles else quad_tile(target, extents.columns)
        return ProductForm(QUAD, b.dtype, depth_unit(target), tile, tiles, panel=tile)
    if tiles and takes_pairs(target, a, b, accumulator) and fills_pairs(extents):
        return ProductForm(PAIR, DType.BFLOAT16, depth_unit(target), TILE, tiles=True, panel=TILE)
    splits = may_split(target, a, b, extents.depth, extents.columns, accumulator)
    panel = register_tile(target, sum_dtype(accumulator), extents.columns, even=splits)
    if tiles and splits and worth_splitting(extents):
        return ProductForm(1, b.dtype, 1, TILE, tiles=True, panel=panel, parts=True)
    return ProductForm.single(b.dtype, panel)
