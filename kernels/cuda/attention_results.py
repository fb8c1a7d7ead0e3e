"""CUDA C of what attention leaves behind: results, or those of a part of the keys.

Names that the text refers to are declared by :mod:`onnxplan.kernels.cuda.attention_code`.
"""

from __future__ import annotations

from onnxplan.compiler.dtypes import DType
from onnxplan.kernels.scalar_cuda import compute_type, stored


def store_results(form: str, softmax: str, result: DType, row_begin: str, index: str) -> list[str]:
    """Divides by the sums of weights; ``softmax`` says what rows without any become."""
    value = "results[g][n][2 * half + i] / total"
    if softmax == "masked":
        value = f"total == 0.0f ? 0.0f : {value}"
    elif softmax == "guarded":
        value = f"total > 0.0f ? {value} : 0.0f"
    lines = [
        f"const {compute_type(result)} value = {value};",
        f"out[row_begin + column * out_column] = {stored(result, 'value')};",
    ]
    return _each_row(form, index, [f"const {index} row_begin = {row_begin};"], lines)


def store_parts(form: str, index: str) -> list[str]:
    """Stores what :class:`onnxplan.kernels.cuda.attention_parts.Parts` combines."""
    begin = [
        f"const {index} line = (part * batches + batch) * rows + row;",
        "if (pair == 0) {",
        "part_tops[line] = tops[g][half];",
        "part_totals[line] = total;",
        "}",
    ]
    each = ["part_results[line * width + column] = results[g][n][2 * half + i];"]
    return _each_row(form, index, begin, each)


def _each_row(form: str, index: str, begin: list[str], each: list[str]) -> list[str]:
    """Runs ``begin`` for each row that is there, with its ``total``, and ``each`` for its columns."""
    place = "16 * (n / 2) + 4 * pair + 2 * (n % 2) + i" if form == "scalar" else "8 * n + 2 * pair + i"
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
        *begin,
        "#pragma unroll",
        "for (int n = 0; n < WIDTH / 8; ++n)",
        "#pragma unroll",
        "for (int i = 0; i < 2; ++i) {",
        f"const {index} column = {place};",
        "if (column < width) {",
        *each,
        "}",
        "}",
        "}",
        "}",
    ]
