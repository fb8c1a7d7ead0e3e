"""A convolution by constants and the BatchNormalization behind it become one operator."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy.typing as npt

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Graph, Model, Node, Value
from onnxplan.compiler.rewrites.quantized_values import DOMAINS, is_operator
from onnxplan.compiler.rewrites.uses import Uses

DOMAIN, OP_TYPE = "onnxplan", "ConvBatchNormalization"
"""The operator that the two become."""

_CURVED = frozenset(
    [
        "Clip", "Conv", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Relu",
        "Selu", "Sigmoid", "Softplus", "Swish", "Tanh",
    ]
)  # fmt: skip
"""Operators that are no scales and shifts of channels."""
_ARITHMETIC = frozenset(["Add", "Div", "Mul", "Sub"])
_OF_SHAPES = frozenset(["Shape", "Size"])


def normalized_convolutions(model: Model) -> Model:
    """``model`` with a ConvBatchNormalization for each Conv that only a BatchNormalization reads.

    Both by constants (initializers), and followed by nothing that ``fold_affine`` would make part of the
    weights as well: it rounds them once for all that happens to a channel. That pass finds the same again for
    each shape of a model; here it is found once. Requires sorted nodes. Ensures that plans run the same
    kernels with the same constants as those of ``model``, which is left as it is. Subgraphs stay as they are,
    and so do graphs with a Gradient, which names inner values.
    """
    graph = model.graph
    if any(is_operator(node, "BatchNormalization") for node in graph.nodes):
        nodes = _joined(graph)
        if len(nodes) < len(graph.nodes):
            return replace(model, graph=Graph(graph.name, graph.inputs, graph.outputs, nodes))
    return model


def _joined(graph: Graph) -> list[Node]:
    if any(node.op_type == "Gradient" for node in graph.walk()):
        return graph.nodes
    uses, computed = Uses.of(graph), _computed(graph)
    convolutions: dict[Value | None, Node] = {}
    nodes: dict[Node, Node] = {}
    for node in graph.nodes:
        nodes[node] = node
        if is_operator(node, "Conv"):
            convolutions[node.outputs[0]] = node
        elif is_operator(node, "BatchNormalization"):
            before = convolutions.get(node.input(0))
            if before is not None and _may_join(before, node, uses, computed):
                del nodes[before]
                nodes[node] = _join(before, node)
    return list(nodes.values())


def _computed(graph: Graph) -> set[Value]:
    """The values that depend on elements of the graph's inputs."""
    found = set(graph.inputs)
    for node in graph.nodes:
        if node.op_type not in _OF_SHAPES and not found.isdisjoint(node.inputs):
            found.update(value for value in node.outputs if value is not None)
    return found


def _may_join(convolution: Node, normalization: Node, uses: Uses, computed: set[Value]) -> bool:
    between, result = convolution.outputs[0], normalization.outputs[0]
    if between is None or between in uses.shown or uses.readers[between] != [normalization]:
        return False
    statistics = [value for value in normalization.outputs[1:] if value is not None]
    if statistics or normalization.integer("training_mode", 0) or result is None or result in uses.shown:
        return False
    return _has_constants(convolution, normalization) and not any(
        _may_scale(reader, result, computed) for reader in uses.readers.get(result, ())
    )


def _has_constants(convolution: Node, normalization: Node) -> bool:
    """Are all operands but the convolution's input constant floats, and parameters one for each channel?"""
    weights = _floats(convolution.input(1))
    bias = [value for value in convolution.inputs[2:] if value is not None]
    others = [_floats(value) for value in (*normalization.inputs[1:], *bias)]
    return weights is not None and all(
        other is not None and other.shape == weights.shape[:1] for other in others
    )


def _floats(value: Value | None) -> npt.NDArray[Any] | None:
    """The elements of a constant of floats."""
    constant = None if value is None else value.constant
    return constant if constant is not None and DType.from_numpy(constant.dtype).is_float else None


def _may_scale(reader: Node, value: Value, computed: set[Value]) -> bool:
    """Could ``reader`` be a scale, a shift or a copy of ``value``?"""
    if reader.domain not in DOMAINS or reader.op_type not in _CURVED | _ARITHMETIC:
        return True
    others = [other for other in reader.inputs if other is not value]
    return reader.op_type in _ARITHMETIC and not computed.issuperset(others)


def _join(convolution: Node, normalization: Node) -> Node:
    x, w, *bias = convolution.inputs
    return Node(
        OP_TYPE,
        DOMAIN,
        1,
        (x, w, *normalization.inputs[1:], *bias),
        normalization.outputs,
        {**convolution.attributes, "epsilon": normalization.float("epsilon", 1e-5)},
        convolution.label,
        (normalization.label,),
    )
