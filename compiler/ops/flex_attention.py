"""FlexAttention: attention whose scores and weights go through graphs of the model."""

from __future__ import annotations

import math
from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.lowering import Lowering
from onnxplan.compiler.ops.attention import check_heads, grouped_product, softmax_weights
from onnxplan.compiler.ops.common import element_type, expression, scalar_map, wide
from onnxplan.compiler.registry import operator
from onnxplan.compiler.structures import tensor
from onnxplan.compiler.trace import Scalar, cast
from onnxplan.compiler.view import View


@operator("FlexAttention", domain="ai.onnx.preview")
def flex_attention(b: Lowering, node: Node, query: View, key: View, value: View) -> View:
    """https://onnx.ai/onnx/operators/onnx_aionnxpreview_FlexAttention.html

    Scores and weights are of the type that ``softmax_precision`` names, at least float32 without it. A row
    whose scores are all minus infinity yields NaN, as Softmax does.
    """
    check_heads(query, key, value)
    width = query.shape[3]
    scale = node.float("scale") if "scale" in node.attributes else 1 / math.sqrt(width) if width else 1.0
    chosen = node.integer("softmax_precision", 0)
    precision = element_type(chosen) if chosen else wide(query.dtype)
    if not precision.is_float or precision.itemsize == 1:
        raise TypeError(f"softmax_precision is {precision}, no float of 16 bits at least")
    scores = grouped_product(b, query, key.transpose((0, 1, 3, 2)), wide(query.dtype))
    scores = scalar_map(b, _scaled, scores, parameters=(scale, precision))
    scores = _modified(b, node, "score_mod", scores)
    weights = b.compute(expression(_weights, (precision,)), [scores], (3,))[0]
    weights = _modified(b, node, "prob_mod", weights)
    return grouped_product(b, weights, b.cast(value, precision), value.dtype)


def _scaled(*operands: Any) -> Scalar:
    score, scale, precision = operands
    return cast(score * scale, precision)


def _weights(*operands: Any) -> Scalar:
    score: Scalar = operands[0]
    dtype: DType = score.dtype
    return cast(softmax_weights(cast(score, wide(dtype)), masked=False, smooth=False), dtype)


def _modified(b: Lowering, node: Node, name: str, view: View) -> View:
    """What the graph ``name`` of the node, if there is one, makes of ``view (B, H, S, T)``."""
    if name not in node.attributes:
        return view
    graph = node.graph(name)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ValueError(f"{name} has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs, not one")
    result = tensor(b.inline(graph, [view])[0], f"the result of {name}")
    if result.shape != view.shape or result.dtype is not view.dtype:
        raise ValueError(
            f"{name} makes {result.dtype}{list(result.shape)} of {view.dtype}{list(view.shape)}, not the same"
        )
    return result
