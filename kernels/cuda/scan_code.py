"""CUDA C of running sums and products.

A thread follows a line, or a warp or a block takes chunks of it, one after another. Long lines are cut into
parts: their totals are found first (mode ``totals``), then, from the running reduction of those, all results
(mode ``parts``). Nothing is ever subtracted, so what follows NaN or an infinity is the only thing it reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.target import Target
from onnxplan.kernels.cuda.block_form import BlockForm, declare_shared, declare_threads, exchange
from onnxplan.kernels.cuda.expression_code import literal_of
from onnxplan.kernels.cuda.indexing import declare_axes, offsets
from onnxplan.kernels.cuda.source import KernelSource, KernelText
from onnxplan.kernels.phases import accumulator
from onnxplan.kernels.scalar import cuda_expression
from onnxplan.kernels.scalar_cuda import compute_type, loaded, stored

# Neighbouring elements that a thread of a chunk takes.
ITEMS = 4


def build_scan(variant: Any, target: Target) -> KernelSource:
    """``variant`` is ``(threads, form, columns, mode, kind, label, exclusive, rank, index type)``.

    Form and columns are those of :class:`~onnxplan.kernels.cuda.block_form.BlockForm`; rows take 32 lanes or
    all. Operands: x, y; in mode ``totals`` x and the totals of all parts of lines, dense ``(parts, lines)``;
    in mode ``parts`` x, y and what comes before each part, laid out alike. Parameters: lines, points of a
    line, the distances along lines of x and y, the kept axes; but in mode ``whole`` those of
    ``declare_threads``.
    """
    threads, name, columns, mode, kind, label, exclusive, rank, index = variant
    form, dtype = BlockForm(name, threads, columns), DType.from_label(label)
    kernel = KernelText(threads)
    kernel.operand("x", dtype)
    if mode == "totals":
        kernel.operand("totals", accumulator(dtype), written=True)
    else:
        kernel.operand("y", dtype, written=True)
    if mode == "parts":
        kernel.operand("carries", accumulator(dtype))
    for parameter in ("columns", "points", "x_step", "y_step"):
        kernel.parameter(parameter, index)
    declare_axes(kernel, "kept", rank, 2, index)
    declare_threads(kernel, form, index, split=mode != "whole")
    kernel.line(*offsets("kept", rank, range(2), index, "(active ? column : 0)", "base"))
    _Scan(kernel, form, mode, kind, dtype, exclusive, index).write()
    return kernel.source("scan")


class _Scan:
    def __init__(
        self,
        kernel: KernelText,
        form: BlockForm,
        mode: str,
        kind: str,
        dtype: DType,
        exclusive: bool,
        index: str,
    ) -> None:
        self._kernel, self._form, self._mode = kernel, form, mode
        self._op = {"sum": "add", "prod": "mul"}[kind]
        self._dtype, self._exclusive, self._index = dtype, exclusive, index
        self._value = compute_type(dtype)
        self._identity = literal_of(int(kind == "prod"), dtype)

    def write(self) -> None:
        kernel = self._kernel
        carry = self._identity
        if self._mode == "parts":
            carry = f"active ? carries[part * part_stride + column] : {carry}"
        kernel.line(f"{self._value} carry = {carry};")
        if self._mode == "totals":
            self._totals()
        elif self._form.lanes == 1:
            self._serial()
        else:
            self._chunks()

    def _combined(self, a: str, b: str) -> str:
        return cuda_expression(self._op, self._dtype, self._dtype, a, b)

    def _element(self, point: str) -> str:
        return loaded(self._dtype, f"x[base0 + {point} * x_step]")

    def _store(self, point: str, value: str) -> str:
        return f"y[base1 + {point} * y_step] = {stored(self._dtype, value)};"

    def _merge(self, others: Sequence[str]) -> list[str]:
        return [f"carry = {self._combined('carry', others[0])};"]

    def _totals(self) -> None:
        declare_shared(self._kernel, self._form, 1)
        self._kernel.line(
            "#pragma unroll 4",
            f"for ({self._index} point = start + lane; point < last; point += {self._form.lanes}) {{",
            f"const {self._value} element = {self._element('point')};",
            *self._merge(["element"]),
            "}",
        )
        exchange(self._kernel, self._form, [(self._value, "carry")], self._merge, again=False)
        self._kernel.line("if (active && lane == 0) totals[part * part_stride + column] = carry;")

    def _load_items(self) -> None:
        """Loads what there is from ``first`` on before anything is stored, so that loads do not wait."""
        self._kernel.line(
            f"{self._value} items[{ITEMS}];",
            "#pragma unroll",
            f"for (int item = 0; item < {ITEMS}; ++item)",
            f"    items[item] = first + item < last ? {self._element('(first + item)')} : {self._identity};",
        )

    def _serial(self) -> None:
        lines = [self._store("(first + item)", "carry"), *self._merge(["items[item]"])]
        self._kernel.line(f"for ({self._index} first = start; first < last; first += {ITEMS}) {{")
        self._load_items()
        self._kernel.line(
            "#pragma unroll",
            f"for (int item = 0; item < {ITEMS}; ++item) {{",
            "if (first + item >= last) break;",
            *(lines if self._exclusive else reversed(lines)),
            "}",
            "}",
        )

    def _chunks(self) -> None:
        kernel, value, index, lanes = self._kernel, self._value, self._index, self._form.lanes
        warps = lanes // 32
        if warps > 1:
            # Two sets in turn, so that one barrier a chunk is enough.
            kernel.line(f"__shared__ {value} sums[{2 * warps}];", "int turn = 0;")
        kernel.line(
            f"for ({index} chunk = start; chunk < last; chunk += {ITEMS * lanes}) {{",
            f"const {index} first = chunk + lane * {ITEMS};",
        )
        self._load_items()
        kernel.line(
            "#pragma unroll",
            f"for (int item = 1; item < {ITEMS}; ++item)",
            f"    items[item] = {self._combined('items[item - 1]', 'items[item]')};",
            f"{value} sum = items[{ITEMS - 1}];",
            "#pragma unroll",
            "for (int step = 1; step < 32; step <<= 1) {",
            f"const {value} other = ({value})__shfl_up_sync(0xffffffffu, sum, step, 32);",
            f"if (lane % 32 >= step) sum = {self._combined('other', 'sum')};",
            "}",
            f"{value} before = ({value})__shfl_up_sync(0xffffffffu, sum, 1, 32);",
            f"if (lane % 32 == 0) before = {self._identity};",
        )
        if warps > 1:
            kernel.line(
                f"if (lane % 32 == 31) sums[turn * {warps} + lane / 32] = sum;",
                "__syncthreads();",
                f"{value} prefix = carry;",
                "#pragma unroll",
                f"for (int warp = 0; warp < {warps}; ++warp) {{",
                f"const {value} other = sums[turn * {warps} + warp];",
                f"if (warp < lane / 32) prefix = {self._combined('prefix', 'other')};",
                *self._merge(["other"]),
                "}",
                "turn ^= 1;",
                f"before = {self._combined('prefix', 'before')};",
            )
        else:
            total = f"({value})__shfl_sync(0xffffffffu, sum, 31, 32)"
            kernel.line(
                f"before = {self._combined('carry', 'before')};",
                f"const {value} total = {total};",
                *self._merge(["total"]),
            )
        kernel.line(
            "#pragma unroll",
            f"for (int item = 0; item < {ITEMS}; ++item) {{",
            "if (first + item >= last) break;",
        )
        if self._exclusive:
            earlier = self._combined("before", "items[item ? item - 1 : 0]")
            kernel.line(f"const {value} result = item ? {earlier} : before;")
        else:
            kernel.line(f"const {value} result = {self._combined('before', 'items[item]')};")
        kernel.line(self._store("(first + item)", "result"), "}", "}")
