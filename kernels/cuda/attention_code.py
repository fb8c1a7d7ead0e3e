"""CUDA C of attention: a block takes some queries, and goes through the keys a block of them at a time.

Each warp owns 16 queries times ``groups``. Scores and results stay in registers in the layout of a matrix
instruction's sums (:mod:`onnxplan.kernels.cuda.tensor_core`), so the softmax is the same for all forms of
arithmetic:

* ``matrix``: matrix instructions, for float32 those that round factors to 10 bits;
* ``scalar``: products and sums of floats, which read 16 bytes of shared memory at a time.

Where there are too few queries to fill the device, several blocks share the keys of each tile of them, and
leave their results and the sums of their weights to a reduction
(:mod:`onnxplan.kernels.cuda.attention_parts`).

While scores are computed their values are on the way to shared memory, and during the product with those the
next keys. Source: T. Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning",
https://arxiv.org/abs/2307.08691.
"""

from __future__ import annotations

import math
from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression, Instruction
from onnxplan.compiler.target import Target
from onnxplan.kernels.cuda.attention_form import FAMILY, Rows, Scores, Tile
from onnxplan.kernels.cuda.attention_products import (
    hold_queries,
    products_with_keys,
    products_with_values,
    softmax_step,
)
from onnxplan.kernels.cuda.attention_results import store_parts, store_results
from onnxplan.kernels.cuda.expression_code import Names, statements
from onnxplan.kernels.cuda.indexing import declare_axes, offsets
from onnxplan.kernels.cuda.source import KernelSource, KernelText
from onnxplan.kernels.cuda.tensor_core import TENSOR_CORE
from onnxplan.kernels.scalar_cuda import loaded, storage_type


def build_attention(variant: Any, target: Target) -> KernelSource:
    """``variant`` is ``(threads, tile, wide, table, scores, type, output type, batch axes, index, rows)``.

    ``wide`` tells for q, k and v whether they are copied 16 bytes at a time; ``rows`` are :class:`Rows`.
    Operands: q, k, v, the extras, the output or the parts' results, largest scores and sums of weights, and
    with ``table`` that of :class:`onnxplan.kernels.cuda.score_blocks.ScoreBlocks`. Parameters: :data:`WORDS`,
    strides from one head to the next, for each extra its strides along queries and keys, the batch axes.
    """
    threads, extents, wide, table, scores_variant, label, result_label, rank, index, form = variant
    tile, scores = Tile(*extents), Scores.from_variant(*scores_variant)
    dtype, result, rows = DType.from_label(label), DType.from_label(result_label), Rows(*form)
    kernel = KernelText(threads)
    for name in ("q", "k", "v"):
        kernel.operand(name, dtype, alone=True)
    for number, extra in enumerate(scores.dtypes):
        kernel.operand(f"x{number}", extra, alone=True)
    for name in PARTS if rows.split else ("out",):
        kernel.operand(name, result, written=True)
    if table:
        kernel.operand("blocks", DType.INT32, alone=True)
    for name in WORDS:
        kernel.parameter(name, index)
    for name in rows.strided(len(scores.dtypes)):
        kernel.parameter(f"{name}_head", index)
    for number in range(len(scores.dtypes)):
        kernel.parameter(f"x{number}_row", index)
        kernel.parameter(f"x{number}_key", index)
    operands = 4 + len(scores.dtypes)
    declare_axes(kernel, "batch", rank, operands, index)
    kernel.function(TENSOR_CORE)
    kernel.function(_definitions(tile, scores, dtype, index))
    starts = [f"start{number}" for number in range(operands)]
    kernel.line(_begin(rows), *offsets("batch", rank, range(operands), index, "batch", "start"))
    kernel.line(
        f"const Storage* const queries = q + {starts[0]}{'' if rows.heads else ' + row_first * q_row'};",
        f"const Storage* const keys_begin = k + {starts[1]};",
        f"const Storage* const values_begin = v + {starts[2]};",
        _block_range(table, split=rows.split),
        _load_heads(wide[0]) if rows.heads else _load("q_tile", "queries", "q", wide[0], "ROWS", "row"),
        "if (first < last) {",
        "const Index key_first = (Index)first * KEYS;",
        _load("k_tile", "keys_begin", "k", wide[1], "KEYS", "key"),
        "}",
        "onnxplan_copy_commit();",
        *(["unsigned held[GROUPS][DEPTH / (2 * CHUNK)][4];"] if tile.held else []),
        _declare_sums(scores.softmax, split=rows.split),
        "for (int block = first; block < last; ++block) {",
        "const Index key_first = (Index)block * KEYS;",
        "onnxplan_copy_wait<0>();",
        "__syncthreads();",
        _load("v_tile", "values_begin", "v", wide[2], "KEYS", "key"),
        "onnxplan_copy_commit();",
        *(["if (block == first) {", hold_queries(dtype), "}"] if tile.held else []),
        products_with_keys(tile.form, dtype, held=tile.held),
        *_score_epilogue(scores, rows, index),
        softmax_step(exact=tile.form == "scalar" or scores.expression is not None),
        "onnxplan_copy_wait<0>();",
        "__syncthreads();",
        "if (block + 1 < last) {",
        "const Index key_first = (Index)(block + 1) * KEYS;",
        _load("k_tile", "keys_begin", "k", wide[1], "KEYS", "key"),
        "}",
        "onnxplan_copy_commit();",
        products_with_values(tile.form, dtype, fine=rows.fine),
        "}",
        *(
            store_parts(tile.form, index)
            if rows.split
            else store_results(
                tile.form, scores.softmax, result, f"{starts[-1]} + {rows.offset('out', 'row')}", index
            )
        ),
    )
    return kernel.source(FAMILY)


WORDS = (
    "rows",
    "keys",
    "depth",
    "width",
    "row_tiles",
    "batches",
    "parts",
    "head_rows",
    "q_row",
    "q_column",
    "k_row",
    "k_column",
    "v_row",
    "v_column",
    "out_row",
    "out_column",
)
"""Parameters of every attention. Rows of keys and values are keys, columns run along their heads; ``parts``
blocks share the keys of a tile, and ``head_rows`` rows belong to one head."""

PARTS = ("part_results", "part_tops", "part_totals")
"""Operands in place of the output where blocks share keys."""


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


def _begin(rows: Rows) -> str:
    number = "blockIdx.x / (unsigned)parts" if rows.split else "blockIdx.x"
    part = "const int part = (int)(blockIdx.x % (unsigned)parts);" if rows.split else ""
    return f"""\
ONNXPLAN_DYNAMIC_SHARED(shared);
Storage* const q_tile = (Storage*)shared;
Storage* const k_tile = q_tile + ROWS * DEPTH_PITCH;
Storage* const v_tile = k_tile + KEYS * DEPTH_PITCH;
const int thread = (int)threadIdx.x, lane = thread % 32, group = lane / 4, pair = lane % 4;
const int warp_first = thread / 32 * 16 * GROUPS;
const unsigned number = {number};
{part}
// Later tiles come first: with a causal mask they are the longest.
const Index row_tile = row_tiles - 1 - (Index)(number % (unsigned)row_tiles);
const Index batch = (Index)(number / (unsigned)row_tiles);
const Index row_first = row_tile * ROWS;
const float NOTHING = __uint_as_float(0xff800000u);"""


def _block_range(table: bool, *, split: bool) -> str:
    """Declares the range of blocks of keys, and that of those among them which ``inner`` serves."""
    first, last = ("all_first", "all_last") if split else ("first", "last")
    if table:
        names = (first, "inner_first", "inner_last", last)
        lines = [f"const int {name} = blocks[row_tile * 4 + {i}];" for i, name in enumerate(names)]
    else:
        lines = [
            f"const int {first} = 0, {last} = (int)((keys + KEYS - 1) / KEYS);",
            "const int inner_first = 0, inner_last = (int)(keys / KEYS);",
        ]
    if split:
        lines += [
            "const int each = (all_last - all_first + (int)parts - 1) / (int)parts;",
            "const int first = all_first + part * each;",
            "const int last = first + each < all_last ? first + each : all_last;",
        ]
    return "\n".join(lines)


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


def _load_heads(wide: bool) -> str:
    """Copies queries of several heads."""
    move = "onnxplan_copy_16(place, source, live);" if wide else "*place = live ? *source : (Storage)0;"
    return f"""\
#pragma unroll 4
for (int item = thread * EACH; item < ROWS * DEPTH; item += THREADS * EACH) {{
    const int line = item / DEPTH, column = item % DEPTH;
    const Index row = row_first + line;
    const bool live = row < rows && column < (int)depth;
    const Index offset = row / head_rows * q_head + row % head_rows * q_row + column * q_column;
    const Storage* const source = live ? queries + offset : queries;
    Storage* const place = q_tile + line * DEPTH_PITCH + column;
    {move}
}}""".replace("EACH", "CHUNK" if wide else "1")


def _declare_sums(softmax: str, *, split: bool) -> str:
    smooth = softmax == "smooth"
    first = "part == 0" if split else "true"
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
        tops[g][half] = {f"{first} ? 0.0f : NOTHING" if smooth else "NOTHING"};
        totals[g][half] = {f"{first} && pair == 0 ? 1.0f : 0.0f" if smooth else "0.0f"};
    }}
}}
"""


def _score_epilogue(scores: Scores, rows: Rows, index: str) -> list[str]:
    """Makes scores of the sums; keys beyond the last one get minus infinity."""
    inner = _each_score(scores, rows, scores.inner, index, inside=True)
    if scores.expression is not None and scores.inner == scores.expression:
        # One text for both: a comparison costs less than twice the code.
        return _each_score(scores, rows, scores.expression, index, inside=False)
    edge = _each_score(scores, rows, scores.expression, index, inside=False)
    if not inner:
        return ["if (block < inner_first || block >= inner_last) {", *edge, "}"]
    return ["if (block >= inner_first && block < inner_last) {", *inner, "} else {", *edge, "}"]


def _each_score(
    scores: Scores, rows: Rows, expression: Expression | None, index: str, *, inside: bool
) -> list[str]:
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
            f"const {index} place{number} = start{3 + number} + {rows.offset(f'x{number}', 'row_inside')};"
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
