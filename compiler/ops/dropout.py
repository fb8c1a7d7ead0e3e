"""Dropout: the identity in inference, random zeros in training."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import expression, single, wide
from onnxplan.compiler.ops.philox import Scaling, uniform
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, cast, select
from onnxplan.compiler.view import Shape, View


@operator("Dropout")
def dropout(b: Builder, node: Node, x: View) -> Sequence[View]:
    """https://onnx.ai/onnx/operators/onnx__Dropout.html before version 12: only inference.

    The mask has the type of the data before version 10, then it is boolean.
    """
    return [x, b.constant(1, x.dtype if node.version < 10 else DType.BOOL).expand(x.shape)]


@operator("Dropout", since=12)
def dropout_in_training(
    b: Builder, node: Node, x: View, ratio: View | None = None, training: View | None = None
) -> Sequence[View]:
    """https://onnx.ai/onnx/operators/onnx__Dropout.html

    In training mode a ``seed`` drops in each run the elements that the standard's reference drops: those at
    which NumPy's Mersenne Twister, seeded with it, draws less than the ratio. They are drawn when a run is
    planned. Without a seed each run drops others.
    """
    if not x.dtype.is_float:
        raise TypeError(f"the input is {x.dtype}")
    share = b.constant(0.5, DType.FLOAT64) if ratio is None else single(b, ratio)
    keeps_all = share.is_constant and float(share.numpy()) == 0
    if training is None or keeps_all or x.size == 0 or not bool(b.value(single(b, training)).item()):
        return [x, b.constant(True).expand(x.shape)]
    if "seed" in node.attributes:
        drawn = _reference_uniform(b, node, x.shape)
    else:
        drawn = uniform(b, node, None, x.shape, Scaling(wide(x.dtype)))
    return b.compute(expression(_drop, (x.dtype, drawn.dtype, share.dtype)), (x, drawn, share))


def _drop(x: Scalar, drawn: Scalar, ratio: Scalar) -> Sequence[Scalar]:
    kept = drawn >= cast(ratio, drawn.dtype)
    scale = 1.0 / (1.0 - cast(ratio, DType.FLOAT64))
    number = cast(x, wide(x.dtype))
    return [cast(select(kept, number * cast(scale, number.dtype), 0.0), x.dtype), kept]


def _reference_uniform(b: Builder, node: Node, shape: Shape) -> View:
    """The numbers of NumPy's legacy generator; other ones each time that the node is met in a loop."""
    seed, draw = node.integer("seed"), b.count_draw(node)
    key = f"dropout:{seed}:{draw}:{shape}"
    storage = b.pool.get(key, functools.partial(_mersenne_twister, seed, draw, shape), node.label)
    return View.dense(storage, shape)


def _mersenne_twister(seed: int, draw: int, shape: Shape) -> npt.NDArray[Any]:
    plain = draw == 0 and 0 <= seed < 2**32
    words = [seed % 2**32, seed // 2**32 % 2**32, draw]
    return np.random.RandomState(seed if plain else words).uniform(size=shape)
