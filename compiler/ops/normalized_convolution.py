"""A convolution and the BatchNormalization behind it, which becomes part of its weights and of one addition.

No file holds this operator: :mod:`onnxplan.compiler.rewrites.normalized_convolutions` writes it.
"""

from __future__ import annotations

import numpy as np

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.channels import Affine, fold_channels
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.batch_normalization import factors, factors_type, normalize
from onnxplan.compiler.ops.convolution import conv, convolution_window, convolve_taps, taps_first
from onnxplan.compiler.ops.windows import channels_first
from onnxplan.compiler.registry import operator
from onnxplan.compiler.rewrites.normalized_convolutions import DOMAIN, OP_TYPE
from onnxplan.compiler.view import View

_Parameters = tuple[View, View, View, View]
"""Scale, bias, average and variance of a normalisation."""


@operator(OP_TYPE, domain=DOMAIN)
def normalized_convolution(
    b: Builder,
    node: Node,
    x: View,
    w: View,
    scale: View,
    offset: View,
    average: View,
    variance: View,
    bias: View | None = None,
) -> View:
    """BatchNormalization of the Conv of ``x (N, C, *spatial)`` by constants ``w (M, C/groups, *kernel)``.

    The other inputs are constants ``(M,)``. Attributes are those of a Conv, and ``epsilon``. Scaled weights
    are computed once for all plans; where they overflow, or stay as they are, there are two operations.
    """
    epsilon, parameters = node.float("epsilon"), (scale, offset, average, variance)
    if not x.is_constant and x.size and w.size:
        if bias is None:
            folded = b.derive(_fold, (w, *parameters), epsilon)
        else:
            folded = b.derive(_fold_with_bias, (w, bias, *parameters), epsilon)
        if folded:
            weights, *shift = folded
            window = convolution_window(node, x, w)
            groups = node.integer("group", 1)
            return channels_first(convolve_taps(b, x, weights, window, groups, x.dtype, *shift))
    return normalize(b, conv(b, node, x, w, bias), parameters, epsilon)


def _fold(
    b: Builder, w: View, scale: View, offset: View, average: View, variance: View, epsilon: float
) -> tuple[View, ...]:
    return _folded(b, w, (scale, offset, average, variance), epsilon, [])


def _fold_with_bias(
    b: Builder,
    w: View,
    bias: View,
    scale: View,
    offset: View,
    average: View,
    variance: View,
    epsilon: float,
) -> tuple[View, ...]:
    added = Affine(np.ones(bias.shape), np.asarray(bias.numpy(), np.float64))
    return _folded(b, w, (scale, offset, average, variance), epsilon, [added])


def _folded(
    b: Builder, w: View, parameters: _Parameters, epsilon: float, before: list[Affine]
) -> tuple[View, ...]:
    """Weights ``(*kernel, C/groups, M)`` and the shift, if not 0; nothing where weights stay as they are."""
    dtype = factors_type(w, *parameters)
    factor, offset = (
        np.asarray(view.numpy(), np.float64) for view in factors(b, *parameters, 1, dtype, epsilon)
    )
    weights = taps_first(w)
    channels = fold_channels(weights, w.dtype, [*before, Affine(factor, offset)], b.pool)
    if channels is None or channels.weights == weights:
        return ()
    return (channels.weights,) if channels.shift is None else (channels.weights, channels.shift)
