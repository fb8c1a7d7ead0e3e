"""Calls the lowering rule of a node; errors name the node and its operands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from onnxplan.compiler.arity import check_inputs, check_kinds
from onnxplan.compiler.arrangement import checked_size
from onnxplan.compiler.builder import Builder, ValueNeeded
from onnxplan.compiler.errors import (
    InvalidModelError,
    OnnxPlanError,
    OutOfMemoryError,
    UnsupportedOperatorError,
)
from onnxplan.compiler.ir import Node
from onnxplan.compiler.registry import find
from onnxplan.compiler.structures import Lowered, describe_lowered, tensors
from onnxplan.compiler.view import View


def apply_rule(builder: Builder, node: Node, inputs: Sequence[Lowered | None]) -> Sequence[Lowered]:
    """What the rule of ``node`` makes of ``inputs``.

    Raises :class:`UnsupportedOperatorError` where there is none, :class:`InvalidModelError` and
    :class:`OutOfMemoryError` where it refuses, and passes on what it raises to ask for elements.
    """
    rule = find(node.domain, node.op_type, node.version)
    if rule is None:
        raise UnsupportedOperatorError(
            f"operator {node.domain or 'ai.onnx'}::{node.op_type} (opset {node.version}) of node "
            f"{node.label!r} is not supported",
            ((node.domain, node.op_type, node.version, (node.label,)),),
        )
    check_inputs(rule, node)
    try:
        check_kinds(rule, inputs)
        result = rule(builder, node, *inputs)
        outputs = result if isinstance(result, Sequence) else [result]
        for output in outputs:
            # Few outputs are no tensors, and this is done for each node.
            views: Iterable[View] = (output,) if isinstance(output, View) else tensors(output)
            for view in views:
                checked_size(view.shape)
    except (ValueNeeded, OnnxPlanError):
        raise
    except (ValueError, TypeError, IndexError, ArithmeticError, MemoryError) as error:
        operands = ", ".join(map(describe_lowered, inputs))
        kind = OutOfMemoryError if isinstance(error, MemoryError) else InvalidModelError
        raise kind(f"node {node.label!r} ({node.op_type} of {operands}): {error}") from error
    return outputs
