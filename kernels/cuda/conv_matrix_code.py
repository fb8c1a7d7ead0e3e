"""CUDA C of convolution by matrix instructions: an implicit product, channels last.

A block computes a tile of output positions by output channels. Slices of four times 16 bytes of the depth, of
the input and of the weights, pass through a ring of stages in shared memory: while one is multiplied the next
ones are on their way. Sums stay in registers until the epilogue.
"""

from __future__ import annotations

from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target
from onnxplan.kernels.cuda.conv_window import WINDOW_WORDS, first_taps, inside_taps, next_tap, row_origins
from onnxplan.kernels.cuda.indexing import offsets
from onnxplan.kernels.cuda.matrix_results import declare_exchange, each_row, group_blocks, store_groups
from onnxplan.kernels.cuda.product_code import (
    Results,
    Tile,
    declare_places,
    declare_tiles,
    find_tile,
    repeat,
)
from onnxplan.kernels.cuda.source import KernelSource, KernelText
from onnxplan.kernels.cuda.tensor_core import COPY_BYTES, TENSOR_CORE
from onnxplan.kernels.scalar_cuda import storage_type

FAMILY = "conv_matrix"

SLICE_CHUNKS = 4
"""Copies of 16 bytes that a row of a slice takes: an even number of what one instruction multiplies."""


@dataclass(frozen=True, slots=True)
class MatrixTile:
    """The sums of a block, how its warps share them, the stages in shared memory, and bytes of an element."""

    rows: int
    columns: int
    row_warps: int
    column_warps: int
    stages: int
    size: int

    @property
    def threads(self) -> int:
        return 32 * self.row_warps * self.column_warps

    @property
    def chunk(self) -> int:
        """Elements of 16 bytes. Rows in shared memory are so much longer: eight of them lie in all banks."""
        return COPY_BYTES // self.size

    @property
    def depth(self) -> int:
        """Elements of a slice along the depth."""
        return SLICE_CHUNKS * self.chunk

    @property
    def groups(self) -> int:
        """Sixteens of rows of a warp."""
        return self.rows // self.row_warps // 16

    @property
    def eights(self) -> int:
        """Eights of columns of a warp."""
        return self.columns // self.column_warps // 8

    @property
    def registers(self) -> int:
        """Of a lane, for sums and factors."""
        return 4 * self.groups * self.eights + 4 * self.groups + 2 * self.eights

    @property
    def shared_bytes(self) -> int:
        return self.stages * (self.rows + self.columns) * (self.depth + self.chunk) * self.size


def build_conv_matrix(variant: Any, target: Target) -> KernelSource:
    """``variant`` is ``(threads, tile, type, results, kinds, spatial axes, index type)``.

    ``kinds`` are those of :func:`~onnxplan.kernels.cuda.matrix_results.column_kinds`.

    Operands: x, the weights ``(features of all groups, depth)``, the extras, the output. Parameters: those of
    the tiles, the strides of images and the channels of a group, the windows, the places of results.
    """
    threads, extents, label, results_variant, kinds, spatial, index = variant
    tile, results = MatrixTile(*extents), Results.from_variant(*results_variant)
    dtype = DType.from_label(label)
    kernel = KernelText(threads)
    kernel.operand("left", dtype, alone=True)
    kernel.operand("right", dtype, alone=True)
    results.declare_operands(kernel)
    declare_tiles(kernel, index)
    kernel.parameter("image_stride", index)
    kernel.parameter("channels", index)
    for axis in range(spatial):
        for name in (*WINDOW_WORDS, "stride"):
            kernel.parameter(f"{name}{axis}", index)
    declare_places(kernel, results, 1 + spatial, index)
    kernel.function(TENSOR_CORE)
    kernel.function(_definitions(tile, dtype))
    find_tile(kernel, Tile(tile.rows, tile.columns, tile.depth), index)
    kernel.line(
        f"const {index} left_start = batch * channels;",
        f"const {index} right_start = (batch * columns + column_first) * depth;",
        _BEGIN,
        *_prepare(tile, spatial, index),
        f"{index} begin = depth_first;",
        "int filled = 0;",
        "#pragma unroll",
        "for (int stage = 0; stage < STAGES - 1; ++stage) {",
        *_fetch(tile, spatial, index),
        "}",
        "int used = 0;",
        f"for ({index} slice = depth_first; slice < depth_last; slice += DEPTH) {{",
        "onnxplan_copy_wait<STAGES - 2>();",
        "__syncthreads();",
        *_fetch(tile, spatial, index),
        _multiply(dtype),
        "used = used + 1 == STAGES ? 0 : used + 1;",
        "}",
    )
    if kinds:
        blocks = group_blocks(results.dtypes[-1], tile.eights)
        declare_exchange(kernel, blocks)
        kernel.line(*store_groups(results, kinds, 1 + spatial, index, _begins(results), blocks))
    else:
        kernel.line(*_store(results, 1 + spatial, index))
    return kernel.source(FAMILY)


def _definitions(tile: MatrixTile, dtype: DType) -> str:
    numbers = {
        "ROWS": tile.rows,
        "COLUMNS": tile.columns,
        "COLUMN_WARPS": tile.column_warps,
        "GROUPS": tile.groups,
        "EIGHTS": tile.eights,
        "DEPTH": tile.depth,
        "CHUNK": tile.chunk,
        "PITCH": tile.depth + tile.chunk,
        "STAGES": tile.stages,
    }
    lines = [f"constexpr int {name} = {number};" for name, number in numbers.items()]
    return "\n".join([f"typedef {storage_type(dtype)} Storage;", *lines])


_BEGIN = """\
ONNXPLAN_DYNAMIC_SHARED(shared);
Storage* const left_tile = (Storage*)shared;
Storage* const right_tile = left_tile + STAGES * ROWS * PITCH;
const int lane = thread % 32, group = lane / 4, pair = lane % 4;
const int warp_row = thread / 32 / COLUMN_WARPS * (16 * GROUPS);
const int warp_column = thread / 32 % COLUMN_WARPS * (8 * EIGHTS);
float sums[GROUPS][EIGHTS][4];
#pragma unroll
for (int g = 0; g < GROUPS; ++g)
#pragma unroll
    for (int n = 0; n < EIGHTS; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[g][n][i] = 0.0f;"""


def _lines_of(tile: MatrixTile) -> int:
    """How far apart the rows are that a thread copies."""
    return tile.threads // SLICE_CHUNKS


def _prepare(tile: MatrixTile, spatial: int, index: str) -> list[str]:
    """Finds the rows that a thread copies, and the channel and tap that it begins with."""
    apart = _lines_of(tile)
    return [
        f"const int line = thread / {SLICE_CHUNKS}, left_depth = thread % {SLICE_CHUNKS} * CHUNK;",
        *row_origins(tile.rows // apart, "line", apart, spatial, index),
        *first_taps(spatial, index),
    ]


def _fetch(tile: MatrixTile, spatial: int, index: str) -> list[str]:
    """Copies the slice at ``begin`` to stage ``filled``, and counts both on."""
    apart = _lines_of(tile)
    moved, distance, inside = inside_taps(spatial, index)
    return [
        "{",
        *moved,
        f"const {index} distance = channel + {distance};",
        "const bool live = begin + left_depth < depth_last;",
        "Storage* const left_stage = left_tile + (filled * ROWS + line) * PITCH + left_depth;",
        "Storage* const right_stage = right_tile + (filled * COLUMNS + line) * PITCH + left_depth;",
        *repeat(
            tile.rows // apart,
            f"const bool inside = live && {inside};",
            "const Storage* const place = left + (inside ? left_offset[i] + distance : 0);",
            f"onnxplan_copy_16(left_stage + i * {apart} * PITCH, place, inside);",
        ),
        *repeat(
            tile.columns // apart,
            f"const {index} feature = line + i * {apart};",
            "const bool inside = live && column_first + feature < columns;",
            f"const {index} distance = right_start + feature * depth + begin + left_depth;",
            "const Storage* const place = right + (inside ? distance : 0);",
            f"onnxplan_copy_16(right_stage + i * {apart} * PITCH, place, inside);",
        ),
        "onnxplan_copy_commit();",
        "channel += DEPTH;",
        "while (channel >= channels) {",
        "channel -= channels;",
        *next_tap(spatial),
        "}",
        "begin += DEPTH;",
        "filled = filled + 1 == STAGES ? 0 : filled + 1;",
        "}",
    ]


def _multiply(dtype: DType) -> str:
    single = dtype is DType.FLOAT32
    rounded = "{0}[i] = onnxplan_round_tf32(__uint_as_float({0}[i]));"
    loop = "#pragma unroll\nfor (int i = 0; i < 4; ++i) "
    return _PRODUCTS.format(
        round_a=loop + rounded.format("a[g]") if single else "",
        round_b=loop + rounded.format("b") if single else "",
        multiply=f"onnxplan_warp_multiply_{dtype.label}",
    )


_PRODUCTS = """\
const Storage* const left_used = left_tile + (used * ROWS + warp_row + lane % 16) * PITCH + lane / 16 * CHUNK;
const Storage* const right_used =
    right_tile + (used * COLUMNS + warp_column + lane % 8 + lane / 16 * 8) * PITCH + lane / 8 % 2 * CHUNK;
#pragma unroll
for (int step = 0; step < DEPTH; step += 2 * CHUNK) {{
    unsigned a[GROUPS][4];
#pragma unroll
    for (int g = 0; g < GROUPS; ++g) {{
        onnxplan_warp_load_matrices(a[g], left_used + 16 * g * PITCH + step);
        {round_a}
    }}
#pragma unroll
    for (int n = 0; n < EIGHTS; n += 2) {{
        unsigned b[4];
        onnxplan_warp_load_matrices(b, right_used + 8 * n * PITCH + step);
        {round_b}
#pragma unroll
        for (int g = 0; g < GROUPS; ++g) {{
            {multiply}(sums[g][n], a[g], b[0], b[1]);
            {multiply}(sums[g][n + 1], a[g], b[2], b[3]);
        }}
    }}
}}"""


def _begins(results: Results) -> list[str]:
    """Where the extras and the output begin for the block's group and piece of the depth."""
    begins = [f"batch * columns * column_stride{number}" for number in range(len(results.dtypes))]
    begins[-1] += " + split * split_stride"
    return begins


def _store(results: Results, rank: int, index: str) -> list[str]:
    numbers = range(len(results.dtypes))
    places = [f"place{number} + column * column_stride{number}" for number in numbers]
    return [
        *each_row(index),
        "if (row < rows) {",
        *offsets("row", rank, numbers, index, "row", "place", _begins(results)),
        "#pragma unroll",
        "for (int n = 0; n < EIGHTS; ++n)",
        "#pragma unroll",
        "for (int i = 0; i < 2; ++i) {",
        f"const {index} column = column_first + warp_column + 8 * n + 2 * pair + i;",
        "if (column < columns) {",
        *results.store("sums[g][n][2 * half + i]", places),
        "}",
        "}",
        "}",
        "}",
    ]
