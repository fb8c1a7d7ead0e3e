"""Operators between DequantizeLinear and QuantizeLinear become operators on the integers themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from onnxplan.compiler.ir import Attribute, Graph, Model, Node, Value
from onnxplan.compiler.rewrites.quantized_products import OPSET, Products, Target
from onnxplan.compiler.rewrites.quantized_values import Knowledge, Parameters, Quantized, is_operator
from onnxplan.compiler.rewrites.uses import Uses

_MOVING = frozenset(
    [
        "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "MaxPool",
        "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
    ]
)  # fmt: skip
"""Operators that only pick elements of their first input: the same of numbers as of what they stand for."""


def integer_operators(model: Model) -> Model:
    """``model`` with integer arithmetic where DequantizeLinear and QuantizeLinear say how.

    * Convolutions and products of dequantised bytes become QLinearConv, QLinearMatMul and QGemm where their
      result is quantised, and products of integers with a real factor where it is not.
    * What only moves elements, and MaxPool, moves the bytes; Concat of several scales is a QLinearConcat.
    * Bytes that are dequantised and quantised again with the same parameters stay as they are.

    Everything else between the two is elementwise or a reduction; passes fuse it with both. Requires sorted
    nodes. Ensures that all outputs of the graph keep their names and types, and that values change by the
    rounding of a quotient at most, so by one quantum. Sums are taken to fit into 32 bits where no constant
    shows how long they are: that is up to 33,000 products of the largest bytes. ``model`` is left as it is.
    """
    if not any(is_operator(node, "DequantizeLinear") for node in model.graph.walk()):
        return model
    return replace(model, graph=_Rewriter(model.graph, Knowledge(), {}).run())


class _Rewriter:
    """Rewrites one graph. ``knowledge`` and ``moved`` come from the graphs around it."""

    def __init__(self, graph: Graph, knowledge: Knowledge, moved: dict[Value, Value]) -> None:
        self._graph = graph
        self._knowledge = knowledge.copy()
        self._moved = dict(moved)
        """What stands for values that are no longer computed."""
        self._products = Products(self._knowledge, self._quantization_of)
        self._nodes: list[Node] = []
        self._done: set[Node] = set()
        self._uses = Uses.of(graph)

    def run(self) -> Graph:
        for node in self._graph.nodes:
            if node not in self._done:
                self._nodes += self._rewritten(self._renamed(node))
        for value in self._graph.outputs:
            if value in self._moved:
                self._nodes.append(Node("Identity", "", 1, (self._moved[value],), (value,)))
        return Graph(self._graph.name, self._graph.inputs, self._graph.outputs, self._read_nodes())

    def _read_nodes(self) -> list[Node]:
        """The nodes without those that were read before, and no longer are."""
        read = set(self._graph.outputs)
        kept = []
        for node in reversed(self._nodes):
            outputs = [value for value in node.outputs if value is not None]
            unread_before = not any(
                value in self._uses.readers or value in self._uses.shown for value in outputs
            )
            if any(value in read for value in outputs) or unread_before:
                kept.append(node)
                read.update(value for value in node.inputs if value is not None)
                for subgraph in node.subgraphs:
                    read.update(subgraph.captures())
        return kept[::-1]

    def _renamed(self, node: Node) -> Node:
        """``node`` with its inputs, and its subgraphs, brought up to date."""
        inputs = tuple(None if v is None else self._moved.get(v, v) for v in node.inputs)
        attributes = node.attributes
        if any(True for _ in node.subgraphs):
            attributes = {name: self._inner(value) for name, value in attributes.items()}
        if inputs == node.inputs and attributes is node.attributes:
            return node
        return replace(node, inputs=inputs, attributes=attributes)

    def _inner(self, value: Attribute) -> Attribute:
        if isinstance(value, list):
            return [self._inner(item) for item in value]
        return _Rewriter(value, self._knowledge, self._moved).run() if isinstance(value, Graph) else value

    def _rewritten(self, node: Node) -> Sequence[Node]:
        standard = node.domain in ("", "ai.onnx")
        if is_operator(node, "QuantizeLinear"):
            return self._requantized(node)
        if is_operator(node, "DequantizeLinear"):
            self._knowledge.note_dequantization(node)
        elif standard and node.op_type == "Constant":
            self._knowledge.note_constant(node)
        elif standard and node.op_type in _MOVING:
            return self._moving(node)
        elif standard and node.op_type == "Concat":
            return self._concatenated(node)
        elif standard and (found := self._products.rewritten(node)) is not None:
            self._done.update(found.replaced)
            return found.nodes
        return [node]

    # Quantisation

    def _requantized(self, node: Node) -> Sequence[Node]:
        found, target = self._knowledge.quantized(node.input(0)), self._knowledge.target(node)
        result = node.outputs[0]
        if found is None or target is None or result is None or not target.equals(found.parameters):
            return [node]
        self._moved[result] = found.numbers
        return []

    def _quantization_of(self, value: Value) -> Target | None:
        """If nothing reads ``value`` but its quantisation to bytes: that one's result and parameters.

        Relu and Clip may lie between, where the range of the bytes does what they do. Also returns the nodes
        on the way.
        """
        way: list[Node] = []
        while value not in self._uses.shown and len(readers := self._uses.readers.get(value, [])) == 1:
            node = readers[0]
            result = node.outputs[0]
            if node.input(0) is not value or result is None:
                return None
            if is_operator(node, "QuantizeLinear"):
                found = self._knowledge.target(node)
                if found is None or not all(self._is_idle(other, found) for other in way):
                    return None
                return result, found, (*way, node)
            if not any(is_operator(node, name) for name in ("Relu", "Clip")):
                return None
            way.append(node)
            value = result
        return None

    def _is_idle(self, node: Node, parameters: Parameters) -> bool:
        """Does saturation to the range of the bytes bound values as closely as ``node``, a Relu or Clip?"""
        limits = np.iinfo(parameters.dtype.numpy)
        lower, upper = (0.0, np.inf) if node.op_type == "Relu" else self._bounds(node)
        with np.errstate(over="ignore"):
            quotients = np.array([lower, upper], np.float32) / parameters.scale
        lowest, highest = np.round(quotients) + float(parameters.zero)
        return bool(lowest <= limits.min and highest >= limits.max)

    def _bounds(self, node: Node) -> tuple[float, float]:
        """The bounds of a Clip; NaN, which compares with nothing, where only a run knows them."""
        found = []
        for name, position, missing in (("min", 1, -np.inf), ("max", 2, np.inf)):
            constant = self._knowledge.constant(node.input(position))
            if node.input(position) is None:
                found.append(node.float(name, missing))
            else:
                found.append(np.nan if constant is None or constant.size != 1 else float(constant.item()))
        return found[0], found[1]

    # What moves elements

    def _moving(self, node: Node) -> Sequence[Node]:
        found = self._knowledge.quantized(node.input(0))
        outputs = [value for value in node.outputs if value is not None]
        if found is None or not found.parameters.covers_tensor:
            return [node]
        if node.op_type == "MaxPool" and outputs != [node.outputs[0]]:
            return [node]
        return self._on_numbers(node, (found.numbers, *node.inputs[1:]), found.parameters)

    def _on_numbers(self, node: Node, inputs: tuple[Value | None, ...], parameters: Parameters) -> list[Node]:
        """``node`` of numbers, and its real outputs."""
        results = tuple(None if value is None else _numbers(value) for value in node.outputs)
        moved = replace(node, inputs=inputs, outputs=results)
        return [moved, *self._dequantized(node, results, parameters)]

    def _dequantized(
        self, node: Node, results: Sequence[Value | None], parameters: Parameters
    ) -> Iterator[Node]:
        for numbers, value in zip(results, node.outputs, strict=True):
            if numbers is not None and value is not None:
                self._knowledge.real[value] = Quantized(numbers, parameters)
                inputs = Quantized(numbers, parameters).triple
                yield Node("DequantizeLinear", "", OPSET, inputs, (value,), {}, node.name)

    def _concatenated(self, node: Node) -> Sequence[Node]:
        parts = [part for value in node.inputs if (part := self._knowledge.quantized(value)) is not None]
        result = node.outputs[0]
        if result is None or not parts or len(parts) < len(node.inputs):
            return [node]
        first = parts[0].parameters
        if not all(part.parameters.covers_tensor and part.parameters.dtype is first.dtype for part in parts):
            return [node]
        if all(part.parameters.equals(first) for part in parts):
            return self._on_numbers(node, tuple(part.numbers for part in parts), first)
        target = self._quantization_of(result)
        if target is None:
            return [node]
        quantized, parameters, way = target
        self._done.update(way)
        inputs = [*parameters.values(quantized.name), *(value for part in parts for value in part.triple)]
        axis = {"axis": node.integer("axis", 1)}
        return [Node("QLinearConcat", "com.microsoft", 1, tuple(inputs), (quantized,), axis, node.name)]


def _numbers(value: Value) -> Value:
    """A value for the numbers behind ``value``."""
    return Value(f"{value.name}.numbers")
