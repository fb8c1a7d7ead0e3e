"""What register kernels are made of: functions in a kernel's module, loops that carry sums in registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.llvm_types import I64

# Sums by row (or position) and vector of columns (or channels).
Grid = list[list[ir.Value]]


def local_function(
    emitter: Emitter, name: str, arguments: list[ir.Type], lanes: int, result: ir.Type | None = None
) -> Emitter:
    """Starts a function inside the module of ``emitter``; end it with a return, of ``result`` if it has one.

    Its name is made unique in the module.
    """
    unique = emitter.module.get_unique_name(name)
    function = ir.Function(emitter.module, ir.FunctionType(result or ir.VoidType(), arguments), unique)
    function.linkage = "internal"
    function.attributes.add("nounwind")
    function.attributes.add("noinline")
    return Emitter(function, emitter.target, lanes)


def zeros(inner: Emitter, dtype: DType, rows: int, vectors: int) -> Grid:
    return [[inner.constant(0, dtype)] * vectors for _ in range(rows)]


def multiply_add(inner: Emitter, dtype: DType, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """``a * b + c``, integers modulo their width."""
    if dtype.is_float:
        return inner.fma(a, b, c)
    return inner.builder.add(c, inner.builder.mul(a, b))


def settled(inner: Emitter, total: ir.Value) -> ir.Value:
    """``total``, computed before what follows is loaded, which else would not find free registers."""
    register = {"avx512": "v", "avx2": "x"}.get(inner.target.isa)
    if register is None:
        return total
    signature = ir.FunctionType(total.type, [total.type])
    return inner.builder.asm(signature, "", f"={register},0,~{{memory}}", [total], side_effect=True)


def carry_loop(
    inner: Emitter,
    count: ir.Value,
    values: Sequence[ir.Value],
    sums: Grid,
    body: Callable[[ir.Value, list[ir.Value], Grid], tuple[list[ir.Value], Grid]],
) -> tuple[list[ir.Value], Grid]:
    """Runs ``body(index, values, sums)``, which returns the next values and sums, for ``count`` indices."""
    builder = inner.builder
    head, inside, after = (inner.function.append_basic_block(name) for name in ("sum", "sum.body", "sum.end"))
    before = builder.block
    initial = [I64(0), *values, *(value for row in sums for value in row)]
    builder.branch(head)
    builder.position_at_end(head)
    phis = [builder.phi(value.type) for value in initial]
    index, carried, flat = phis[0], phis[1 : 1 + len(values)], phis[1 + len(values) :]
    vectors = len(sums[0])
    grid = [flat[start : start + vectors] for start in range(0, len(flat), vectors)]
    builder.cbranch(inner.less(index, count), inside, after)
    builder.position_at_end(inside)
    next_values, next_sums = body(index, carried, grid)
    following = [inner.add(index, 1), *next_values, *(value for row in next_sums for value in row)]
    for phi, first, then in zip(phis, initial, following, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(then, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return carried, grid
