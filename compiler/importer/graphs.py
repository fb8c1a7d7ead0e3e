"""From ``GraphProto`` to :class:`~onnxplan.compiler.ir.Graph`: names resolved, nodes checked and sorted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TypeProto

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import InvalidModelError
from onnxplan.compiler.importer.tensors import TensorReader
from onnxplan.compiler.ir import Attribute, Dim, Graph, Node, TensorType, Value

_KINDS = AttributeProto.AttributeType


@dataclass(slots=True)
class _Scope:
    """The names of a graph and of those around it."""

    parent: _Scope | None = None
    values: dict[str, Value] = field(default_factory=dict)

    def find(self, name: str) -> Value | None:
        scope: _Scope | None = self
        while scope is not None:
            value = scope.values.get(name)
            if value is not None:
                return value
            scope = scope.parent
        return None


class GraphImporter:
    """Imports the graphs of one model."""

    def __init__(self, reader: TensorReader, opsets: Mapping[str, int]) -> None:
        self._reader = reader
        self._opsets = opsets

    def run(self, proto: GraphProto, parent: _Scope | None = None) -> Graph:
        scope = _Scope(parent)
        graph = Graph(proto.name)
        for info in proto.input:
            value = Value(info.name, tensor_type(info.type))
            self._define(scope, value, "graph input")
            graph.inputs.append(value)
        self._initializers(proto, scope, set(graph.inputs))
        types = {info.name: tensor_type(info.type) for info in [*proto.value_info, *proto.output]}
        for node_proto in _sorted_nodes(proto, scope):
            graph.nodes.append(self._node(node_proto, scope, types))
        for info in proto.output:
            found = scope.find(info.name)
            if found is None:
                raise InvalidModelError(f"graph output {info.name!r} is never computed")
            if found.type is None:
                found.type = types.get(info.name)
            graph.outputs.append(found)
        names = [value.name for value in graph.outputs]
        for name in names:
            if parent is None and names.count(name) > 1:
                raise InvalidModelError(f"graph output {name!r} is listed twice")
        return graph

    @staticmethod
    def _define(scope: _Scope, value: Value, what: str) -> None:
        if value.name in scope.values:
            raise InvalidModelError(f"{what} {value.name!r}: there is another value of that name already")
        scope.values[value.name] = value

    def _initializers(self, proto: GraphProto, scope: _Scope, inputs: set[Value]) -> None:
        arrays = [(t.name, self._reader.read(t, f"initializer {t.name!r}")) for t in proto.initializer]
        arrays += [
            (s.values.name, self._reader.read_sparse(s, f"sparse initializer {s.values.name!r}"))
            for s in proto.sparse_initializer
        ]
        seen: set[str] = set()
        for name, array in arrays:
            if name in seen:
                raise InvalidModelError(f"initializer {name!r}: there is another initializer of that name")
            seen.add(name)
            dtype = DType.from_numpy(array.dtype)
            known = scope.values.get(name)
            if known is None:
                scope.values[name] = Value(name, TensorType(dtype, array.shape), constant=array)
            elif known in inputs:
                known.default = array
                if known.type is None:
                    known.type = TensorType(dtype, array.shape)

    def _node(self, proto: NodeProto, scope: _Scope, types: Mapping[str, TensorType | None]) -> Node:
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        label = proto.name or next(iter(proto.output), proto.op_type)
        version = self._opsets.get(domain)
        if version is None:
            raise InvalidModelError(
                f"node {label!r} ({domain or 'ai.onnx'}::{proto.op_type}): the model imports no operator set "
                f"of the domain {domain or 'ai.onnx'!r}"
            )
        attributes = {a.name: self._attribute(a, scope, label) for a in proto.attribute}
        if len(attributes) != len(proto.attribute):
            raise InvalidModelError(f"node {label!r} ({proto.op_type}) has an attribute twice")
        inputs = tuple(scope.find(name) if name else None for name in proto.input)
        outputs = tuple(Value(name, types.get(name)) if name else None for name in proto.output)
        for value in outputs:
            if value is not None:
                self._define(scope, value, f"output of node {label!r} ({proto.op_type})")
        node = Node(proto.op_type, domain, version, inputs, outputs, attributes, proto.name)
        _check_schema(node, proto)
        return node

    def _attribute(self, proto: AttributeProto, scope: _Scope, label: str) -> Attribute:
        what = f"attribute {proto.name!r} of node {label!r}"
        kind = proto.type
        if kind == _KINDS.TENSOR:
            return self._reader.read(proto.t, what)
        if kind == _KINDS.TENSORS:
            return [self._reader.read(tensor, what) for tensor in proto.tensors]
        if kind == _KINDS.SPARSE_TENSOR:
            return self._reader.read_sparse(proto.sparse_tensor, what)
        if kind == _KINDS.GRAPH:
            return self.run(proto.g, scope)
        if kind == _KINDS.GRAPHS:
            return [self.run(graph, scope) for graph in proto.graphs]
        if kind == _KINDS.TYPE_PROTO:
            return tensor_type(proto.tp)
        if kind in (_KINDS.FLOAT, _KINDS.INT, _KINDS.STRING, _KINDS.FLOATS, _KINDS.INTS, _KINDS.STRINGS):
            value = onnx.helper.get_attribute_value(proto)
            return list(value) if kind in (_KINDS.FLOATS, _KINDS.INTS, _KINDS.STRINGS) else value
        raise InvalidModelError(f"{what} has the unknown type {kind}")


def tensor_type(proto: TypeProto) -> TensorType | None:
    """The declared type of a tensor, or ``None`` where none or another kind is declared."""
    kind = proto.WhichOneof("value")
    if kind not in ("tensor_type", "sparse_tensor_type"):
        return None
    tensor = getattr(proto, kind)
    try:
        dtype = DType.from_code(tensor.elem_type)
    except KeyError:
        return None
    if not tensor.HasField("shape"):
        return TensorType(dtype, None)
    return TensorType(dtype, tuple(_dim(dim) for dim in tensor.shape.dim))


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return dim.dim_param or None


def _free_names(proto: NodeProto) -> list[str]:
    """Names that a node reads: its inputs, and what its subgraphs take from around them."""
    names = [name for name in proto.input if name]
    for attribute in proto.attribute:
        graphs = ([attribute.g] if attribute.type == _KINDS.GRAPH else []) + list(attribute.graphs)
        for graph in graphs:
            own = {info.name for info in graph.input}
            own.update(tensor.name for tensor in graph.initializer)
            own.update(sparse.values.name for sparse in graph.sparse_initializer)
            own.update(name for node in graph.node for name in node.output)
            inner = [name for node in graph.node for name in _free_names(node)]
            inner += [info.name for info in graph.output]
            names += [name for name in inner if name not in own]
    return names


def _sorted_nodes(proto: GraphProto, scope: _Scope) -> list[NodeProto]:
    """The nodes in topological order: unchanged where they stand so. Raises for undefined names and cycles."""
    producers: dict[str, int] = {}
    for position, node in enumerate(proto.node):
        for name in node.output:
            producers.setdefault(name, position)
    reads = [_free_names(node) for node in proto.node]
    for node, names in zip(proto.node, reads, strict=True):
        for name in names:
            if name not in producers and scope.find(name) is None:
                label = node.name or next(iter(node.output), node.op_type)
                raise InvalidModelError(
                    f"node {label!r} ({node.op_type}) reads {name!r}, which nothing defines"
                )
    done: set[int] = set()
    order: list[int] = []
    for root in range(len(proto.node)):
        if root in done:
            continue
        path: dict[int, None] = {root: None}
        stack = [(root, iter(reads[root]))]
        while stack:
            position, names = stack[-1]
            pending = (producers[name] for name in names if name in producers)
            needed = next((producer for producer in pending if producer not in done), None)
            if needed is None:
                done.add(position)
                order.append(position)
                stack.pop()
                del path[position]
            elif needed in path:
                members = list(path)
                cycle = members[members.index(needed) :]
                labels = " -> ".join(
                    repr(proto.node[p].name or next(iter(proto.node[p].output), "")) for p in [*cycle, needed]
                )
                raise InvalidModelError(f"the graph has a cycle: {labels}")
            else:
                path[needed] = None
                stack.append((needed, iter(reads[needed])))
    return [proto.node[position] for position in order]


def _check_schema(node: Node, proto: NodeProto) -> None:
    """Arity and attributes against the operator's schema, where onnx has one."""
    try:
        schema = onnx.defs.get_schema(node.op_type, node.version, node.domain)
    except onnx.defs.SchemaError:
        return
    what = f"node {node.label!r} ({node.op_type}, opset {node.version})"
    for kind, found, low, high in (
        ("inputs", len(node.inputs), schema.min_input, schema.max_input),
        ("outputs", len(node.outputs), schema.min_output, schema.max_output),
    ):
        if not low <= found <= high:
            expected = (
                str(low) if low == high else f"{low} to {high}" if high < 2**31 - 1 else f"at least {low}"
            )
            raise InvalidModelError(f"{what} has {found} {kind}; expected {expected}")
    for position, formal in enumerate(schema.inputs[: len(node.inputs)]):
        required = formal.option == onnx.defs.OpSchema.FormalParameterOption.Single
        if required and node.inputs[position] is None:
            raise InvalidModelError(f"{what} lacks its input {formal.name!r}")
    for attribute in proto.attribute:
        known = schema.attributes.get(attribute.name)
        if known is None:
            raise InvalidModelError(f"{what} has no attribute {attribute.name!r}")
        if int(known.type.value) != attribute.type:
            raise InvalidModelError(
                f"{what}: attribute {attribute.name!r} is of type {_KINDS.Name(attribute.type)}, "
                f"expected {known.type.name}"
            )
    for name, known in schema.attributes.items():
        if known.required and name not in node.attributes:
            raise InvalidModelError(f"{what} lacks its attribute {name!r}")
