"""Elementwise operators. Most are one primitive; the rest are short expressions.

Broadcasting: before version 7 binary operators broadcast only with the attributes ``broadcast`` and ``axis``
(https://github.com/onnx/onnx/blob/main/docs/Changelog.md#Add-1), since then by NumPy's rules.
"""

from __future__ import annotations

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.ir import Node
from onnxplan.compiler.registry import Rule, operator
from onnxplan.compiler.trace import apply
from onnxplan.compiler.view import View


def _unary(op: str) -> Rule:
    def rule(b: Builder, node: Node, x: View) -> View:
        return b.scalar(op, x)

    return rule


for _op_type, _op in {"Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Neg": "neg", "Abs": "abs"}.items():
    operator(_op_type)(_unary(_op))


@operator("Gelu", since=20)
def gelu(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Gelu.html"""
    if node.string("approximate", "none") == "tanh":
        return b.map(
            lambda v: v * 0.5 * (apply("tanh", (v + v * v * v * 0.044715) * 0.7978845608028654) + 1), x
        )
    return b.map(lambda v: v * 0.5 * (apply("erf", v * 0.7071067811865476) + 1), x)
