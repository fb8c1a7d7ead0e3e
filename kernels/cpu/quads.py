"""Quads: four bytes along the depth of a product are one element, for the processor's dot products of bytes.

A row of A is read as it stands, four bytes at a time; B is packed so that the four bytes of each column are
neighbours (:func:`onnxplan.kernels.cpu.pack.pack`). One operand has to be unsigned and the other signed,
which is what ``vpdpbusd`` multiplies; sums are exact modulo 2**32. Knows nothing of code generation.
"""

from __future__ import annotations

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View, dense_strides
from onnxplan.kernels.cpu.mapreduce import emit_copy
from onnxplan.kernels.cpu.tiling import RegisterTile, best_tile, register_tile, round_up, sum_dtype

QUAD = 4

# Without dot products each quad becomes two vectors of 16-bit words, which take more registers.
_WORD_TILES = {"avx512": ((6, 3), (8, 2)), "avx2": ((4, 2),)}


def takes_quads(target: Target, a: DType, b: DType, accumulator: DType) -> bool:
    """Are products of these types computed from quads?"""
    return (
        target.isa in _WORD_TILES
        and {a, b} == {DType.INT8, DType.UINT8}
        and accumulator.is_integer
        and sum_dtype(accumulator) is DType.INT32
    )


def quad_tile(target: Target, columns: int) -> RegisterTile:
    """The register tile for products of quads; as :func:`register_tile` it does not depend on the rows.

    With tiles of bytes it is as wide as two of them, which multiply the same packed columns.
    """
    if target.byte_tiles:
        return RegisterTile(12, 2, target.vector_bytes // DType.INT32.itemsize)
    if target.dot_products:
        return register_tile(target, DType.INT32, columns)
    lanes = target.vector_bytes // DType.INT32.itemsize
    return best_tile([RegisterTile(*shape, lanes) for shape in _WORD_TILES[target.isa]], columns)


def rows_of_quads(emit: StepEmitter, target: Target, a: View) -> View:
    """``a`` with rows that are whole quads of neighbouring bytes, copied where it has none.

    What fills the last quad of a copied row is undefined; packed B has zeros there.
    """
    if a.shape[-1] % QUAD == 0 and a.strides[-1] == 1:
        return a
    own = tuple(1 if stride == 0 else extent for extent, stride in zip(a.shape, a.strides, strict=True))
    own = (*own[:-1], a.shape[-1])
    padded = (*own[:-1], round_up(own[-1], QUAD))
    strides = dense_strides(padded)
    storage = emit.temporary(a.dtype, strides[0] * padded[0], "quads")
    emit_copy(View(a.storage, a.offset, own, a.strides), View(storage, 0, own, strides), emit, target)
    return View(storage, 0, own, strides).expand(a.shape)
