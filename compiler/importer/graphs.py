"""From ``GraphProto`` to :class:`~onnxplan.compiler.ir.Graph`: names resolved, nodes checked and sorted."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import field

from onnx.onnx_ml_pb2 import AttributeProto, GraphProto, NodeProto, TensorShapeProto, TypeProto

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import InvalidModelError
from onnxplan.compiler.importer.schemas import attribute_type, check_node, newest_opset
from onnxplan.compiler.importer.tensors import TensorReader
from onnxplan.compiler.ir import (
    Attribute,
    Dim,
    Graph,
    MapType,
    Node,
    OptionalType,
    SequenceType,
    TensorType,
    Value,
    ValueType,
)
from onnxplan.compiler.records import dataclass

_PLAIN: dict[int, Callable[[AttributeProto], Attribute]] = {
    AttributeProto.FLOAT: lambda proto: proto.f,
    AttributeProto.INT: lambda proto: proto.i,
    AttributeProto.STRING: lambda proto: proto.s,
    AttributeProto.FLOATS: lambda proto: list(proto.floats),
    AttributeProto.INTS: lambda proto: list(proto.ints),
    AttributeProto.STRINGS: lambda proto: list(proto.strings),
}
_GRAPH, _GRAPHS = AttributeProto.GRAPH, AttributeProto.GRAPHS


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

    def define(self, value: Value, what: str) -> None:
        """Adds ``value``, which ``what`` describes in the error about a name that is taken or no name."""
        if not value.name:
            raise InvalidModelError(f"{what} has no name")
        text(value.name, what)
        if value.name in self.values:
            raise InvalidModelError(f"{what} {value.name!r}: there is another value of that name already")
        self.values[value.name] = value


class GraphImporter:
    """Imports the graphs of one model."""

    def __init__(self, reader: TensorReader, opsets: Mapping[str, int]) -> None:
        self._reader = reader
        self._opsets = opsets
        newest = newest_opset()
        # The schemas at hand say nothing about the operators of a newer opset.
        self._checked = {domain for domain, version in opsets.items() if domain or version <= newest}

    def run(self, proto: GraphProto, parent: _Scope | None = None) -> Graph:
        """The graph of ``proto``, with ``parent`` around it. Raises :class:`InvalidModelError`."""
        scope = _Scope(parent)
        graph = Graph(text(proto.name, "the graph's name"))
        for info in proto.input:
            value = Value(info.name, value_type(info.type))
            scope.define(value, "graph input")
            graph.inputs.append(value)
        self._initializers(proto, scope)
        types = {info.name: value_type(info.type) for info in [*proto.value_info, *proto.output]}
        for node_proto in _sorted_nodes(proto, scope):
            graph.nodes.append(self._node(node_proto, scope, types))
        for info in proto.output:
            found = scope.find(info.name)
            if found is None:
                hint = _suggestion(info.name, scope)
                raise InvalidModelError(f"graph output {info.name!r} is never computed{hint}")
            if found.type is None:
                found.type = types.get(info.name)
            graph.outputs.append(found)
        if parent is None:
            _check_outputs(graph)
        return graph

    def _initializers(self, proto: GraphProto, scope: _Scope) -> None:
        """Constants, and the defaults of graph inputs that have an initializer."""
        arrays = [(t.name, self._reader.read(t, f"initializer {t.name!r}")) for t in proto.initializer]
        arrays += [
            (s.values.name, self._reader.read_sparse(s, f"sparse initializer {s.values.name!r}"))
            for s in proto.sparse_initializer
        ]
        inputs = dict(scope.values)
        for name, array in arrays:
            found = TensorType(DType.from_numpy(array.dtype), array.shape)
            declared = inputs.get(name)
            if declared is None:
                scope.define(Value(name, found, constant=array), "initializer")
                continue
            if declared.default is not None:
                raise InvalidModelError(f"initializer {name!r}: there is another initializer of that name")
            if declared.type is None:
                declared.type = found
            elif not _agrees(declared.type, found):
                raise InvalidModelError(f"initializer {name!r} is {found}, its graph input {declared.type}")
            declared.default = array

    def _node(self, proto: NodeProto, scope: _Scope, types: Mapping[str, ValueType | None]) -> Node:
        op_type = text(proto.op_type, "the operator of a node")
        domain = text(proto.domain, f"the domain of a node ({op_type})")
        domain = "" if domain == "ai.onnx" else domain
        label = _label(proto)
        version = self._opsets.get(domain)
        if version is None:
            raise InvalidModelError(
                f"node {label!r} ({domain or 'ai.onnx'}::{op_type}): the model imports no operator set of "
                f"the domain {domain or 'ai.onnx'!r}"
            )
        if domain in self._checked:
            check_node(proto, domain, version, label)
        attributes = {a.name: self._attribute(a, scope, label) for a in proto.attribute}
        if len(attributes) != len(proto.attribute):
            raise InvalidModelError(f"node {label!r} ({op_type}) has an attribute twice")
        inputs = tuple([scope.find(name) if name else None for name in proto.input])
        outputs = tuple([Value(name, types.get(name)) if name else None for name in proto.output])
        for value in outputs:
            if value is not None:
                scope.define(value, f"output of node {label!r} ({op_type})")
        return Node(op_type, domain, version, inputs, outputs, attributes, text(proto.name, "a node's name"))

    def _attribute(self, proto: AttributeProto, scope: _Scope, label: str) -> Attribute:
        name = text(proto.name, f"the name of an attribute of node {label!r}")
        what = f"attribute {name!r} of node {label!r}"
        if proto.ref_attr_name:
            raise InvalidModelError(
                f"{what} refers to the function attribute {proto.ref_attr_name!r}, but is in no function"
            )
        kind = attribute_type(proto)
        plain = _PLAIN.get(kind)
        if plain is not None:
            return plain(proto)
        if kind == AttributeProto.TENSOR:
            return self._reader.read(proto.t, what)
        if kind == AttributeProto.TENSORS:
            return [self._reader.read(tensor, what) for tensor in proto.tensors]
        if kind == AttributeProto.SPARSE_TENSOR:
            return self._reader.read_sparse(proto.sparse_tensor, what)
        if kind == AttributeProto.SPARSE_TENSORS:
            return [self._reader.read_sparse(sparse, what) for sparse in proto.sparse_tensors]
        if kind == AttributeProto.GRAPH:
            return self.run(proto.g, scope)
        if kind == AttributeProto.GRAPHS:
            return [self.run(graph, scope) for graph in proto.graphs]
        if kind == AttributeProto.TYPE_PROTO:
            return value_type(proto.tp)
        if kind == AttributeProto.TYPE_PROTOS:
            return [value_type(item) for item in proto.type_protos]
        raise InvalidModelError(f"{what} has the unknown type {kind}")


def text(value: str | bytes, what: str) -> str:
    """``value``; raises :class:`InvalidModelError` where it is not UTF-8: protobuf gives it as bytes then."""
    if isinstance(value, str):
        return value
    raise InvalidModelError(f"{what} is not UTF-8: {value!r}")


def value_type(proto: TypeProto) -> ValueType | None:
    """The declared type, or ``None`` where none is declared, or one that there is no support for."""
    kind = proto.WhichOneof("value")
    if kind == "sequence_type":
        element = value_type(proto.sequence_type.elem_type)
        return None if element is None else SequenceType(element)
    if kind == "optional_type":
        element = value_type(proto.optional_type.elem_type)
        return None if element is None else OptionalType(element)
    if kind == "map_type":
        return _map_type(proto.map_type)
    if kind == "tensor_type":
        return _tensor_type(proto.tensor_type)
    return _tensor_type(proto.sparse_tensor_type) if kind == "sparse_tensor_type" else None


def _map_type(proto: TypeProto.Map) -> MapType | None:
    """Maps to scalars by integers or strings, which are all that operators know."""
    value = value_type(proto.value_type)
    try:
        key = DType.from_code(proto.key_type)
    except KeyError:
        return None
    if not isinstance(value, TensorType) or value.shape or not (key.is_integer or key is DType.STRING):
        return None
    return MapType(key, value.dtype)


def _tensor_type(tensor: TypeProto.Tensor | TypeProto.SparseTensor) -> TensorType | None:
    try:
        dtype = DType.from_code(tensor.elem_type)
    except KeyError:
        return None
    if not tensor.HasField("shape"):
        return TensorType(dtype, None)
    return TensorType(dtype, tuple([_dim(dim) for dim in tensor.shape.dim]))


def _dim(dim: TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return text(dim.dim_param, "the name of a dimension") or None


def _agrees(declared: ValueType, found: TensorType) -> bool:
    if not isinstance(declared, TensorType) or declared.dtype is not found.dtype:
        return False
    if declared.shape is None or found.shape is None:
        return True
    return len(declared.shape) == len(found.shape) and all(
        extent == dim or not isinstance(dim, int)
        for dim, extent in zip(declared.shape, found.shape, strict=True)
    )


def _check_outputs(graph: Graph) -> None:
    seen = set()
    for value in graph.outputs:
        if value.name in seen:
            raise InvalidModelError(f"graph output {value.name!r} is listed twice")
        seen.add(value.name)
    if not seen:
        raise InvalidModelError("the graph has no outputs")


def _label(proto: NodeProto) -> str:
    """As :attr:`Node.label`, for messages."""
    label = proto.name or next((name for name in proto.output if name), proto.op_type)
    return label if isinstance(label, str) else repr(label)


def _free_names(proto: NodeProto) -> list[str]:
    """Names that a node reads: its inputs, and what its subgraphs take from around them."""
    names = [name for name in proto.input if name]
    for attribute in proto.attribute:
        kind = attribute_type(attribute)
        if kind == _GRAPH:
            names += _captured_names(attribute.g)
        elif kind == _GRAPHS:
            names += [name for graph in attribute.graphs for name in _captured_names(graph)]
    return names


def _captured_names(graph: GraphProto) -> list[str]:
    own = {info.name for info in graph.input}
    own.update(tensor.name for tensor in graph.initializer)
    own.update(sparse.values.name for sparse in graph.sparse_initializer)
    own.update(name for node in graph.node for name in node.output)
    inner = [name for node in graph.node for name in _free_names(node)]
    inner += [info.name for info in graph.output]
    return [name for name in inner if name not in own]


def _sorted_nodes(proto: GraphProto, scope: _Scope) -> list[NodeProto]:
    """The nodes in topological order, as they stand where that is one; raises for undefined names, cycles."""
    nodes = list(proto.node)
    reads = [_free_names(node) for node in nodes]
    producers: dict[str, int] = {}
    in_order = True
    for position, (node, names) in enumerate(zip(nodes, reads, strict=True)):
        in_order = in_order and all(name in producers or scope.find(name) is not None for name in names)
        for name in node.output:
            producers.setdefault(name, position)
    if in_order:
        return nodes
    for node, names in zip(nodes, reads, strict=True):
        for name in names:
            if name not in producers and scope.find(name) is None:
                hint = _suggestion(name, scope, producers)
                raise InvalidModelError(
                    f"node {_label(node)!r} ({node.op_type}) reads {name!r}, which nothing defines{hint}"
                )
    needed = [[producers[name] for name in names if name in producers] for names in reads]
    return [nodes[position] for position in _topological_order(nodes, needed)]


def _topological_order(nodes: list[NodeProto], needed: list[list[int]]) -> Iterator[int]:
    """Positions of the nodes, each after those that it needs; raises for a cycle."""
    done: set[int] = set()
    for root in range(len(nodes)):
        if root in done:
            continue
        path: dict[int, None] = {root: None}
        stack = [(root, iter(needed[root]))]
        while stack:
            position, pending = stack[-1]
            following = next((other for other in pending if other not in done), None)
            if following is None:
                stack.pop()
                del path[position]
                done.add(position)
                yield position
            elif following in path:
                members = list(path)
                cycle = [*members[members.index(following) :], following]
                # A node needs the one after it: told in the direction of the data.
                labels = " -> ".join(repr(_label(nodes[member])) for member in reversed(cycle))
                raise InvalidModelError(f"the graph has a cycle: {labels}")
            else:
                path[following] = None
                stack.append((following, iter(needed[following])))


def _suggestion(name: str, scope: _Scope, produced: Collection[str] = ()) -> str:
    close = difflib.get_close_matches(str(name), [*map(str, produced), *scope.values], n=3)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
