"""Damages models: bytes of the file, or fields of the message, one to three at once."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper

INTEGERS = (0, 1, -1, 2, 3, -2, 7, 100, -100, 1 << 20, 1 << 31, -(1 << 31), 2**63 - 1, -(2**63))
FLOATS = (0.0, -1.0, 0.5, 1e30, -1e30, float("inf"), float("-inf"), float("nan"))
STRINGS = (b"", b"linear", b"SAME_UPPER", b"\xff\xfe", b"ij,jk->ik", b"reflect", b"tanh", b"x" * 300)
OPERATORS = (
    "Add MatMul Conv Reshape Transpose Gather Concat Split Slice Pad Softmax ReduceSum TopK Resize Tile "
    "Where ScatterND GatherND Squeeze Unsqueeze Loop If Scan OneHot Range NonZero CumSum Einsum Cast LSTM "
    "Expand QuantizeLinear DequantizeLinear MaxPool Shape Identity DepthToSpace Attention Trilu ConvTranspose"
).split()


def damaged_bytes(data: bytes, source: random.Random) -> bytes:
    """``data`` with a few bytes changed, removed, doubled or cut off."""
    changed = bytearray(data)
    for _ in range(source.choice((1, 1, 2, 8))):
        place = source.randrange(len(changed))
        kind = source.randrange(5)
        if kind == 0:
            changed[place] ^= 1 << source.randrange(8)
        elif kind == 1:
            changed[place] = source.randrange(256)
        elif kind == 2:
            del changed[place + 1 : place + source.randrange(2, 10)]
        elif kind == 3:
            changed[place:place] = changed[place : place + source.randrange(1, 9)]
        else:
            del changed[place + 1 :]
    return bytes(changed)


def damaged_model(model: ModelProto, source: random.Random) -> ModelProto:
    """A copy of ``model`` with a few fields changed."""
    changed = ModelProto()
    changed.CopyFrom(model)
    for _ in range(source.choice((1, 1, 1, 2, 3))):
        graph = source.choice(list(graphs(changed.graph)))
        source.choice(CHANGES)(changed, graph, source)
    return changed


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and those within."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from graphs(inner)


Change = Callable[[ModelProto, GraphProto, random.Random], None]


def _change_attribute(model: ModelProto, graph: GraphProto, source: random.Random) -> None:
    found = [attribute for node in graph.node for attribute in node.attribute]
    if not found:
        return _add_attribute(model, graph, source)
    attribute = source.choice(found)
    if attribute.type == AttributeProto.INT:
        attribute.i = source.choice(INTEGERS)
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = source.choice(FLOATS)
    elif attribute.type == AttributeProto.STRING:
        attribute.s = source.choice(STRINGS)
    elif attribute.type == AttributeProto.INTS:
        _change_list(attribute.ints, INTEGERS, source)
    elif attribute.type == AttributeProto.FLOATS:
        _change_list(attribute.floats, FLOATS, source)
    elif attribute.type == AttributeProto.STRINGS:
        _change_list(attribute.strings, STRINGS, source)
    elif attribute.type == AttributeProto.TENSOR:
        _damage_tensor(attribute.t, source)
    return None


def _change_list(items, values, source: random.Random) -> None:
    kind = source.randrange(4)
    if kind == 0 and items:
        del items[source.randrange(len(items)) :]
    elif kind == 1:
        items.append(source.choice(values))
    elif kind == 2 and items:
        items.append(items[0])
    elif items:
        items[source.randrange(len(items))] = source.choice(values)


def _add_attribute(model: ModelProto, graph: GraphProto, source: random.Random) -> None:
    """One that the operator has and the node has not, of the right type with an odd value."""
    node = source.choice(graph.node) if graph.node else None
    if node is None:
        return
    version = next((o.version for o in model.opset_import if o.domain == node.domain), 1)
    try:
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    except onnx.defs.SchemaError:
        return
    missing = sorted(set(schema.attributes) - {attribute.name for attribute in node.attribute})
    if not missing:
        return
    name = source.choice(missing)
    kinds = {
        "INT": lambda: source.choice(INTEGERS),
        "FLOAT": lambda: source.choice(FLOATS),
        "STRING": lambda: source.choice(STRINGS),
        "INTS": lambda: [source.choice(INTEGERS) for _ in range(source.randrange(1, 4))],
        "FLOATS": lambda: [source.choice(FLOATS) for _ in range(source.randrange(1, 4))],
        "STRINGS": lambda: [source.choice(STRINGS) for _ in range(source.randrange(1, 4))],
    }
    make = kinds.get(schema.attributes[name].type.name)
    if make is not None:
        node.attribute.append(helper.make_attribute(name, make()))


def _drop_attribute(model: ModelProto, graph: GraphProto, source: random.Random) -> None:
    nodes = [node for node in graph.node if node.attribute]
    if nodes:
        node = source.choice(nodes)
        if source.randrange(2):
            del node.attribute[source.randrange(len(node.attribute))]
        else:
            source.choice(node.attribute).type = source.randrange(15)


def _names(graph: GraphProto) -> list[str]:
    found = [info.name for info in graph.input] + [tensor.name for tensor in graph.initializer]
    return found + [name for node in graph.node for name in node.output]


def _change_input(model: ModelProto, graph: GraphProto, source: random.Random) -> None:
    """Another value, none, one more or one less; the node's own output makes a cycle."""
    node = source.choice(graph.node) if graph.node else None
    if node is None:
        return
    names = [*_names(graph), *_names(model.graph), ""]
    kind = source.randrange(4)
    if kind == 0 or not node.input:
        node.input.append(source.choice(names))
    elif kind == 1:
        del node.input[source.randrange(len(node.input))]
    else:
        node.input[source.randrange(len(node.input))] = source.choice(names)


def _change_output(model: ModelProto, graph: GraphProto, source: random.Random) -> None:
    node = source.choice(graph.node) if graph.node else None
    if node is None:
        return
    kind = source.randrange(4)
    if kind == 0 and graph.output:
        graph.output[source.randrange(len(graph.output))].name = source.choice(_names(graph) or [""])
    elif kind == 1:
        node.output.append(f"extra{len(node.output)}")
    elif kind == 2 and node.output:
        del node.output[-1]
    elif node.output:
        node.output[source.randrange(len(node.output))] = source.choice(_names(graph))


def _change_operator(model: ModelProto, graph: GraphProto, source: random.Random) -> None:
    if graph.node:
        node = source.choice(graph.node)
        node.op_type = source.choice(OPERATORS)
        if source.randrange(2):
            del node.attribute[:]


def _change_type(model: ModelProto, graph: GraphProto, source: random.Random) -> None:
    infos = [*graph.input, *graph.output, *graph.value_info]
    if not infos:
        return
    info = source.choice(infos)
    tensor = info.type.tensor_type
    kind = source.randrange(4)
    if kind == 0:
        tensor.elem_type = source.randrange(28)
    elif kind == 1 and tensor.shape.dim:
        source.choice(tensor.shape.dim).dim_value = source.choice((0, 1, 2, 3, 5, -1, 1 << 40))
    elif kind == 2:
        tensor.shape.dim.add().dim_value = source.choice((0, 1, 2))
    elif tensor.shape.dim:
        del tensor.shape.dim[source.randrange(len(tensor.shape.dim))]


def _change_initializer(model: ModelProto, graph: GraphProto, source: random.Random) -> None:
    if graph.initializer:
        _damage_tensor(source.choice(graph.initializer), source)


def _damage_tensor(tensor: TensorProto, source: random.Random) -> None:
    kind = source.randrange(6)
    if kind == 0:
        tensor.data_type = source.randrange(28)
    elif kind == 1 and tensor.dims:
        tensor.dims[source.randrange(len(tensor.dims))] = source.choice(INTEGERS)
    elif kind == 2:
        tensor.dims.append(source.choice((0, 1, 1, 2)))
    elif kind == 3 and tensor.raw_data:
        raw = bytearray(tensor.raw_data)
        for _ in range(source.randrange(1, 9)):
            raw[source.randrange(len(raw))] = source.choice((0, 1, 0x7F, 0x80, 0xFF, 3))
        tensor.raw_data = bytes(raw)
    elif kind == 4 and tensor.dims:
        del tensor.dims[-1]
    else:
        tensor.data_location = TensorProto.EXTERNAL
        for key, values in (
            ("location", ("missing.bin", "../outside.bin", "/etc/hostname", "", ".", "\x00")),
            ("offset", ("0", "-1", "x", str(1 << 62))),
            ("length", ("4", "-1", str(1 << 62))),
        ):
            if source.randrange(3):
                tensor.external_data.add(key=key, value=source.choice(values))


def _change_order(model: ModelProto, graph: GraphProto, source: random.Random) -> None:
    """Nodes in another order (which is valid), twice, or gone."""
    nodes = list(graph.node)
    kind = source.randrange(3)
    if kind == 0:
        source.shuffle(nodes)
    elif kind == 1 and nodes:
        nodes.append(source.choice(nodes))
    elif nodes:
        del nodes[source.randrange(len(nodes))]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _change_opset(model: ModelProto, graph: GraphProto, source: random.Random) -> None:
    if model.opset_import:
        source.choice(model.opset_import).version = source.choice(
            (1, 6, 9, 11, 12, 13, 17, 18, 20, 21, 23, 99, 0)
        )


CHANGES: tuple[Change, ...] = (
    _change_attribute,
    _change_attribute,
    _change_attribute,
    _add_attribute,
    _add_attribute,
    _drop_attribute,
    _change_input,
    _change_input,
    _change_output,
    _change_operator,
    _change_type,
    _change_type,
    _change_initializer,
    _change_initializer,
    _change_order,
    _change_opset,
)
