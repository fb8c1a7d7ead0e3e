"""Fast Fourier transforms of lengths without prime factors above 5, pass by pass.

Source: J. W. Cooley, J. W. Tukey, An algorithm for the machine calculation of complex Fourier series, 1965.
Each pass is a map over transforms of a radix, which it takes from the front of what is left of the length,
and multiplies by the twiddle factors of the rest.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.ops.common import expression
from onnxplan.compiler.trace import Scalar
from onnxplan.compiler.view import View

RADICES = (4, 2, 3, 5)


@functools.lru_cache(maxsize=256)
def radices(length: int) -> tuple[int, ...]:
    """The radices of the passes, the first one first; none where ``length`` has other factors."""
    found: list[int] = []
    for radix in RADICES:
        while length % radix == 0:
            found.append(radix)
            length //= radix
    return tuple(found) if length == 1 else ()


def fast_transform(b: Builder, real: View, imaginary: View | None, *, inverse: bool) -> tuple[View, View]:
    """The transform along the last axis of ``real`` and ``imaginary``, whose length :func:`radices` knows."""
    length = real.shape[-1]
    lead = real.rank - 1
    order = radices(length)
    rest = length
    for radix in order:
        rest //= radix
        shape = (*real.shape[:-1], radix, rest)
        parts = [b.reshape(part, shape) for part in (real, imaginary) if part is not None]
        axis = len(shape) - 2
        legs = [part.slice(axis, leg, 1).squeeze((axis,)) for part in parts for leg in range(radix)]
        factors = _twiddles(b, radix, rest, real, inverse=inverse) if rest > 1 else []
        if inverse and rest == 1:
            # An array, not a number that would be compiled in: each length would need a kernel of its own.
            factors = [b.constant(np.full(legs[0].shape[lead:], 1 / length), real.dtype)]
        operands = [*legs, *(factor.expand(legs[0].shape) for factor in factors)]
        body = expression(_butterfly, tuple(view.dtype for view in operands), radix, len(parts), inverse)
        found = b.compute(body, operands)
        real, imaginary = (
            b.concat([view.unsqueeze((axis,)) for view in found[first : first + radix]], axis)
            for first in (0, radix)
        )
    assert imaginary is not None
    # The first radix counts the lowest digit of an output's place.
    turned = (*range(lead), *reversed(range(lead, lead + len(order))))
    last = lead + len(order)
    digits = [part.squeeze((last,)).transpose(turned) for part in (real, imaginary)]
    shape = (*real.shape[:lead], length)
    return b.reshape(digits[0], shape), b.reshape(digits[1], shape)


def _twiddles(b: Builder, radix: int, rest: int, like: View, *, inverse: bool) -> list[View]:
    """Cosines, then sines, of the outputs 1 to ``radix - 1`` at each of ``rest`` places."""
    angles = 2 * np.pi / (radix * rest) * np.outer(np.arange(1, radix), np.arange(rest))
    sines = np.sin(angles) if inverse else -np.sin(angles)
    return [b.constant(row, like.dtype) for row in (*np.cos(angles), *sines)]


def _butterfly(*operands: Any) -> list[Scalar]:
    """One transform of ``radix`` points: real parts of its results, then imaginary ones.

    Behind the points come twiddle factors, or one factor of all results, or nothing.
    """
    *values, radix, parts, inverse = operands
    real = values[:radix]
    imaginary = values[radix : 2 * radix] if parts == 2 else [None] * radix
    factors = values[parts * radix :]
    sign = 1 if inverse else -1
    results: list[tuple[Scalar, Scalar]] = []
    for output in range(radix):
        angles = [2 * np.pi * (output * leg % radix) / radix for leg in range(radix)]
        cosines = [_rounded(float(np.cos(angle))) for angle in angles]
        sines = [sign * _rounded(float(np.sin(angle))) for angle in angles]
        x = _sum(
            [*zip(real, cosines, strict=True), *((v, -s) for v, s in zip(imaginary, sines, strict=True))]
        )
        y = _sum([*zip(imaginary, cosines, strict=True), *zip(real, sines, strict=True)])
        if y is None:
            y = real[0] * 0.0
        assert x is not None
        if len(factors) == 1:
            x, y = x * factors[0], y * factors[0]
        elif factors and output:
            cosine, sine = factors[output - 1], factors[radix - 2 + output]
            x, y = x * cosine - y * sine, x * sine + y * cosine
        results.append((x, y))
    return [x for x, _ in results] + [y for _, y in results]


def _rounded(value: float) -> float:
    """A cosine or sine, exact where it is a multiple of a quarter turn's."""
    return float(round(value)) if abs(value - round(value)) < 1e-12 else value


def _sum(terms: list[tuple[Scalar | None, float]]) -> Scalar | None:
    """The sum of values times factors, ``None`` where nothing is left."""
    total: Scalar | None = None
    for value, factor in terms:
        if value is None or factor == 0:
            continue
        if total is None:
            total = value if factor == 1 else value * factor
        elif factor in (1, -1):
            total = total + value if factor == 1 else total - value
        else:
            total = total + value * factor
    return total
