"""CUDA C of attention: a block takes some queries, and goes through the keys a block of them at a time.

Each warp owns 16 queries times ``groups``. Scores and results stay in registers in the layout of a matrix
instruction's sums (:mod:`onnxplan.kernels.cuda.tensor_core`), so the softmax is the same for all forms of
arithmetic:

* ``matrix``: matrix instructions, for float32 those that round factors to 10 bits;
* ``scalar``: products and sums of floats, which read 16 bytes of shared memory at a time.

While scores are computed their values are on the way to shared memory, and during the product with those the
next keys. Source: T. Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning",
https://arxiv.org/abs/2307.08691.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression, Instruction
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target
from onnxplan.kernels.cuda.attention_products import (
    hold_queries,
    products_with_keys,
    products_with_values,
    softmax_step,
)
from onnxplan.kernels.cuda.expression_code import Names, statements
from onnxplan.kernels.cuda.indexing import declare_axes, offsets
from onnxplan.kernels.cuda.source import KernelSource, KernelText
from onnxplan.kernels.cuda.tensor_core import COPY_BYTES, TENSOR_CORE
from onnxplan.kernels.scalar_cuda import compute_type, loaded, storage_type, stored

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


def build_attention(variant: Any, target: Target) -> KernelSource:
    """``variant`` is ``(threads, tile, wide, table, scores, type, output type, batch axes, index type)``.

    ``wide`` tells for q, k and v whether they are copied 16 bytes at a time. Operands: q, k, v, the extras,
    the output, and with ``table`` that of :class:`onnxplan.kernels.cuda.score_blocks.ScoreBlocks`.
    Parameters: :data:`WORDS`, for each extra its strides along queries and keys, the batch axes.
    """
    threads, extents, wide, table, scores_variant, label, result_label, rank, index = variant
    tile, scores = Tile(*extents), Scores.from_variant(*scores_variant)
    dtype, result = DType.from_label(label), DType.from_label(result_label)
    kernel = KernelText(threads)
    for name in ("q", "k", "v"):
        kernel.operand(name, dtype, alone=True)
    for number, extra in enumerate(scores.dtypes):
        kernel.operand(f"x{number}", extra, alone=True)
    kernel.operand("out", result, written=True)
    if table:
        kernel.operand("blocks", DType.INT32, alone=True)
    for name in WORDS:
        kernel.parameter(name, index)
    for number in range(len(scores.dtypes)):
        kernel.parameter(f"x{number}_row", index)
        kernel.parameter(f"x{number}_key", index)
    operands = 4 + len(scores.dtypes)
    declare_axes(kernel, "batch", rank, operands, index)
    kernel.function(TENSOR_CORE)
    kernel.function(_definitions(tile, scores, dtype, index))
    starts = [f"start{number}" for number in range(operands)]
    kernel.line(_BEGIN, *offsets("batch", rank, range(operands), index, "batch", "start"))
    kernel.line(
        f"const Storage* const queries = q + {starts[0]} + row_first * q_row;",
        f"const Storage* const keys_begin = k + {starts[1]};",
        f"const Storage* const values_begin = v + {starts[2]};",
        _block_range(table),
        _load("q_tile", "queries", "q", wide[0], "ROWS", "row"),
        "if (first < last) {",
        "const Index key_first = (Index)first * KEYS;",
        _load("k_tile", "keys_begin", "k", wide[1], "KEYS", "key"),
        "}",
        "onnxplan_copy_commit();",
        *(["unsigned held[GROUPS][DEPTH / (2 * CHUNK)][4];"] if tile.held else []),
        _declare_sums(scores.softmax),
        "for (int block = first; block < last; ++block) {",
        "const Index key_first = (Index)block * KEYS;",
        "onnxplan_copy_wait<0>();",
        "__syncthreads();",
        _load("v_tile", "values_begin", "v", wide[2], "KEYS", "key"),
        "onnxplan_copy_commit();",
        *(["if (block == first) {", hold_queries(dtype), "}"] if tile.held else []),
        products_with_keys(tile.form, dtype, held=tile.held),
        *_score_epilogue(scores, index),
        softmax_step(exact=tile.form == "scalar" or scores.expression is not None),
        "onnxplan_copy_wait<0>();",
        "__syncthreads();",
        "if (block + 1 < last) {",
        "const Index key_first = (Index)(block + 1) * KEYS;",
        _load("k_tile", "keys_begin", "k", wide[1], "KEYS", "key"),
        "}",
        "onnxplan_copy_commit();",
        products_with_values(tile.form, dtype),
        "}",
        *_store(tile, scores, result, starts[-1], index),
    )
    return kernel.source(FAMILY)


WORDS = (
    "rows",
    "keys",
    "depth",
    "width",
    "row_tiles",
    "q_row",
    "q_column",
    "k_row",
    "k_column",
    "v_row",
    "v_column",
    "out_row",
    "out_column",
)
"""Parameters of every attention. Rows of keys and values are keys, columns run along their heads."""


def _definitions(tile: Tile, scores: Scores, dtype: DType, index: str) -> str:
    scale = scores.scale * math.log2(math.e)
    numbers = {
        "WARPS": tile.warps,
        "GROUPS": tile.groups,
        "KEYS": tile.keys,
        "DEPTH": tile.depth,
        "WIDTH": tile.width,
        "CHUNK": tile.chunk,
        "ROWS": tile.rows,
        "THREADS": tile.threads,
    }
    lines = [f"constexpr int {name} = {number};" for name, number in numbers.items()]
    return "\n".join(
        [
            f"typedef {storage_type(dtype)} Storage;",
            f"typedef {index} Index;",
            *lines,
            "constexpr int DEPTH_PITCH = DEPTH + CHUNK, WIDTH_PITCH = WIDTH + CHUNK;",
            "constexpr int KEY_PITCH = KEYS + CHUNK;",
            f"constexpr float SCALE = {scale!r}f;",
        ]
    )


_BEGIN = """\
ONNXPLAN_DYNAMIC_SHARED(shared);
Storage* const q_tile = (Storage*)shared;
Storage* const k_tile = q_tile + ROWS * DEPTH_PITCH;
Storage* const v_tile = k_tile + KEYS * DEPTH_PITCH;
const int thread = (int)threadIdx.x, lane = thread % 32, group = lane / 4, pair = lane % 4;
const int warp_first = thread / 32 * 16 * GROUPS;
// Later tiles come first: with a causal mask they are the longest.
const Index row_tile = row_tiles - 1 - (Index)(blockIdx.x % (unsigned)row_tiles);
const Index batch = (Index)(blockIdx.x / (unsigned)row_tiles);
const Index row_first = row_tile * ROWS;
const float NOTHING = __uint_as_float(0xff800000u);"""


def _block_range(table: bool) -> str:
    """Declares the range of blocks of keys, and that of those among them which ``inner`` serves."""
    if table:
        names = ("first", "inner_first", "inner_last", "last")
        return "\n".join(f"const int {name} = blocks[row_tile * 4 + {i}];" for i, name in enumerate(names))
    return (
        "const int first = 0, last = (int)((keys + KEYS - 1) / KEYS);\n"
        "const int inner_first = 0, inner_last = (int)(keys / KEYS);"
    )


def _load(tile: str, source: str, name: str, wide: bool, rows: str, unit: str) -> str:
    """Copies queries, or the block of keys that begins at ``key_first``."""
    columns = "WIDTH" if name == "v" else "DEPTH"
    extent = "width" if name == "v" else "depth"
    begin = source if unit == "row" else f"{source} + key_first * {name}_row"
    left = "rows - row_first" if unit == "row" else "keys - key_first"
    template = f"<{rows}, {columns}, {columns}_PITCH, THREADS>"
    if wide:
        return f"onnxplan_load_wide{template}({tile}, {begin}, {name}_row, {left}, (int){extent}, thread);"
    strides = f"{name}_row, {name}_column"
    return f"onnxplan_load_any{template}({tile}, {begin}, {strides}, {left}, (int){extent}, thread);"


def _declare_sums(softmax: str) -> str:
    smooth = softmax == "smooth"
    return f"""\
float results[GROUPS][WIDTH / 8][4], scores[GROUPS][KEYS / 8][4], tops[GROUPS][2], totals[GROUPS][2];
#pragma unroll
for (int g = 0; g < GROUPS; ++g) {{
#pragma unroll
    for (int n = 0; n < WIDTH / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) results[g][n][i] = 0.0f;
#pragma unroll
    for (int half = 0; half < 2; ++half) {{
        tops[g][half] = {"0.0f" if smooth else "NOTHING"};
        totals[g][half] = {"pair == 0 ? 1.0f : 0.0f" if smooth else "0.0f"};
    }}
}}
"""


def _score_epilogue(scores: Scores, index: str) -> list[str]:
    """Makes scores of the sums; keys beyond the last one get minus infinity."""
    inner = _each_score(scores, scores.inner, index, inside=True)
    if scores.expression is not None and scores.inner == scores.expression:
        # One text for both: a comparison costs less than twice the code.
        return _each_score(scores, scores.expression, index, inside=False)
    edge = _each_score(scores, scores.expression, index, inside=False)
    if not inner:
        return ["if (block < inner_first || block >= inner_last) {", *edge, "}"]
    return ["if (block >= inner_first && block < inner_last) {", *inner, "} else {", *edge, "}"]


def _each_score(scores: Scores, expression: Expression | None, index: str, *, inside: bool) -> list[str]:
    if expression is None and inside:
        return []
    used = sorted(
        {i.arguments[0] - 1 for i in expression.instructions if i.op == "input" and i.arguments[0]}
        if expression is not None
        else ()
    )

    def leaf(instruction: Instruction) -> str:
        number = instruction.arguments[0]
        if number == 0:
            return "scores[g][n][2 * half + i]"
        return loaded(scores.dtypes[number - 1], f"x{number - 1}[place{number - 1} + at * x{number - 1}_key]")

    names: Names = {}
    lines: list[str] = []
    value = "scores[g][n][2 * half + i]"
    if expression is not None:
        lines = statements(expression, expression.outputs, names, leaf)
        value = f"(float)({names[expression.outputs[0]]})"
    if not inside:
        value = f"key < keys ? {value} : NOTHING"
    return [
        "#pragma unroll",
        "for (int g = 0; g < GROUPS; ++g)",
        "#pragma unroll",
        "for (int half = 0; half < 2; ++half) {",
        "const Index row = row_first + warp_first + 16 * g + 8 * half + group;",
        "const Index row_inside = row < rows ? row : rows - 1;",
        *(
            f"const {index} place{number} = start{3 + number} + row_inside * x{number}_row;"
            for number in used
        ),
        "#pragma unroll",
        "for (int n = 0; n < KEYS / 8; ++n)",
        "#pragma unroll",
        "for (int i = 0; i < 2; ++i) {",
        "const Index key = key_first + 8 * n + 2 * pair + i;",
        "const Index at = key;" if inside else "const Index at = key < keys ? key : keys - 1;",
        *lines,
        f"scores[g][n][2 * half + i] = {value};",
        "}",
        "}",
    ]


def _store(tile: Tile, scores: Scores, result: DType, start: str, index: str) -> list[str]:
    """Divides by the sums of weights; ``softmax`` says what rows without any become."""
    value = "results[g][n][2 * half + i] / total"
    if scores.softmax == "masked":
        value = f"total == 0.0f ? 0.0f : {value}"
    elif scores.softmax == "guarded":
        value = f"total > 0.0f ? {value} : 0.0f"
    place = "16 * (n / 2) + 4 * pair + 2 * (n % 2) + i" if tile.form == "scalar" else "8 * n + 2 * pair + i"
    name = compute_type(result)
    return [
        "#pragma unroll",
        "for (int g = 0; g < GROUPS; ++g)",
        "#pragma unroll",
        "for (int half = 0; half < 2; ++half) {",
        "float total = totals[g][half];",
        "total += __shfl_xor_sync(0xffffffffu, total, 1);",
        "total += __shfl_xor_sync(0xffffffffu, total, 2);",
        f"const {index} row = row_first + warp_first + 16 * g + 8 * half + group;",
        "if (row < rows) {",
        "#pragma unroll",
        "for (int n = 0; n < WIDTH / 8; ++n)",
        "#pragma unroll",
        "for (int i = 0; i < 2; ++i) {",
        f"const {index} column = {place};",
        "if (column < width) {",
        f"const {name} value = {value};",
        f"out[{start} + row * out_row + column * out_column] = {stored(result, 'value')};",
        "}",
        "}",
        "}",
        "}",
    ]
