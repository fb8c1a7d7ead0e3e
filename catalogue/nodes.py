"""From a specimen to a model of one node, with its feeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from catalogue.specimen import Array, Many, Specimen, Types, draw, element_types, generator
from onnxplan.compiler.dtypes import DType

# Sequences are taken apart and put together by operators of this version.
SEQUENCES_SINCE = 11


@dataclass(frozen=True, slots=True)
class Bound:
    """A specimen for one version of its operator and one choice of types.

    ``nodes`` read ``feeds`` by name (tensors of element types ``dtypes``) and yield ``outputs``, names and
    types.
    """

    op_type: str
    domain: str
    version: int
    nodes: tuple[NodeProto, ...]
    feeds: Mapping[str, Array]
    dtypes: Mapping[str, DType]
    outputs: Mapping[str, DType]

    def model(self, *, opset: int | None = None, constant: bool = False) -> ModelProto:
        """The model; all inputs are initializers if ``constant``. ``opset`` replaces the version."""
        inputs = [
            helper.make_tensor_value_info(name, self.dtypes[name].code, array.shape)
            for name, array in self.feeds.items()
        ]
        graph = helper.make_graph(
            list(self.nodes),
            "specimen",
            [] if constant else inputs,
            [helper.make_tensor_value_info(name, dtype.code, None) for name, dtype in self.outputs.items()],
            [tensor(array, name) for name, array in self.feeds.items()] if constant else [],
        )
        imports = [helper.make_opsetid(self.domain, self.version if opset is None else opset)]
        if self.domain:
            imports.append(helper.make_opsetid("", 21))
        model: ModelProto = helper.make_model(graph, opset_imports=imports)
        return model


def tensor(array: Array, name: str = "") -> TensorProto:
    """``array`` as a ``TensorProto``."""
    return numpy_helper.from_array(np.asarray(array), name)


def bind(schema: Any, specimen: Specimen, types: Types, feeds: Mapping[str, Array] | None = None) -> Bound:
    """The node of ``specimen`` for ``schema`` and ``types``; ``feeds`` replaces what would be drawn."""
    random = generator(schema.name)
    nodes: list[NodeProto] = []
    arrays: dict[str, Array] = {}
    dtypes: dict[str, DType] = {}
    names = []
    for position, item in enumerate(specimen.inputs):
        if item is None:
            names.append("")
            continue
        formal = schema.inputs[min(position, len(schema.inputs) - 1)]
        dtype = type_of(formal, types)
        name = f"x{position}"
        if isinstance(item, Many):
            pieces = [(f"{name}_{number}", each) for number, each in enumerate(item.items)]
        else:
            pieces = [(name, item)]
        for piece, each in pieces:
            drawn = draw(each, dtype, random)
            arrays[piece] = drawn if feeds is None else feeds[piece].astype(dtype.numpy)
            dtypes[piece] = dtype
        if isinstance(item, Many):
            nodes.append(helper.make_node("SequenceConstruct", [piece for piece, _ in pieces], [name]))
        elif kind_of(formal, types) == "optional":
            nodes.append(helper.make_node("Optional", [name], [f"{name}_optional"]))
            name += "_optional"
        names.append(name)
    while names and not names[-1]:
        names.pop()
    attributes = {
        name: value(types) if callable(value) else value for name, value in specimen.attributes.items()
    }
    results = [f"y{position}" for position in range(specimen.outputs)]
    node = helper.make_node(schema.name, names, results, domain=schema.domain, **attributes)
    nodes.append(node)
    outputs: dict[str, DType] = {}
    for position, name in enumerate(results):
        formal = schema.outputs[min(position, len(schema.outputs) - 1)]
        dtype = type_of(formal, types)
        kind = kind_of(formal, types)
        if kind == "seq":
            for number in range(specimen.elements):
                nodes += _element(name, number)
                outputs[f"{name}_{number}"] = dtype
            if not specimen.elements:
                nodes.append(helper.make_node("SequenceLength", [name], [f"{name}_length"]))
                outputs[f"{name}_length"] = DType.INT64
        elif kind == "optional":
            nodes.append(helper.make_node("OptionalGetElement", [name], [f"{name}_element"]))
            outputs[f"{name}_element"] = dtype
        else:
            outputs[name] = dtype
    return Bound(schema.name, schema.domain, schema.since_version, tuple(nodes), arrays, dtypes, outputs)


def _element(sequence: str, number: int) -> list[NodeProto]:
    position = f"{sequence}_position{number}"
    return [
        helper.make_node("Constant", [], [position], value=tensor(np.array(number, np.int64))),
        helper.make_node("SequenceAt", [sequence, position], [f"{sequence}_{number}"]),
    ]


def kind_of(formal: Any, types: Types) -> str:
    """``tensor``, ``seq``, ``optional`` or ``map``: what a formal parameter holds."""
    texts = sorted(formal.types)
    if any(text.startswith("tensor") for text in texts):
        return "tensor"
    return str(texts[0].partition("(")[0])


def type_of(formal: Any, types: Types) -> DType:
    """The element type of a formal parameter."""
    if formal.type_str in types:
        return types[formal.type_str]
    return element_types([formal.type_str])[0]


def body(
    nodes: list[NodeProto], inputs: list[tuple[str, DType, Any]], outputs: list[tuple[str, DType, Any]]
) -> GraphProto:
    """A subgraph; inputs and outputs are names, types and shapes."""

    def info(items: list[tuple[str, DType, Any]]) -> list[ValueInfoProto]:
        return [helper.make_tensor_value_info(name, dtype.code, shape) for name, dtype, shape in items]

    return helper.make_graph(nodes, "body", info(inputs), info(outputs))
