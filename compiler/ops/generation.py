"""Operators that make tensors of shapes, positions and constants."""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import numpy as np

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.constant_pool import MEMO_BYTES
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import (
    choose,
    element_type,
    expression,
    integer,
    integers,
    normal_axis,
    scalar_map,
    single,
    values,
    wide,
)
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, apply, cast, index, select
from onnxplan.compiler.view import View

_CONSTANTS = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


@operator("Constant")
def constant(b: Builder, node: Node) -> View:
    """https://onnx.ai/onnx/operators/onnx__Constant.html

    A sparse value comes from the importer as the dense array it stands for.
    """
    for name in ("value", "sparse_value"):
        if name in node.attributes:
            array = node.tensor(name)
            if array.nbytes < MEMO_BYTES:
                return b.constant(array)
            key = f"constant:{node.label}:{id(array)}"
            storage = b.pool.get(key, functools.partial(node.tensor, name), node.label)
            return View.dense(storage, array.shape)
    for name, dtype in _CONSTANTS.items():
        if name in node.attributes:
            return b.constant(np.array(node.attributes[name], dtype))
    if "value_string" in node.attributes:
        return b.constant(np.array(node.string("value_string"), object))
    return b.constant(np.array(node.strings("value_strings"), object))


@operator("ConstantOfShape", since=9)
def constant_of_shape(b: Builder, node: Node, shape: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__ConstantOfShape.html: one element, repeated by strides of 0."""
    value = (
        b.constant(node.tensor("value")) if "value" in node.attributes else b.constant([0.0], DType.FLOAT32)
    )
    extents = integers(b, shape)
    if min(extents, default=0) < 0:
        raise ValueError(f"the shape {list(extents)} has a negative extent")
    return single(b, value).expand(extents)


@operator("Shape")
def shape_of(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Shape.html"""
    end = node.integer("end") if "end" in node.attributes else None
    return b.constant(np.array(x.shape[node.integer("start", 0) : end], np.int64))


@operator("Size")
def size_of(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Size.html"""
    return b.constant(np.array(x.size, np.int64))


@operator("Range", since=11)
def sequence(b: Builder, node: Node, start: View, limit: View, delta: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Range.html

    Elements of float16 and bfloat16 are computed in float32 and rounded, integers in int64.
    """
    bounds = (single(b, start), single(b, limit), single(b, delta))
    number = int if start.dtype.is_integer else float
    numbers = [number(array.item()) for array in values(b, bounds) if array is not None]
    count = _range_length(*numbers)
    dtypes = (start.dtype, delta.dtype)
    return b.compute(expression(_progression, dtypes), (bounds[0], bounds[2]), shape=(count,))[0]


def _range_length(start: float, limit: float, delta: float) -> int:
    """``max(ceil((limit - start) / delta), 0)``, exact for integers, in float64 for floats."""
    if delta == 0:
        raise ValueError("delta is 0")
    if isinstance(start, int):
        return max(math.ceil(Fraction(limit - start) / Fraction(delta)), 0)
    count = (limit - start) / delta
    if not math.isfinite(count):
        raise ValueError(f"a range from {start} to {limit} by {delta} has no length")
    return max(math.ceil(count), 0)


def _progression(start: Scalar, delta: Scalar) -> Scalar:
    dtype = start.dtype
    computed = wide(dtype) if dtype.is_float else DType.INT64
    steps = cast(index(start, 0), computed)
    return cast(cast(start, computed) + steps * cast(delta, computed), dtype)


@operator("EyeLike", since=9)
def eye_like(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__EyeLike.html"""
    if x.rank != 2:
        raise ValueError(f"an input of rank 2 is expected, not {x.rank}")
    dtype = element_type(node.attributes["dtype"]) if "dtype" in node.attributes else x.dtype
    diagonal = b.constant(node.integer("k", 0), DType.INT64)
    return b.compute(expression(_on_diagonal, (DType.INT64,), dtype), (diagonal,), shape=x.shape)[0]


def _on_diagonal(k: Scalar, dtype: DType) -> Scalar:
    return cast(apply("equal", index(k, 1) - index(k, 0), k), dtype)


@operator("Trilu", since=14)
def triangle(b: Builder, node: Node, x: View, k: View | None = None) -> View:
    """https://onnx.ai/onnx/operators/onnx__Trilu.html"""
    if x.rank < 2:
        raise ValueError(f"an input of rank 2 at least is expected, not {x.rank}")
    upper = bool(node.integer("upper", 1))
    if x.dtype.kind == "c":
        everywhere = b.constant(True).expand(x.shape)
        offset = b.constant(0, DType.INT64) if k is None else single(b, k)
        kept = scalar_map(b, _triangle, everywhere, offset, parameters=(x.rank, upper))
        return choose(b, kept, x, b.constant(0, x.dtype))
    if k is None or k.is_constant:
        diagonal = 0 if k is None else integer(b, k)
        return scalar_map(b, _triangle_at, x, parameters=(x.rank, upper, diagonal))
    return scalar_map(b, _triangle, x, single(b, k), parameters=(x.rank, upper))


def _triangle(x: Scalar, k: Scalar, rank: int, upper: bool) -> Scalar:
    distance = index(x, rank - 1) - index(x, rank - 2)
    return select(distance >= k if upper else distance <= k, x, 0)


def _triangle_at(x: Scalar, rank: int, upper: bool, k: int) -> Scalar:
    distance = index(x, rank - 1) - index(x, rank - 2)
    return select(distance >= k if upper else distance <= k, x, 0)


@operator("OneHot", since=9)
def one_hot(b: Builder, node: Node, indices: View, depth: View, choices: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__OneHot.html"""
    if choices.shape != (2,):
        raise ValueError(f"values of shape [2] are expected, not {list(choices.shape)}")
    extent = int(b.value(single(b, depth)).item())
    axis = normal_axis(node.integer("axis", -1), indices.rank + 1)
    operands = (
        indices.unsqueeze((axis,)),
        choices.slice(0, 0, 1).squeeze((0,)),
        choices.slice(0, 1, 1).squeeze((0,)),
    )
    shape = (*indices.shape[:axis], extent, *indices.shape[axis:])
    if choices.dtype.kind == "c":
        position = operands[0]
        mask = b.compute(expression(_is_hot, (position.dtype,), axis, extent), (position,), shape=shape)[0]
        return choose(b, mask, operands[2], operands[1])
    body = expression(_hot, tuple(view.dtype for view in operands), axis, extent)
    return b.compute(body, operands, shape=shape)[0]


def _hot(position: Scalar, off: Scalar, on: Scalar, axis: int, extent: int) -> Scalar:
    return select(_is_hot(position, axis, extent), on, off)


def _is_hot(position: Scalar, axis: int, extent: int) -> Scalar:
    place = cast(position, DType.INT64)
    wrapped = select(place < 0, place + extent, place)
    return apply("equal", index(position, axis), wrapped)
