"""Storing sums of matrix instructions: pairs of neighbouring columns that lanes hold become groups.

After a matrix instruction each lane of four has two neighbouring columns of a row in each block of eight
columns. Exchanged among the four, each has four of one block, or all eight, which it finishes and stores in
16 bytes where the output's elements have four or two.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.view import View
from onnxplan.kernels.cuda.groups import declare_groups
from onnxplan.kernels.cuda.indexing import offsets
from onnxplan.kernels.cuda.product_code import Results
from onnxplan.kernels.cuda.source import KernelText
from onnxplan.kernels.scalar_cuda import storage_type


def column_kinds(results: Sequence[View]) -> str:
    """How a group of columns is accessed in each of ``results``, the last of which is the output.

    ``v`` as a vector, ``b`` the same element for all, ``s`` one by one; empty where the output's columns are
    no neighbours: then there are no groups.
    """
    kinds = "".join({1: "v", 0: "b"}.get(view.strides[-1], "s") for view in results)
    return kinds if kinds.endswith("v") else ""


def each_row(index: str) -> list[str]:
    """Opens a loop over the rows whose sums a lane holds, ``sums[g][n][2 * half + i]``."""
    return [
        "#pragma unroll",
        "for (int g = 0; g < GROUPS; ++g)",
        "#pragma unroll",
        "for (int half = 0; half < 2; ++half) {",
        f"const {index} row = row_first + warp_row + 16 * g + 8 * half + group;",
    ]


def group_blocks(output: DType, eights: int) -> int:
    """The blocks of eight columns that are exchanged at a time; a group has twice as many columns."""
    return 4 if output.itemsize <= 2 and eights % 4 == 0 else 2


def declare_exchange(kernel: KernelText, blocks: int) -> None:
    """Declares groups of so many columns, ``onnxplan_exchange`` and what it needs."""
    declare_groups(kernel, 2 * blocks)
    kernel.function(_EXCHANGE_FOUR if blocks == 2 else _EXCHANGE_FOUR + _EXCHANGE_EIGHT)


def store_groups(
    results: Results, kinds: str, rank: int, index: str, begins: Sequence[str], blocks: int
) -> list[str]:
    """Statements that finish ``sums[g][n][2 * half + i]`` of a warp and store them.

    ``begins`` are offsets of the extras and the output, to which those of the row are added.
    """
    numbers, group, last = range(len(results.dtypes)), 2 * blocks, len(results.dtypes) - 1
    first = "8 * (pair % 2) + 4 * (pair / 2)" if blocks == 2 else "8 * pair"

    def place(number: int) -> str:
        if kinds[number] == "v":
            return f"items{number}[item]"
        step = "" if kinds[number] == "b" else f" + (column + item) * column_stride{number}"
        return f"r{number}[place{number}{step}]"

    lines, value = results.finish("own[item]", [place(number) for number in range(last)])
    vectors = [number for number in range(last) if kinds[number] == "v"]
    return [
        *each_row(index),
        *offsets("row", rank, numbers, index, "(row < rows ? row : 0)", "place", begins),
        "#pragma unroll",
        f"for (int n = 0; n < EIGHTS; n += {blocks}) {{",
        f"float own[{group}];",
        "onnxplan_exchange(own, sums[g] + n, 2 * half, pair);",
        f"const {index} column = column_first + warp_column + 8 * n + {first};",
        "if (row >= rows || column >= columns) continue;",
        f"const int count = columns - column < {group} ? (int)(columns - column) : {group};",
        *(f"{storage_type(results.dtypes[number])} items{number}[{group}];" for number in vectors),
        *(
            f"onnxplan_read(items{number}, r{number} + place{number} + column, "
            f"onnxplan_is_aligned(r{number} + place{number} + column), count);"
            for number in vectors
        ),
        f"{storage_type(results.dtypes[last])} finished[{group}];",
        "#pragma unroll",
        f"for (int item = 0; item < {group}; ++item)",
        "if (item < count) {",
        *lines,
        f"finished[item] = {value};",
        "}",
        f"onnxplan_write(r{last} + place{last} + column, finished, "
        f"onnxplan_is_aligned(r{last} + place{last} + column), count);",
        "}",
        "}",
    ]


_EXCHANGE_FOUR = """
// Lane 0 or 1 of two gets four columns of the first or the second block.
ONNXPLAN_INLINE void onnxplan_exchange_four(float* own, const float* first, const float* second, int odd) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float other = __shfl_xor_sync(0xffffffffu, odd ? first[i] : second[i], 1);
        own[i] = odd ? other : first[i];
        own[2 + i] = odd ? second[i] : other;
    }
}
ONNXPLAN_INLINE void onnxplan_exchange(float (&own)[4], const float (*blocks)[4], int half, int pair) {
    onnxplan_exchange_four(own, blocks[0] + half, blocks[1] + half, pair % 2);
}
"""

_EXCHANGE_EIGHT = """
// Each lane of four gets all columns of the block of its number.
ONNXPLAN_INLINE void onnxplan_exchange(float (&own)[8], const float (*blocks)[4], int half, int pair) {
    float low[4], high[4];
    onnxplan_exchange_four(low, blocks[0] + half, blocks[1] + half, pair % 2);
    onnxplan_exchange_four(high, blocks[2] + half, blocks[3] + half, pair % 2);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float other = __shfl_xor_sync(0xffffffffu, pair / 2 ? low[i] : high[i], 2);
        own[i] = pair / 2 ? other : low[i];
        own[4 + i] = pair / 2 ? high[i] : other;
    }
}
"""
