"""Who reads the values of a graph."""

from __future__ import annotations

from onnxplan.compiler.ir import Graph, Node, Value
from onnxplan.compiler.records import dataclass


@dataclass(frozen=True, slots=True)
class Uses:
    """``readers`` are the nodes that read each value, once for each input.

    ``shown`` are the values that others may read: outputs of the graph, and what subgraphs capture.
    """

    readers: dict[Value, list[Node]]
    shown: set[Value]

    @staticmethod
    def of(graph: Graph) -> Uses:
        readers: dict[Value, list[Node]] = {}
        shown = set(graph.outputs)
        for node in graph.nodes:
            for value in node.inputs:
                if value is not None:
                    readers.setdefault(value, []).append(node)
            for subgraph in node.subgraphs:
                shown.update(subgraph.captures())
        return Uses(readers, shown)
