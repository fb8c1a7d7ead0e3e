"""Window functions, Mel filters and discrete Fourier transforms.

A transform is one matrix product or, where its length allows and it pays, a fast one in passes
(:mod:`onnxplan.compiler.ops.fourier`). The matrix is made when planning, from angles in float64, and takes
up the real and imaginary parts, the one-sided forms, the scaling of the inverse and the window of each frame.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.constant_pool import derived_key
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import element_type, integer, normal_axis, single, values, wide
from onnxplan.compiler.ops.fourier import fast_transform, radices
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.registry import Rule, operator
from onnxplan.compiler.view import View

Array = npt.NDArray[Any]

_COSINE_TERMS = {
    "HannWindow": (0.5, -0.5),
    "HammingWindow": (25 / 46, -21 / 46),
    "BlackmanWindow": (0.42, -0.5, 0.08),
}


def _window_rule(terms: tuple[float, ...]) -> Rule:
    def rule(b: Builder, node: Node, size: View) -> View:
        count = integer(b, size)
        if count < 0:
            raise ValueError(f"a window of {count} elements")
        period = count if node.integer("periodic", 1) else count - 1
        angles = 2 * np.pi * np.arange(count) / max(period, 1)
        window = sum(factor * np.cos(order * angles) for order, factor in enumerate(terms))
        if count == 1:
            window = np.ones(1)
        dtype = element_type(node.integer("output_datatype", 1))
        # In float64 what should be 1 is a little less, which integers would be truncated to 0 of.
        return b.constant(window if dtype.is_float else np.asarray(window, np.float32), dtype)

    return rule


for _name, _terms in _COSINE_TERMS.items():
    operator(_name, since=17)(_window_rule(_terms))


@operator("MelWeightMatrix", since=17)
def mel_weight_matrix(
    b: Builder, node: Node, bins: View, length: View, rate: View, lower: View, upper: View
) -> View:
    """https://onnx.ai/onnx/operators/onnx__MelWeightMatrix.html"""
    counts = [
        int(array.item())
        for array in values(b, [single(b, v) for v in (bins, length, rate)])
        if array is not None
    ]
    edges = [
        float(array.item())
        for array in values(b, [single(b, v) for v in (lower, upper)])
        if array is not None
    ]
    matrix = _mel_filters(counts[0], counts[1], counts[2], edges[0], edges[1])
    return b.constant(matrix, element_type(node.integer("output_datatype", 1)))


def _mel_filters(bins: int, length: int, rate: int, lower: float, upper: float) -> Array:
    """Triangles ``(length // 2 + 1, bins)`` of height 1, at equal distances on the Mel scale."""
    low, high = (2595 * math.log10(1 + edge / 700) for edge in (lower, upper))
    # The standard divides by the number of corners, one more than there are distances between them.
    corners = low + np.arange(bins + 2) * ((high - low) / (bins + 2))
    hertz = 700 * (10 ** (corners / 2595) - 1)
    places = ((length + 1) * hertz // rate).astype(np.int64)
    rows = length // 2 + 1
    if places.size and not 0 <= places.min() <= places.max() <= rows:
        raise ValueError(f"frequencies from {lower} to {upper} Hz exceed what {rate} samples a second hold")
    row = np.arange(rows)[:, None]
    left, center, right = places[:-2], places[1:-1], places[2:]
    with np.errstate(divide="ignore", invalid="ignore"):
        rising = np.where((row >= left) & (row <= center), (row - left) / (center - left), 0.0)
        falling = np.where((row >= center) & (row < right), (right - row) / (right - center), 0.0)
    rising[:, left == center] = row == center[left == center]
    return np.where((row >= center) & (row < right), falling, rising)


@dataclass(frozen=True, slots=True)
class Transform:
    """A discrete Fourier transform of ``length`` points.

    ``complex_input`` tells whether elements are pairs. ``onesided`` leaves out what conjugate symmetry
    gives: of the output, or, of an inverse transform, of the input; its output is real then.
    """

    length: int
    complex_input: bool
    inverse: bool = False
    onesided: bool = False

    @property
    def inputs(self) -> int:
        """Points that are read; missing ones are zero."""
        return self.length // 2 + 1 if self.inverse and self.onesided else self.length

    @property
    def outputs(self) -> int:
        return self.length // 2 + 1 if self.onesided and not self.inverse else self.length

    @property
    def components(self) -> int:
        """Real numbers of each output point."""
        return 1 if self.inverse and self.onesided else 2

    def matrix(self, count: int) -> Array:
        """The transform of the first ``count`` points, ``(count, 1 or 2, outputs, components)`` float64."""
        steps = np.outer(np.arange(count), np.arange(self.outputs)) % self.length
        angles = 2 * np.pi / self.length * np.arange(self.length)
        cosine, sine = np.cos(angles)[steps], np.sin(angles)[steps]
        if not self.inverse:
            sine = -sine
        weights = np.full((count, 1), 1 / self.length if self.inverse else 1.0)
        if self.inverse and self.onesided:
            weights[1 : (self.length + 1) // 2] *= 2
        cosine, sine = cosine * weights, sine * weights
        real, imaginary = np.stack([cosine, sine], -1), np.stack([-sine, cosine], -1)
        parts = [real, imaginary] if self.complex_input else [real]
        return np.stack(parts, 1)[..., : self.components]


def _apply(b: Builder, x: View, transform: Transform, window: View | None = None) -> View:
    """``x (..., points, 1 or 2)`` to ``(..., outputs, components)``; ``window`` is constant, ``(points)``."""
    count = min(x.shape[-2], transform.inputs)
    x = x.slice(x.rank - 2, 0, count)
    computed = wide(x.dtype)
    columns = transform.outputs * transform.components

    def make() -> Array:
        matrix = transform.matrix(count)
        if window is not None:
            matrix = matrix * window.numpy().astype(np.float64).reshape(-1, 1, 1, 1)
        return matrix.reshape(count * x.shape[-1], columns).astype(computed.numpy)

    key = derived_key(f"{transform} of {count} in {computed}", [window] if window is not None else [])
    matrix = View.dense(b.pool.get(key, make, "dft"), (count * x.shape[-1], columns))
    lead = x.shape[:-2]
    rows = b.reshape(b.cast(x, computed), (*lead, count * x.shape[-1]))
    product = b.matmul(rows if lead else rows.unsqueeze((0,)), matrix, x.dtype)
    return b.reshape(product, (*lead, transform.outputs, transform.components))


def _check_components(x: View) -> None:
    if not x.dtype.is_float:
        raise TypeError(f"floats are expected, not {x.dtype}")
    if x.rank < 2 or x.shape[-1] not in (1, 2):
        raise ValueError(f"the last dimension of shape {list(x.shape)} is neither 1 (real) nor 2 (complex)")


def _transform(b: Builder, node: Node, x: View, length: View | None, axis: int) -> View:
    _check_components(x)
    axis = normal_axis(axis, x.rank)
    if axis == x.rank - 1:
        raise ValueError("the last axis holds the parts of complex numbers and cannot be transformed")
    inverse, onesided = bool(node.integer("inverse", 0)), bool(node.integer("onesided", 0))
    if length is not None:
        points = integer(b, length)
    else:
        points = 2 * (x.shape[axis] - 1) if inverse and onesided else x.shape[axis]
    if points < 1:
        raise ValueError(f"a transform of {points} points")
    transform = Transform(points, x.shape[-1] == 2, inverse, onesided)
    order = (*(a for a in range(x.rank - 1) if a != axis), axis, x.rank - 1)
    back = tuple(order.index(a) for a in range(x.rank))
    x = x.transpose(order)
    apply = _apply_fast if _is_fast(transform, x) else _apply
    return apply(b, x, transform).transpose(back)


SHORTEST_FAST = 256
"""Points from which passes are faster than a product, for many transforms at once."""

SMALL_WORK = 1 << 14
"""Products of so few multiplications take no longer than a pass: what rounds less is taken."""


def _is_fast(transform: Transform, x: View) -> bool:
    """Are passes the right form for ``x (..., points, 1 or 2)``?

    A product computes half as much where the input is real or one half of the transform is left out. Passes
    round less: the errors of a product of 10 complex points are more than twice as large.
    """
    if not radices(transform.length):
        return False
    work = 4 * (x.size // max(x.shape[-2] * x.shape[-1], 1)) * transform.length**2
    halved = transform.onesided or not transform.complex_input
    return transform.length >= SHORTEST_FAST or (not halved and work <= SMALL_WORK)


def _apply_fast(b: Builder, x: View, transform: Transform) -> View:
    """``x (..., points, 1 or 2)`` to ``(..., outputs, components)``, as :func:`_apply`, in passes."""
    axis, length = x.rank - 2, transform.length
    wanted = b.cast(x.slice(axis, 0, min(x.shape[axis], transform.inputs)), wide(x.dtype))
    missing = transform.inputs - wanted.shape[axis]
    if missing:
        shape = (*wanted.shape[:axis], missing, wanted.shape[-1])
        wanted = b.concat([wanted, b.constant(0.0, wanted.dtype).expand(shape)], axis)
    parts = [wanted.slice(axis + 1, part, 1).squeeze((axis + 1,)) for part in range(wanted.shape[-1])]
    if transform.inverse and transform.onesided:
        # The other half is that of a real result: conjugate and mirrored.
        mirrored = (length - 1) // 2
        halves = [part.slice(axis, mirrored, mirrored, -1) for part in parts]
        halves[1:] = [b.scalar("neg", half) for half in halves[1:]]
        parts = [b.concat([part, half], axis) for part, half in zip(parts, halves, strict=True)]
    imaginary = parts[1] if len(parts) == 2 else None
    results = fast_transform(b, parts[0], imaginary, inverse=transform.inverse)[: transform.components]
    kept = [part.slice(axis, 0, transform.outputs).unsqueeze((axis + 1,)) for part in results]
    return b.cast(b.concat(kept, axis + 1), x.dtype)


@operator("DFT", since=17)
def fourier_transform_17(b: Builder, node: Node, x: View, length: View | None = None) -> View:
    """https://onnx.ai/onnx/operators/onnx__DFT.html, version 17"""
    return _transform(b, node, x, length, node.integer("axis", 1))


@operator("DFT", since=20)
def fourier_transform(
    b: Builder, node: Node, x: View, length: View | None = None, axis: View | None = None
) -> View:
    """https://onnx.ai/onnx/operators/onnx__DFT.html"""
    return _transform(b, node, x, length, -2 if axis is None else integer(b, axis))


@operator("STFT", since=17)
def short_time_fourier_transform(
    b: Builder, node: Node, x: View, step: View, window: View | None = None, length: View | None = None
) -> View:
    """https://onnx.ai/onnx/operators/onnx__STFT.html: frames overlap in memory, without a copy."""
    _check_components(x)
    if x.rank != 3:
        raise ValueError(f"a signal of rank 3 is expected, not {x.rank}")
    known = [None if array is None else int(array.item()) for array in values(b, [single(b, step), length])]
    hop, points = known
    assert hop is not None
    if points is None:
        points = x.shape[1] if window is None else window.size
    if window is not None and window.shape != (points,):
        raise ValueError(f"a window of shape {list(window.shape)} for frames of {points}")
    if hop < 1 or not 1 <= points <= x.shape[1]:
        raise ValueError(f"frames of {points}, every {hop}, of a signal of {x.shape[1]}")
    frames = View(
        x.storage,
        x.offset,
        (x.shape[0], (x.shape[1] - points) // hop + 1, points, x.shape[2]),
        (x.strides[0], x.strides[1] * hop, x.strides[1], x.strides[2]),
    )
    if window is not None and not window.is_constant:
        frames = b.scalar("mul", frames, window.unsqueeze((1,)))
        window = None
    transform = Transform(points, x.shape[2] == 2, onesided=bool(node.integer("onesided", 1)))
    return _apply(b, frames, transform, window)
