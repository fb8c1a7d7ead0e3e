"""LSTM with quantised weights."""

from __future__ import annotations

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import scalar_map
from onnxplan.compiler.ops.quantization import check_scale, check_zero_point, dequantized
from onnxplan.compiler.ops.quantized_products import dynamically_quantized_matrix_product
from onnxplan.compiler.ops.recurrent import Layer, long_short_term
from onnxplan.compiler.registry import operator
from onnxplan.compiler.view import View


@operator("DynamicQuantizeLSTM", domain="com.microsoft")
def dynamically_quantized_lstm(
    b: Builder,
    node: Node,
    x: View,
    w: View,
    r: View,
    bias: View | None,
    lengths: View | None,
    initial_h: View | None,
    initial_c: View | None,
    peepholes: View | None,
    w_scale: View,
    w_zero: View,
    r_scale: View,
    r_zero: View,
) -> list[View]:
    """https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.DynamicQuantizeLSTM

    ``w (D, I, 4 * H)`` and ``r (D, H, 4 * H)``, each with a scale and a zero point for each of ``D``
    directions, or for each of its columns. The input is quantised to project it. The states are not: the
    recurrent weights are dequantised, so results are closer to those of real weights than onnxruntime's.
    """
    if w.rank != 3 or r.rank != 3:
        raise ValueError("weights must have rank 3")
    check_scale(w_scale)
    scale, zero = (_for_columns(b, view, w) for view in (w_scale, w_zero))
    columns = b.reshape(w.transpose((1, 0, 2)), (w.shape[1], w.shape[0] * w.shape[2]))
    recurrent = scalar_map(b, dequantized, r, *(_of_directions(view, r) for view in (r_scale, r_zero)))
    check_zero_point(r_zero, r.dtype)
    layer = Layer.of(b, node, x, w.transpose((0, 2, 1)), recurrent.transpose((0, 2, 1)), gates=4)
    gates = dynamically_quantized_matrix_product(b, node, x, columns, scale, zero)
    projected = layer.biased(gates, bias)
    return long_short_term(layer, projected, lengths, initial_h, initial_c, peepholes)


def _of_directions(parameter: View, weights: View) -> View:
    """A scale or zero point ``(D)`` or ``(D, 4 * H)``, to broadcast to ``weights``."""
    directions, _, columns = weights.shape
    if parameter.shape not in ((directions,), (directions, columns)):
        raise ValueError(f"a parameter of shape {list(parameter.shape)} for {directions} directions")
    return parameter.unsqueeze((1, 2) if parameter.rank == 1 else (1,))


def _for_columns(b: Builder, parameter: View, weights: View) -> View:
    """The same for the directions' columns side by side: a scalar, or one element a column."""
    directions, _, columns = weights.shape
    whole = _of_directions(parameter, weights)
    if parameter.size == 1:
        return b.reshape(parameter, ())
    return b.reshape(whole.expand((directions, 1, columns)), (directions * columns,))
