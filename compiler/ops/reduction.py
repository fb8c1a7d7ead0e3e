"""Reductions, positions of extremes, running sums and products.

Each reduction is one primitive, with what precedes and follows it inside. Floats below float32 are summed
in float32. Empty reductions yield the neutral element: 0, 1, or the end of the type's range.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnxplan.compiler.arrangement import layout_order
from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import (
    attribute_or_input,
    expression,
    integer,
    normal_axes,
    normal_axis,
    wide,
)
from onnxplan.compiler.primitives import ArgReduce, Scan
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.registry import Rule, operator
from onnxplan.compiler.trace import Scalar, apply, cast, reduce, select
from onnxplan.compiler.view import View


def reduced(kind: str, value: Scalar, axes: tuple[int, ...]) -> Scalar:
    """The reduction of ``value``; over no axes that is ``value``."""
    return reduce(kind, value) if axes else value


def mean(value: Scalar, axes: tuple[int, ...], count: int) -> Scalar:
    """The mean of ``value`` over ``axes``, which hold ``count`` elements."""
    return reduced("sum", value, axes) / count


@dataclass(frozen=True, slots=True)
class _Reduction:
    """``after(reduce(kind, before(x)))``; ``count`` is the number of elements reduced.

    ``computed`` gives the type to compute in, where it is not the operand's.
    """

    kind: str
    before: Callable[[Scalar], Scalar] | None = None
    after: Callable[[Scalar, int], Scalar] | None = None
    computed: Callable[[DType], DType] = wide


def _square(x: Scalar) -> Scalar:
    return x * x


def _magnitude(x: Scalar) -> Scalar:
    return apply("abs", x)


def _root(x: Scalar, count: int) -> Scalar:
    return apply("sqrt", x)


def _log(x: Scalar, count: int) -> Scalar:
    return apply("log", x)


def _divide(x: Scalar, count: int) -> Scalar:
    return x / count


def _real(dtype: DType) -> DType:
    return wide(dtype) if dtype.is_float else DType.FLOAT64


def _long(dtype: DType) -> DType:
    return wide(dtype) if dtype.is_float else DType.UINT64 if dtype.kind == "u" else DType.INT64


def _comparable(dtype: DType) -> DType:
    return DType.UINT8 if dtype is DType.BOOL else dtype


_REDUCTIONS = {
    "ReduceSum": _Reduction("sum"),
    "ReduceProd": _Reduction("prod"),
    "ReduceMax": _Reduction("max", computed=_comparable),
    "ReduceMin": _Reduction("min", computed=_comparable),
    "ReduceMean": _Reduction("sum", after=_divide, computed=_long),
    "ReduceL1": _Reduction("sum", before=_magnitude),
    "ReduceL2": _Reduction("sum", before=_square, after=_root, computed=_real),
    "ReduceSumSquare": _Reduction("sum", before=_square),
    "ReduceLogSum": _Reduction("sum", after=_log, computed=_real),
}


def _reduce_body(x: Scalar, reduction: _Reduction, axes: tuple[int, ...], count: int) -> Scalar:
    value = cast(x, reduction.computed(x.dtype))
    if reduction.before is not None:
        value = reduction.before(value)
    value = reduced(reduction.kind, value, axes)
    if reduction.after is not None:
        value = reduction.after(value, count)
    return cast(value, x.dtype)


def _log_sum_exp(x: Scalar, axes: tuple[int, ...]) -> Scalar:
    value = cast(x, _real(x.dtype))
    largest = reduced("max", value, axes)
    # An infinite maximum would make NaN of infinity minus infinity.
    offset = select(apply("isinf", largest), 0, largest)
    total = reduced("sum", apply("exp", value - offset), axes)
    return cast(apply("log", total) + offset, x.dtype)


def _axes(b: Builder, node: Node, x: View, axes: View | None) -> tuple[int, ...]:
    chosen = attribute_or_input(b, node, "axes", axes)
    if not chosen:
        return () if node.integer("noop_with_empty_axes", 0) else tuple(range(x.rank))
    return tuple(sorted(normal_axes(chosen, x.rank)))


def _finish(node: Node, result: View, axes: tuple[int, ...]) -> View:
    return result if node.integer("keepdims", 1) else result.squeeze(axes)


def _reduction(reduction: _Reduction) -> Rule:
    def rule(b: Builder, node: Node, x: View, axes: View | None = None) -> View:
        positions = _axes(b, node, x, axes)
        count = 1
        for axis in positions:
            count *= x.shape[axis]
        # Only a mean depends on the number of elements; other expressions serve all extents.
        count = count if reduction.after is _divide else 0
        body = expression(_reduce_body, (x.dtype,), reduction, positions, count)
        return _finish(node, b.compute(body, (x,), positions)[0], positions)

    return rule


for _op_type, _entry in _REDUCTIONS.items():
    operator(_op_type)(_reduction(_entry))


@operator("ReduceLogSumExp")
def reduce_log_sum_exp(b: Builder, node: Node, x: View, axes: View | None = None) -> View:
    """https://onnx.ai/onnx/operators/onnx__ReduceLogSumExp.html"""
    positions = _axes(b, node, x, axes)
    body = expression(_log_sum_exp, (x.dtype,), positions)
    return _finish(node, b.compute(body, (x,), positions)[0], positions)


def position_of(b: Builder, kind: str, x: View, axis: int, *, last: bool = False) -> View:
    """Position (int64) of the largest or smallest element along ``axis``, which stays with extent 1."""
    if x.shape[axis] == 0:
        raise ValueError(f"axis {axis} has no elements")
    shape = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
    target = b.new(DType.INT64, shape, layout_order(shape, [x]))
    return b.emit(ArgReduce(kind, axis, last), [x], [target])[0]


def _position(kind: str) -> Rule:
    def rule(b: Builder, node: Node, x: View) -> View:
        axis = normal_axis(node.integer("axis", 0), x.rank)
        result = position_of(b, kind, x, axis, last=bool(node.integer("select_last_index", 0)))
        return _finish(node, result, (axis,))

    return rule


operator("ArgMax")(_position("max"))
operator("ArgMin")(_position("min"))


def _running(kind: str) -> Rule:
    def rule(b: Builder, node: Node, x: View, axis: View) -> Sequence[View]:
        scan = Scan(
            kind,
            normal_axis(integer(b, axis), x.rank),
            exclusive=bool(node.integer("exclusive", 0)),
            reverse=bool(node.integer("reverse", 0)),
        )
        return b.emit(scan, [x], [b.new(x.dtype, x.shape, layout_order(x.shape, [x]))])

    return rule


operator("CumSum", since=11)(_running("sum"))
operator("CumProd", since=26)(_running("prod"))
