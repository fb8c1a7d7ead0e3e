"""Operators on boxes of detection networks."""

from __future__ import annotations

import numpy as np

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import integer, single
from onnxplan.compiler.primitives import Gather, SuppressNonMaximum
from onnxplan.compiler.registry import operator
from onnxplan.compiler.view import View


@operator("NonMaxSuppression", since=10)
def non_max_suppression(
    b: Builder,
    node: Node,
    boxes: View,
    scores: View,
    max_output_boxes_per_class: View | None = None,
    iou_threshold: View | None = None,
    score_threshold: View | None = None,
) -> View:
    """https://onnx.ai/onnx/operators/onnx__NonMaxSuppression.html

    How many boxes are selected is known after a run of the selection: the result is put together then. As
    onnxruntime does, a box must score above (not at) the threshold.
    """
    if boxes.rank != 3 or scores.rank != 3 or boxes.shape[2] != 4:
        raise ValueError(
            f"boxes {list(boxes.shape)} must be (B, S, 4), scores {list(scores.shape)} (B, C, S)"
        )
    images, classes, extent = scores.shape
    if boxes.shape[:2] != (images, extent):
        raise ValueError(f"boxes {list(boxes.shape)} and scores {list(scores.shape)} do not belong together")
    most = 0
    if max_output_boxes_per_class is not None:
        most = max(0, min(integer(b, max_output_boxes_per_class), extent))
    if most == 0 or images * classes == 0:
        return b.constant(np.empty((0, 3), np.int64))
    thresholds = [
        b.constant(np.float32(0)) if view is None else single(b, view)
        for view in (iou_threshold, score_threshold)
    ]
    primitive = SuppressNonMaximum(
        centered=bool(node.integer("center_point_box", 0)), has_score_threshold=score_threshold is not None
    )
    outputs = [b.new(DType.INT64, (images, classes, most)), b.new(DType.INT64, (images, classes))]
    picks, counts = b.emit(primitive, [boxes, scores, *thresholds], outputs)
    found = b.value(counts)
    image, kind, number = np.nonzero(np.arange(most) < found[..., None])
    if len(number) == 0:
        return b.constant(np.empty((0, 3), np.int64))
    positions = b.constant((image * classes + kind) * most + number, DType.INT64)
    flat = b.reshape(picks, (images * classes * most,))
    column = b.emit(Gather(0), [flat, positions], [b.new(DType.INT64, (len(number),))])[0]
    where = b.constant(np.stack([image, kind], 1), DType.INT64)
    return b.concat([where, column.unsqueeze((1,))], 1)
