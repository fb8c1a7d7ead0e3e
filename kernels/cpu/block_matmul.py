"""Selects kernels for products by weights that are quantised in blocks.

Few rows are multiplied while the weights are unpacked in registers: what counts is to read the packed bytes.
For more rows each panel is unpacked, a block of the depth at a time, into the second cache, where the
micro-kernel of :mod:`onnxplan.kernels.cpu.microkernel` finds it for all rows of a tile.
"""

from __future__ import annotations

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import BlockMatMul
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.block_weights import BlockFormat, format_of, pack_blocks
from onnxplan.kernels.cpu.epilogue import Epilogue, describe_epilogue, shared_with_output
from onnxplan.kernels.cpu.mapreduce import dense_copy
from onnxplan.kernels.cpu.matmul import left_operand
from onnxplan.kernels.cpu.product import lay_out_scratch, place_words
from onnxplan.kernels.cpu.tiling import (
    LEAST_SECONDS,
    TILES_A_THREAD,
    Problem,
    RegisterTile,
    ceil_div,
    cut,
    depth_block,
    register_tile,
    round_up,
)
from onnxplan.kernels.matrices import Matrices, distinct_bytes

FEW_FAMILY, MANY_FAMILY = "block_rows", "block_matmul"
FEW_ROWS = 12
"""So many rows at most are multiplied while the weights are unpacked."""

ROWS_AT_ONCE = 6
"""Rows that share what was unpacked."""

FLOATS = (DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16)

# The parameter words of a step for few rows, scratch positions and steps in bytes; those of the output and
# the extras (row and column step each) follow.
WORDS = (
    "rows",
    "columns",
    "depth",
    "blocks",
    "tile_panels",
    "panels",
    "a_row",
    "a_pitch",
    "sums",
    "sums_pitch",
    "tile",
)


def prefers_block_matmul(operation: Operation, target: Target) -> bool:
    """Is there a kernel for these weights?"""
    primitive = operation.primitive
    assert isinstance(primitive, BlockMatMul)
    a, packed, scales, zeros = operation.inputs[:4]
    return (
        all(view.is_constant for view in (packed, scales, zeros))
        and primitive.block * primitive.bits % 32 == 0
        and a.dtype in FLOATS
        and scales.dtype in FLOATS
        and (zeros.dtype is DType.UINT8 or zeros.dtype in FLOATS)
    )


def select_block_matmul(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the step of a BlockMatMul, and a copy of ``a`` where its rows' elements are no neighbours."""
    primitive = operation.primitive
    assert isinstance(primitive, BlockMatMul)
    a, packed, scales, zeros, *extras = operation.inputs
    output = operation.outputs[0]
    if output.size == 0:
        return
    if a.shape[1] > 1 and a.strides[1] != 1:
        a = dense_copy(a, emit, target, "rows")
    tile = register_tile(target, DType.FLOAT32, output.shape[1])
    form = format_of(primitive, scales, zeros, tile.width)
    weights = pack_blocks(emit, packed, scales, zeros, form)
    epilogue = describe_epilogue(primitive.epilogue, primitive.accumulator, output, extras, 1)
    few = output.shape[0] <= FEW_ROWS
    step = _few_rows if few else _many_rows
    step(emit, target, Matrices(a, weights, output, tuple(extras)), form, tile, epilogue)


def _few_rows(
    emit: StepEmitter,
    target: Target,
    matrices: Matrices,
    form: BlockFormat,
    tile: RegisterTile,
    epilogue: Epilogue,
) -> None:
    a, output, extras = matrices.a, matrices.output, matrices.extras
    rows, columns, depth = matrices.rows, matrices.columns, matrices.depth
    blocks, panels = ceil_div(depth, form.block), ceil_div(columns, form.width)
    panel_seconds = max(1, blocks) * form.record / target.bandwidth
    worth = max(1, int(LEAST_SECONDS / panel_seconds))
    wanted = TILES_A_THREAD * target.threads if target.threads > 1 else 1
    tile_panels = min(panels, max(worth, ceil_div(panels, wanted)))
    pitch = round_up(blocks * form.block * 4, 64)
    sums_at, sums_pitch = rows * pitch, round_up(blocks * 4, 64)
    tile_at = sums_at + rows * sums_pitch
    parameters = [
        rows,
        columns,
        depth,
        blocks,
        tile_panels,
        panels,
        a.strides[0] * a.dtype.itemsize,
        pitch,
        sums_at,
        sums_pitch,
        tile_at,
        *place_words((output, *extras), 0, 1),
    ]
    emit.step(
        KernelSpec(FEW_FAMILY, (a.dtype.label, form.variant, tile.lanes, epilogue.variant)),
        (a, matrices.b, output, *extras),
        (2,),
        tuple(parameters),
        tiles=ceil_div(panels, tile_panels),
        flops=(2 * depth + epilogue.expression.cost) * output.size,
        bytes_moved=_bytes(matrices),
        scratch=tile_at + ROWS_AT_ONCE * form.width * 4,
        in_place=tuple((2, 3 + number) for number in shared_with_output(output, extras)),
    )


def _many_rows(
    emit: StepEmitter,
    target: Target,
    matrices: Matrices,
    form: BlockFormat,
    tile: RegisterTile,
    epilogue: Epilogue,
) -> None:
    a, output, extras = matrices.a, matrices.output, matrices.extras
    rows, columns, depth = matrices.rows, matrices.columns, matrices.depth
    problem = Problem(1, rows, columns, depth, 4, 4, output.dtype.itemsize)
    part = depth_block(target, tile, depth, 4, rows)
    if part < depth:
        part = min(depth, round_up(part, form.block))
    parts = max(1, ceil_div(depth, part))
    # Each tile unpacks its panels: rows stay together while columns can be cut.
    tiling = cut(target, tile, problem, depth=part, depth_blocks=parts, columns_first=True)
    kind, pitch, a_scratch = left_operand(tile, matrices, tiling, DType.FLOAT32)
    unpacked = round_up(part, form.block) * form.width * 4
    copies = not kind.startswith("in_place")
    scratch = lay_out_scratch(tile, tiling, 4, unpacked, a_scratch, 8 * tiling.rows, copies=copies)
    parameters = [
        rows,
        columns,
        depth,
        tiling.row_tiles,
        tiling.column_tiles,
        *tiling.steps,
        1,
        tiling.batch,
        tiling.depth,
        tiling.depth_blocks,
        ceil_div(depth, form.block) * form.record,
        form.width * 4,
        0,
        0,
        scratch.b,
        scratch.a,
        scratch.table,
        0,
        a.strides[0] * a.dtype.itemsize,
        a.dtype.itemsize,
        pitch,
        *place_words((output, *extras), 0, 1),
    ]
    variant = (kind, a.dtype.label, form.variant, (tile.rows, tile.vectors, tile.lanes), epilogue.variant)
    emit.step(
        KernelSpec(MANY_FAMILY, variant),
        (a, matrices.b, output, *extras),
        (2,),
        tuple(parameters),
        tiles=tiling.tiles,
        flops=problem.flops + epilogue.expression.cost * output.size,
        bytes_moved=_bytes(matrices),
        scratch=scratch.size,
        in_place=tuple((2, 3 + number) for number in shared_with_output(output, extras)),
    )


def _bytes(matrices: Matrices) -> int:
    return sum(distinct_bytes(view) for view in matrices.views)
