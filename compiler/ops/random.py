"""Operators that draw random numbers.

With a ``seed`` the numbers are the same in each run (ONNX Runtime goes on in its sequence from run to run);
without, each run draws others. They are not the numbers of other implementations.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import element_type, expression, scalar_map, wide
from onnxplan.compiler.ops.philox import Scaling, normal, uniform
from onnxplan.compiler.primitives import Scan
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, apply, cast, reduce
from onnxplan.compiler.view import Shape, View


@operator("RandomUniform")
def random_uniform(b: Builder, node: Node) -> View:
    """https://onnx.ai/onnx/operators/onnx__RandomUniform.html"""
    return _uniform(b, node, node.integers("shape"), _dtype(node, DType.FLOAT32))


@operator("RandomUniformLike")
def random_uniform_like(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__RandomUniformLike.html"""
    return _uniform(b, node, x.shape, _dtype(node, x.dtype))


@operator("RandomNormal")
def random_normal(b: Builder, node: Node) -> View:
    """https://onnx.ai/onnx/operators/onnx__RandomNormal.html"""
    return _normal(b, node, node.integers("shape"), _dtype(node, DType.FLOAT32))


@operator("RandomNormalLike")
def random_normal_like(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__RandomNormalLike.html"""
    return _normal(b, node, x.shape, _dtype(node, x.dtype))


def seed_of(node: Node) -> float | None:
    """The attribute ``seed``, if there is one."""
    return node.float("seed") if "seed" in node.attributes else None


def _dtype(node: Node, default: DType) -> DType:
    dtype = element_type(node.attributes["dtype"]) if "dtype" in node.attributes else default
    if not dtype.is_float:
        raise TypeError(f"random numbers are floats, not {dtype}")
    return dtype


def _uniform(b: Builder, node: Node, shape: Shape, dtype: DType) -> View:
    """In [low, high), but for rounding, which may give ``high``."""
    low, high = node.float("low", 0.0), node.float("high", 1.0)
    return uniform(b, node, seed_of(node), shape, Scaling(dtype, high - low, low))


def _normal(b: Builder, node: Node, shape: Shape, dtype: DType) -> View:
    scale, mean = node.float("scale", 1.0), node.float("mean", 0.0)
    return normal(b, node, seed_of(node), shape, Scaling(dtype, scale, mean))


@operator("Bernoulli", since=15)
def bernoulli(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Bernoulli.html"""
    if not x.dtype.is_float:
        raise TypeError(f"probabilities are floats, not {x.dtype}")
    dtype = element_type(node.attributes["dtype"]) if "dtype" in node.attributes else x.dtype
    if dtype.kind not in "fiub":
        raise TypeError(f"the numbers 0 and 1 as {dtype}")
    drawn = uniform(b, node, seed_of(node), x.shape, Scaling(wide(x.dtype)))
    return scalar_map(b, _success, x, drawn, parameters=(dtype,))


def _success(*operands: Any) -> Scalar:
    probability, drawn, dtype = operands
    return cast(drawn < cast(probability, drawn.dtype), dtype)


@operator("Multinomial", since=7)
def multinomial(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Multinomial.html

    By inversion of the cumulative distribution, in float64. The standard leaves rows open whose
    probabilities are all zero or not numbers; they give class 0.
    """
    if x.rank != 2 or not x.dtype.is_float:
        raise ValueError(f"the input is {x.dtype}{list(x.shape)}, not floats of rank 2")
    dtype = element_type(node.attributes.get("dtype", DType.INT32.code))
    if dtype not in (DType.INT32, DType.INT64):
        raise TypeError(f"classes are int32 or int64, not {dtype}")
    shape = (x.shape[0], node.integer("sample_size", 1))
    if shape[1] < 0:
        raise ValueError(f"sample_size is {shape[1]}")
    if 0 in shape:
        return b.constant(np.empty(shape, dtype.numpy))
    if x.shape[1] == 0:
        raise ValueError("there is no class to choose")
    powers = b.compute(expression(_powers, (x.dtype,)), (x,), (1,))[0]
    sums = b.emit(Scan("sum", 1), [powers], [b.new(powers.dtype, powers.shape)])[0]
    drawn = uniform(b, node, seed_of(node), shape, Scaling(DType.FLOAT64))
    operands = (sums.unsqueeze((1,)), sums.slice(1, x.shape[1] - 1, 1).unsqueeze((1,)), drawn.unsqueeze((2,)))
    body = expression(_class, (DType.FLOAT64,) * 3, dtype)
    return b.compute(body, operands, (2,))[0].squeeze((2,))


def _powers(x: Scalar) -> Scalar:
    number = cast(x, DType.FLOAT64)
    return apply("exp", number - reduce("max", number))


def _class(*operands: Any) -> Scalar:
    """How many cumulative sums are at or below the point drawn: the class whose interval holds it."""
    sums, total, drawn, dtype = operands
    return reduce("sum", cast(apply("less_equal", sums, drawn * total), dtype))
