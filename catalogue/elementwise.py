"""Specimens of elementwise operators, activations and conversions."""

from __future__ import annotations

from typing import Any

import numpy as np

from catalogue.specimen import Array, Draw, Specimen, Types, code, of
from onnxplan.compiler.dtypes import DType

_SHAPE = (2, 3)
_POSITIVE = Draw(_SHAPE, 1, 8)

_PLAIN = """
Abs Asinh Atan BitwiseNot Celu Ceil Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity IsNaN
LeakyRelu Mish Neg Not Relu Round Shrink Sigmoid Sign Sin Sinh Softplus Softsign Swish Tan Tanh
ThresholdedRelu
""".split()


def _broadcasting(function: Any, left: Draw, right: Draw) -> list[Specimen]:
    """Before version 7 the second operand is aligned by the attribute ``axis``."""

    def reference(x: Array, y: Array) -> Array:
        return np.asarray(function(x, y[:, None]))

    aligned = Draw((*left.shape, 2), left.low, left.high)
    return [of(aligned, right, broadcast=1, axis=1, reference=reference), of(left, right, since=7)]


def _old_selu(x: Array) -> Array:
    """By the constants of version 1, which has fewer digits."""
    return np.where(x > 0, 1.0507 * x, 1.0507 * 1.6732 * np.expm1(x))


_BINARY = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Equal": np.equal,
    "Greater": np.greater,
    "Less": np.less,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
}

# What names element types in version 1 of Cast.
_OLD_NAMES = {DType.FLOAT32: "FLOAT", DType.FLOAT64: "DOUBLE"}


def _no_text_as_truth(types: Types) -> bool:
    # The standard says nothing about texts as booleans and the other way round.
    return {types["T1"], types["T2"]} != {DType.STRING, DType.BOOL}


def _same_bits(types: Types) -> bool:
    return types["T1"].bits == types["T2"].bits


_NUMERALS = Draw(_SHAPE, texts=("1", "2", "4"))

SPECIMENS: dict[str, list[Specimen]] = {
    **{name: [of(_SHAPE)] for name in _PLAIN},
    **{name: _broadcasting(function, Draw(_SHAPE), Draw((3,))) for name, function in _BINARY.items()},
    **{
        name: [of(_SHAPE, (3,))]
        for name in ("GreaterOrEqual", "LessOrEqual", "BitwiseAnd", "BitwiseOr", "BitwiseXor")
    },
    **{name: [of(_SHAPE, _SHAPE), of(_SHAPE, (3,), since=8)] for name in ("Sum", "Mean", "Max", "Min")},
    "Acos": [of(Draw(_SHAPE, -2, 2))],
    "Asin": [of(Draw(_SHAPE, -2, 2))],
    "Atanh": [of(Draw(_SHAPE, -1, 1))],
    "Acosh": [of(Draw(_SHAPE, 2, 8))],
    "Log": [of(_POSITIVE)],
    "Sqrt": [of(_POSITIVE)],
    "Reciprocal": [of(_POSITIVE)],
    "Div": _broadcasting(np.divide, Draw(_SHAPE), Draw((3,), 1, 4)),
    "Pow": _broadcasting(np.power, Draw(_SHAPE, 0, 4), Draw((3,), 0, 4)),
    "Mod": [of(_SHAPE, Draw((3,), 1, 3), fmod=lambda types: int(types["T"].is_float))],
    "BitShift": [of(_SHAPE, Draw((3,), 0, 3), direction="RIGHT")],
    "PRelu": [
        of((2, 3, 2), (3,), reference=lambda x, slope: np.where(x < 0, x * slope[:, None], x)),
        of(_SHAPE, (3,), since=7),
    ],
    "Where": [of((2, 1), _SHAPE, (3,))],
    "IsInf": [of([[0.5, np.inf], [0, -np.inf]], detect_negative=0)],
    "Selu": [of(_SHAPE, reference=_old_selu), of(_SHAPE, since=6)],
    "SwiGLU": [of(_SHAPE, _SHAPE)],
    "Clip": [of(_SHAPE, min=-1.0, max=1.0), of(_SHAPE, 0, 1, since=11)],
    "Cast": [
        of(
            _NUMERALS,
            to=lambda types: _OLD_NAMES.get(types["T2"], types["T2"].name),
            reference=lambda x: x,
        ),
        of(_NUMERALS, since=6, to=code("T2"), allows=_no_text_as_truth),
    ],
    "CastLike": [of(_NUMERALS, Draw((1,), texts=("x",)), allows=_no_text_as_truth)],
    "BitCast": [of(_SHAPE, to=code("T2"), pairs=True, allows=_same_bits)],
    "Dropout": [
        of(_SHAPE, is_test=1),
        of(_SHAPE, since=7),
        of(_SHAPE, 0.25, False, outputs=2, since=12),
    ],
    "Bernoulli": [of([[0, 1], [1, 0]], dtype=code("T2"), reference=lambda p: p)],
    "RandomNormal": [of(shape=[2, 3], dtype=code("T"), random=True)],
    "RandomUniform": [of(shape=[2, 3], dtype=code("T"), random=True)],
    "RandomNormalLike": [of(_SHAPE, dtype=code("T2"), random=True)],
    "RandomUniformLike": [of(_SHAPE, dtype=code("T2"), random=True)],
    "Multinomial": [of(Draw((2, 3), 0, 2), dtype=code("T2"), sample_size=4, random=True)],
}
