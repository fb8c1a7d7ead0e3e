"""Gradient: what computes a value is lowered again at the points given, and gone through backwards."""

from __future__ import annotations

import numpy as np

from onnxplan.compiler.ir import Node
from onnxplan.compiler.lowering import Lowering
from onnxplan.compiler.ops.gradient_rules import Adjoints
from onnxplan.compiler.registry import operator
from onnxplan.compiler.view import View


@operator("Gradient", domain="ai.onnx.preview.training")
def gradient(b: Lowering, node: Node, *inputs: View) -> list[View]:
    """https://onnx.ai/onnx/operators/onnx_aionnxpreviewtraining_Gradient.html

    Of a ``y`` of several elements that of their sum. Elementwise operators, reductions but products, matrix
    products, convolutions, Gather and what only moves elements have derivatives, and so has what is made of
    them; others are refused by name. Where a maximum is attained several times, its derivative is shared out.
    """
    xs, zs = node.strings("xs"), node.strings("zs", ())
    if len(inputs) != len(xs) + len(zs):
        raise ValueError(f"{len(inputs)} inputs for {len(xs)} xs and {len(zs)} zs")
    points = []
    for name, view in zip(xs, inputs, strict=False):
        if not view.dtype.is_float:
            raise TypeError(f"{name!r} is of {view.dtype}: there are derivatives by floats only")
        # A storage of its own: no derivative by what is constant would be left otherwise.
        point = b.new(view.dtype, view.shape)
        b.copy_into(view, point)
        points.append(point)
    result, operations = b.replay(
        node.string("y"), dict(zip((*xs, *zs), (*points, *inputs[len(xs) :]), strict=True))
    )
    if not result.dtype.is_float:
        raise TypeError(f"y is of {result.dtype}, no floats")
    active = {point.storage for point in points}
    for operation in operations:
        if any(view.storage in active for view in operation.inputs):
            active.update(view.storage for view in operation.outputs if view.dtype.is_float)
    adjoints = Adjoints(b, active)
    if result.storage in active:
        adjoints.add(result, b.constant(1.0, result.dtype).expand(result.shape))
        adjoints.propagate(operations)
    found = [adjoints.at(point) for point in points]
    return [
        b.constant(np.zeros(point.shape, point.dtype.numpy)) if view is None else view
        for point, view in zip(points, found, strict=True)
    ]
