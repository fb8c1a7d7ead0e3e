"""Matrix products."""

from __future__ import annotations

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import expression, wide
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, cast
from onnxplan.compiler.view import View


def _check_types(a: View, b: View) -> None:
    if a.dtype is not b.dtype:
        raise TypeError(f"the element types {a.dtype} and {b.dtype} differ")
    if a.dtype.kind not in "fiu":
        raise TypeError(f"there is no product of {a.dtype}")


@operator("MatMul")
def matrix_product(b: Builder, node: Node, left: View, right: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__MatMul.html: as ``numpy.matmul``."""
    return _product(b, left, right)


def _product(b: Builder, left: View, right: View, out: DType | None = None) -> View:
    _check_types(left, right)
    return drop_added_axes(b.matmul(*as_matrices(left, right), out), left, right)


def as_matrices(left: View, right: View) -> tuple[View, View]:
    """The operands of ``numpy.matmul`` with rank 2 at least: vectors become a row and a column."""
    if left.rank == 0 or right.rank == 0:
        raise ValueError("a scalar cannot be an operand of a matrix product")
    return (
        left if left.rank > 1 else left.unsqueeze((0,)),
        right if right.rank > 1 else right.unsqueeze((1,)),
    )


def drop_added_axes(result: View, left: View, right: View) -> View:
    """The product of :func:`as_matrices` without the axes that these added to ``left`` and ``right``."""
    dropped = [result.rank - 2] if left.rank == 1 else []
    if right.rank == 1:
        dropped.append(result.rank - 1)
    return result.squeeze(tuple(dropped))


@operator("Gemm")
def general_matrix_product(b: Builder, node: Node, a: View, w: View, c: View | None = None) -> View:
    """https://onnx.ai/onnx/operators/onnx__Gemm.html

    The attribute ``broadcast`` of versions before 7 allows what is allowed since; it is not needed here.
    """
    if a.rank != 2 or w.rank != 2:
        raise ValueError("operands of rank 2 are expected")
    _check_types(a, w)
    left = a.transpose((1, 0)) if node.integer("transA", 0) else a
    right = w.transpose((1, 0)) if node.integer("transB", 0) else w
    alpha, beta = node.float("alpha", 1.0), node.float("beta", 1.0)
    if beta == 0:
        c = None
    if c is None and alpha == 1:
        return b.matmul(left, right)
    # The sum stays in the accumulator's type until bias and factors are applied.
    total = b.matmul(left, right, wide(a.dtype))
    if c is None:
        return b.map(expression(_scaled, (total.dtype,), alpha, a.dtype), total)
    bias = c.expand(total.shape)
    return b.map(expression(_scaled_sum, (total.dtype, c.dtype), alpha, beta, a.dtype), total, bias)


def _scaled(total: Scalar, alpha: float, dtype: DType) -> Scalar:
    return cast(_times(total, alpha), dtype)


def _scaled_sum(total: Scalar, c: Scalar, alpha: float, beta: float, dtype: DType) -> Scalar:
    whole = total.dtype.is_integer and not (alpha.is_integer() and beta.is_integer())
    computed = DType.FLOAT64 if whole else total.dtype
    return cast(_times(cast(total, computed), alpha) + _times(cast(c, computed), beta), dtype)


def _times(value: Scalar, factor: float) -> Scalar:
    if factor == 1:
        return value
    if value.dtype.is_integer and not factor.is_integer():
        return cast(value, DType.FLOAT64) * factor
    return value * factor


@operator("FusedMatMul", domain="com.microsoft")
def fused_matrix_product(b: Builder, node: Node, left: View, right: View) -> View:
    """https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.FusedMatMul"""
    left = _transposed(left, node.integer("transA", 0), node.integer("transBatchA", 0))
    right = _transposed(right, node.integer("transB", 0), node.integer("transBatchB", 0))
    alpha = node.float("alpha", 1.0)
    if alpha == 1:
        return _product(b, left, right)
    total = _product(b, left, right, wide(left.dtype))
    return b.map(expression(_scaled, (total.dtype,), alpha, left.dtype), total)


def _transposed(view: View, matrix: int, batch: int) -> View:
    """``view`` with its first axis moved before the last if ``batch``, the last two swapped if ``matrix``."""
    if view.rank < 2:
        return view
    axes = list(range(view.rank))
    if batch:
        axes = [*axes[1:-1], 0, axes[-1]]
    if matrix:
        axes[-2:] = [axes[-1], axes[-2]]
    return view.transpose(tuple(axes))
