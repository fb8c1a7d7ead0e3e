"""Random numbers as a function of their position: the generator Philox4x32-10.

J. Salmon, M. Moraes, R. Dror and D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011
(https://doi.org/10.1145/2063384.2063405). An element's number depends on the key, the stream and its place
alone, so tensors of random numbers are plain maps, equal on all devices and for any number of threads.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ops.common import TracedBody, expression, wide
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.trace import Scalar, apply, cast, index
from onnxplan.compiler.view import Shape, View

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_STREAM_STEP = 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True)
class Scaling:
    """Drawn numbers are multiplied by ``scale``, added to ``offset``, and rounded to ``dtype``."""

    dtype: DType
    scale: float = 1.0
    offset: float = 0.0


def uniform(b: Builder, source: object, seed: float | None, shape: Shape, scaling: Scaling) -> View:
    """Numbers uniform in [0, 1), of 24 bits, or 53 for float64, scaled.

    ``source`` draws (an operator's node). With a ``seed`` each run of the model gets the same numbers, equal
    for equal seeds; where a node draws repeatedly, in a loop, the draws differ. Without, no two runs agree.
    """
    return _draw(b, source, seed, shape, scaling, _uniform)


def normal(b: Builder, source: object, seed: float | None, shape: Shape, scaling: Scaling) -> View:
    """As :func:`uniform`, of the standard normal distribution (Box and Muller, 1958)."""
    return _draw(b, source, seed, shape, scaling, _normal)


def _draw(
    b: Builder, source: object, seed: float | None, shape: Shape, scaling: Scaling, body: TracedBody
) -> View:
    size = math.prod(shape)
    if size == 0:
        return b.constant(np.empty(shape, scaling.dtype.numpy))
    if seed is None or math.isnan(seed):
        key, stream = b.run_key(), b.count_draw(None)
    else:
        (bits,) = struct.unpack("<Q", struct.pack("<d", seed))
        key, stream = b.constant([bits], DType.UINT64), b.count_draw(source)
    # Many different numbers that are not small stay operands, so that a model's draws share one kernel.
    views = (key, b.constant([stream * _STREAM_STEP % 2**64], DType.UINT64))
    drawn = b.compute(expression(_scaled, (DType.UINT64,) * 2, body, scaling), views, shape=(size,))[0]
    return b.reshape(drawn, shape)


def _scaled(*operands: Any) -> Scalar:
    key, stream, body, scaling = operands
    drawn: Scalar = body(key, stream, wide(scaling.dtype))
    if scaling.scale != 1:
        drawn = drawn * scaling.scale
    if scaling.offset != 0:
        drawn = drawn + scaling.offset
    return cast(drawn, scaling.dtype)


def _uniform(key: Scalar, stream: Scalar, dtype: DType) -> Scalar:
    return _fraction(_words(key, stream)[:2], dtype)


def _normal(key: Scalar, stream: Scalar, dtype: DType) -> Scalar:
    words = _words(key, stream)
    if dtype is DType.FLOAT64:
        radius, angle = 1.0 - _fraction(words[:2], dtype), _fraction(words[2:], dtype)
    else:
        # All 32 bits, as small numbers make the tails.
        radius, angle = (cast(words[0], dtype) + 1.0) * 2.0**-32, _fraction(words[2:], dtype)
    return apply("sqrt", apply("log", radius) * -2.0) * apply("cos", angle * (2 * math.pi))


def _fraction(words: list[Scalar], dtype: DType) -> Scalar:
    """Two words of 32 bits (float32 takes the first) as a number in [0, 1)."""
    high, low = words
    if dtype is not DType.FLOAT64:
        return cast(cast(apply("shift_right", high, 8), DType.INT32), dtype) * 2.0**-24
    upper, lower = (
        cast(cast(apply("shift_right", word, count), DType.INT32), dtype)
        for word, count in ((high, 5), (low, 6))
    )
    return (upper * 2.0**26 + lower) * 2.0**-53


def _words(key: Scalar, stream: Scalar) -> list[Scalar]:
    """The four words of 32 bits, kept as uint64, of the element at the first coordinate."""
    place = cast(index(key, 0), DType.UINT64)
    counter = [*_halves(place), *_halves(stream)]
    keys = list(_halves(key))
    for step in range(_ROUNDS):
        if step:
            keys = [
                apply("bitwise_and", part + weyl, _MASK) for part, weyl in zip(keys, _KEY_STEPS, strict=True)
            ]
        low, high = zip(*(_halves(counter[2 * half] * _MULTIPLIERS[half]) for half in range(2)), strict=True)
        counter = [
            apply("bitwise_xor", apply("bitwise_xor", high[1], counter[1]), keys[0]),
            low[1],
            apply("bitwise_xor", apply("bitwise_xor", high[0], counter[3]), keys[1]),
            low[0],
        ]
    return counter


def _halves(value: Scalar) -> tuple[Scalar, Scalar]:
    """The lower and the upper 32 bits."""
    return apply("bitwise_and", value, _MASK), apply("shift_right", value, 32)
