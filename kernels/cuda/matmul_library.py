"""Steps of family ``cublaslt``: calls of cuBLASLt, and what brings operands into a form that it takes.

The variant is ``(a type, b type, d type, a stored transposed, b stored transposed, epilogue)``, the epilogue
one of ``none``, ``bias``, ``relu`` and ``relu_bias``; operands are ``(a, b, [bias,] d)``. Parameters,
in elements: ``(batch, m, n, k, lda, ldb, ldd, batch stride of a, of b, of d)``. Row-major, a step means
``d[m, n] = epilogue(sum over k of a[m, k] * b[k, n] (+ bias[n]))``; ``lda`` is the distance of the rows of
``a`` as they are stored, ``(k, m)`` if transposed. Small floats are accumulated in float32.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression, identity
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.scalar import WIDE_FLOATS
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.cuda.epilogue import Division, divide
from onnxplan.kernels.cuda.map import select_map
from onnxplan.kernels.matrices import Matrices, distinct_bytes, fold_batch, transposed

FAMILY = "cublaslt"

RESULT_TYPES = {
    DType.FLOAT16: (DType.FLOAT16, DType.FLOAT32),
    DType.BFLOAT16: (DType.BFLOAT16, DType.FLOAT32),
    DType.FLOAT32: (DType.FLOAT32,),
    DType.FLOAT64: (DType.FLOAT64,),
}
"""What cuBLASLt can store, for each type of both inputs."""

MOST_CALLS = 8
"""Batches that are no regular sequence of matrices are computed in this many calls, or else copied."""

# Batches with fewer rows each fill tiles badly.
FEW_ROWS = 128
# Below this many operations one launch of our own kernel beats several steps.
WORTH_MORE_STEPS = 1 << 24
BIAS_ALIGNMENT = 16
LARGEST_EXTENT = (1 << 31) - 1


def serves(a: DType, b: DType, accumulator: DType) -> bool:
    """Does cuBLASLt multiply these types as MatMul wants it?"""
    return a is b and a in RESULT_TYPES and accumulator is WIDE_FLOATS.get(a, a)


def emit_library(
    emit: StepEmitter, target: Target, matrices: Matrices, accumulator: DType, epilogue: Expression
) -> bool:
    """Emits the steps of a product by cuBLASLt, or nothing: then the answer is ``False``.

    ``epilogue`` is an expression of the sum and the extras; the output is not empty.
    """
    a, b = matrices.a, matrices.b
    extents = (*matrices.output.shape, matrices.depth)
    if not serves(a.dtype, b.dtype, accumulator) or matrices.depth == 0:
        return False
    if math.prod(extents[:-3]) * max(extents[-3:]) > LARGEST_EXTENT:
        return False
    if _stored(matrices.output) != "rows" and _stored(transposed(matrices).output) == "rows":
        matrices = transposed(matrices)
    division = _divide(matrices, epilogue, target)
    result = None if _needs_temporary(matrices, division) else matrices.output
    large = 2 * math.prod(extents) >= WORTH_MORE_STEPS
    arranged = _arrange(matrices, result, large=large)
    if arranged is None:
        return False
    inputs = {"a": matrices.a, "b": matrices.b}
    steps = arranged.calls + sum(not inputs[name].is_constant for name in arranged.copies)
    if steps > 1 and not large:
        return False
    if arranged.own_result or result is None:
        result = View.dense(
            emit.temporary(division.dtype, matrices.output.size, "product"), matrices.output.shape
        )
    operands = Matrices(
        _dense(emit, target, matrices.a) if "a" in arranged.copies else matrices.a,
        _dense(emit, target, matrices.b) if "b" in arranged.copies else matrices.b,
        result,
        (),
    )
    bias = None if division.bias is None else matrices.extras[division.bias]
    for problem in _problems(fold_batch(operands)):
        _emit_call(emit, problem, bias, division)
    rest = division.rest
    if rest is None and result is not matrices.output:
        rest = identity(division.dtype)
    if rest is not None:
        primitive = MapReduce(rest, matrices.output.shape)
        select_map(Operation(primitive, (result, *matrices.extras), (matrices.output,)), emit, target)
    return True


def _divide(matrices: Matrices, epilogue: Expression, target: Target) -> Division:
    single = matrices.a.dtype is not DType.FLOAT64

    def is_bias(number: int, dtype: DType) -> bool:
        extra = matrices.extras[number]
        return (
            single
            and extra.dtype is dtype
            and extra.storage is not matrices.output.storage
            and (extra.strides[-1] == 1 or extra.shape[-1] == 1)
            and all(s == 0 or n == 1 for s, n in zip(extra.strides[:-1], extra.shape[:-1], strict=True))
            and extra.offset * dtype.itemsize % BIAS_ALIGNMENT == 0
        )

    fast = target.math == "fast" and single
    return divide(epilogue, RESULT_TYPES[matrices.a.dtype], is_bias, fast=fast)


def _needs_temporary(matrices: Matrices, division: Division) -> bool:
    """Is the output of another type than what cuBLASLt stores, or something that is read afterwards?"""
    output = matrices.output
    shared = division.rest is not None and any(extra.storage is output.storage for extra in matrices.extras)
    return division.dtype is not output.dtype or shared or _stored(output) != "rows"


def _stored(matrix: View) -> str | None:
    """How the last two axes lie: by ``rows``, by ``columns``, or in no way that cuBLASLt knows."""
    (rows, columns), (row_stride, column_stride) = matrix.shape[-2:], matrix.strides[-2:]
    if (column_stride == 1 or columns == 1) and (row_stride >= columns or rows == 1):
        return "rows"
    if (row_stride == 1 or rows == 1) and (column_stride >= rows or columns == 1):
        return "columns"
    return None


@dataclass(frozen=True, slots=True)
class _Arrangement:
    """Which inputs are copied, whether the result needs a temporary, and how many calls there are."""

    copies: tuple[str, ...]
    own_result: bool
    calls: int


def _arrange(matrices: Matrices, result: View | None, *, large: bool) -> _Arrangement | None:
    """What must be copied so that few calls do; ``result`` is ``None`` where it is a new dense tensor.

    Of ``large`` products ``a`` is also copied to make the calls better.
    ``None`` for the odd product that has no form for cuBLASLt even then.
    """
    output = _dense_like(matrices.output) if result is None else result
    operands = {"a": matrices.a, "b": matrices.b, "output": output}
    copies: set[str] = set()
    while True:
        dense = {name: _dense_like(v) if name in copies else v for name, v in operands.items()}
        folded = fold_batch(Matrices(dense["a"], dense["b"], dense["output"], ()))
        batch = folded.output.shape[:-2]
        calls = math.prod(batch) // max(batch, default=1)
        matrix = {"a": folded.a, "b": folded.b, "output": folded.output}
        unfit = {
            name
            for name, view in matrix.items()
            if _stored(view) is None
            or (name == "output" and _stored(view) != "rows")
            or (calls > MOST_CALLS and not _is_regular(dense[name]))
        }
        if large and "a" not in copies and _better_folded(folded, dense):
            unfit.add("a")
        if not unfit:
            return _Arrangement(tuple(sorted(copies - {"output"})), "output" in copies, calls)
        if unfit <= copies:
            return None
        copies |= unfit


def _better_folded(folded: Matrices, operands: dict[str, View]) -> bool:
    """Would a dense copy of ``a`` make one product of a batch of few rows each?"""
    if folded.output.rank == 2 or folded.rows >= FEW_ROWS:
        return False
    copied = fold_batch(Matrices(_dense_like(operands["a"]), operands["b"], operands["output"], ()))
    return copied.output.rank == 2


def _is_regular(view: View) -> bool:
    """Are all matrices of the batch equally far apart, in order?"""
    axes = [(n, s) for n, s in zip(view.shape[:-2], view.strides[:-2], strict=True) if n != 1]
    return all(outer == n * inner for (_, outer), (n, inner) in itertools.pairwise(axes))


def _copied_shape(view: View) -> tuple[int, ...]:
    """The shape of a dense copy: one matrix where all of the batch are the same."""
    if all(s == 0 or n == 1 for n, s in zip(view.shape[:-2], view.strides[:-2], strict=True)):
        return (*(1,) * (view.rank - 2), *view.shape[-2:])
    return view.shape


def _dense_like(view: View) -> View:
    """The geometry of :func:`_dense`; its storage means nothing."""
    return View.dense(view.storage, _copied_shape(view)).expand(view.shape)


def _dense(emit: StepEmitter, target: Target, view: View) -> View:
    """A copy of which cuBLASLt can read the matrices; of constants one that is made once."""
    shape = _copied_shape(view)
    source = View(view.storage, view.offset, shape, view.strides)
    if view.is_constant:
        return View.dense(emit.constant((source,), "dense", np.ascontiguousarray), shape).expand(view.shape)
    copy = View.dense(emit.temporary(view.dtype, source.size, "dense"), shape)
    select_map(Operation(MapReduce(identity(view.dtype), shape), (source,), (copy,)), emit, target)
    return copy.expand(view.shape)


def _problems(folded: Matrices) -> Iterator[Matrices]:
    """The products of each call, which have at most one batch axis."""
    batch = folded.output.shape[:-2]
    kept = batch.index(max(batch)) if batch else -1
    outer = [axis for axis in range(len(batch)) if axis != kept]
    for places in itertools.product(*(range(batch[axis]) for axis in outer)):
        views = []
        for view in (folded.a, folded.b, folded.output):
            for axis, place in zip(outer, places, strict=True):
                view = view.slice(axis, place, 1)
            views.append(view.squeeze(tuple(outer)))
        yield replace(folded, a=views[0], b=views[1], output=views[2])


def _emit_call(emit: StepEmitter, problem: Matrices, bias: View | None, division: Division) -> None:
    a, b, d = problem.a, problem.b, problem.output
    batch = d.shape[0] if d.rank == 3 else 1
    batch_strides = [view.strides[0] if view.rank == 3 else 0 for view in (a, b, d)]
    a_columns, b_columns = _stored(a) == "columns", _stored(b) == "columns"
    variant = (a.dtype.label, b.dtype.label, d.dtype.label, a_columns, b_columns, division.label)
    if bias is not None:
        # All rows of the bias are the same one.
        bias = View(bias.storage, bias.offset, bias.shape[-1:], (1,))
    operands = (a, b, *(() if bias is None else (bias,)), d)
    parameters = (
        batch,
        problem.rows,
        problem.columns,
        problem.depth,
        _leading(a, columns=a_columns),
        _leading(b, columns=b_columns),
        _leading(d, columns=False),
        *batch_strides,
    )
    emit.step(
        KernelSpec(FAMILY, variant),
        operands,
        (len(operands) - 1,),
        parameters,
        tiles=1,
        flops=2 * d.size * problem.depth,
        bytes_moved=sum(map(distinct_bytes, operands)),
    )


def _leading(matrix: View, *, columns: bool) -> int:
    """The distance of stored rows; where there is one only, the least that is valid."""
    outer, inner = (-1, -2) if columns else (-2, -1)
    return matrix.strides[outer] if matrix.shape[outer] > 1 else max(1, matrix.shape[inner])
