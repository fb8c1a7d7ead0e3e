"""Splits the bytes of a model into its structure and its large tensors, which stay where they are.

Parsing a whole model copies all of its weights twice: into the message, and again when they are read. Here
the fields of the serialised message are walked first. Those that lead to tensors are followed where they are
large, and each large ``raw_data`` is replaced by a reference to its place, written like one to an external
file.
Encoding: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from onnx.onnx_ml_pb2 import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    StringStringEntryProto,
    TensorProto,
)

SELF = "\0"
"""The location of tensors that lie in the model's own bytes; no file can have this name."""

MINIMUM_BYTES = 4096
"""Smaller tensors are copied with the structure."""

DEPTH_LIMIT = 100
"""Messages nested deeper are refused, as protobuf refuses them."""

_RAW_DATA = TensorProto.RAW_DATA_FIELD_NUMBER
_CHILDREN: dict[type, dict[int, type]] = {
    ModelProto: {ModelProto.GRAPH_FIELD_NUMBER: GraphProto, ModelProto.FUNCTIONS_FIELD_NUMBER: FunctionProto},
    GraphProto: {
        GraphProto.NODE_FIELD_NUMBER: NodeProto,
        GraphProto.INITIALIZER_FIELD_NUMBER: TensorProto,
        GraphProto.SPARSE_INITIALIZER_FIELD_NUMBER: SparseTensorProto,
    },
    FunctionProto: {FunctionProto.NODE_FIELD_NUMBER: NodeProto},
    NodeProto: {NodeProto.ATTRIBUTE_FIELD_NUMBER: AttributeProto},
    AttributeProto: {
        AttributeProto.T_FIELD_NUMBER: TensorProto,
        AttributeProto.TENSORS_FIELD_NUMBER: TensorProto,
        AttributeProto.G_FIELD_NUMBER: GraphProto,
        AttributeProto.GRAPHS_FIELD_NUMBER: GraphProto,
        AttributeProto.SPARSE_TENSOR_FIELD_NUMBER: SparseTensorProto,
        AttributeProto.SPARSE_TENSORS_FIELD_NUMBER: SparseTensorProto,
    },
    SparseTensorProto: {
        SparseTensorProto.VALUES_FIELD_NUMBER: TensorProto,
        SparseTensorProto.INDICES_FIELD_NUMBER: TensorProto,
    },
    TensorProto: {},
}


class WireError(ValueError):
    """The bytes are no serialised message; the text says where that shows."""


def detach_tensors(data: memoryview) -> bytes:
    """A serialised ``ModelProto`` as ``data``, but with its large tensors as references to ``SELF``.

    ``offset`` and ``length`` of such a reference count bytes of ``data``. Raises :class:`WireError` where the
    walk comes upon something that is no message; what it does not enter stays unchecked.
    """
    pieces: list[bytes | memoryview] = []
    _copy_message(data, 0, len(data), ModelProto, 0, pieces)
    return b"".join(pieces)


def _copy_message(
    data: memoryview, start: int, end: int, kind: type, depth: int, pieces: list[bytes | memoryview]
) -> int:
    """Appends the message of type ``kind`` in ``data[start:end]`` to ``pieces``; returns its new length."""
    if depth > DEPTH_LIMIT:
        raise WireError(f"messages are nested more than {DEPTH_LIMIT} deep")
    children = _CHILDREN[kind]
    position = copied = start
    length = end - start
    raw: tuple[int, int] | None = None
    while position < end:
        field = position
        tag, position = _varint(data, position, end)
        wire_type = tag & 7
        if wire_type == 2:
            size, body = _varint(data, position, end)
            position = body + size
            if position > end:
                raise WireError(
                    f"the field at byte {field} claims {size} bytes, but only {end - body} are left of what "
                    "holds it"
                )
            if size < MINIMUM_BYTES:
                continue
            number = tag >> 3
            if kind is TensorProto and number == _RAW_DATA:
                raw = body, size
                pieces.append(data[copied:field])
                length -= position - field
                copied = position
            elif number in children:
                pieces.append(data[copied:field])
                header = len(pieces)
                pieces.append(b"")
                inner = _copy_message(data, body, position, children[number], depth + 1, pieces)
                pieces[header] = _encode(tag) + _encode(inner)
                length += len(pieces[header]) + inner - (position - field)
                copied = position
        elif wire_type == 0:
            _, position = _varint(data, position, end)
        elif wire_type in (1, 5):
            position += 8 if wire_type == 1 else 4
            if position > end:
                raise WireError(f"the field at byte {field} is cut off")
        else:
            raise WireError(f"byte {field} does not begin a field")
    pieces.append(data[copied:end])
    if raw is not None:
        pieces.append(_reference(*raw))
        length += len(pieces[-1])
    return length


def _varint(data: memoryview, position: int, end: int) -> tuple[int, int]:
    """The integer of variable length at ``position``, and the position after it."""
    value = shift = 0
    for place in range(position, min(position + 10, end)):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
        shift += 7
    raise WireError(f"the number at byte {position} is {'cut off' if end - position < 10 else 'too long'}")


def _encode(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _reference(offset: int, length: int) -> bytes:
    """Fields of a ``TensorProto`` that refer to bytes of the model itself."""
    tensor = TensorProto(data_location=TensorProto.EXTERNAL)
    entries = {"location": SELF, "offset": str(offset), "length": str(length)}
    tensor.external_data.extend(
        StringStringEntryProto(key=key, value=value) for key, value in entries.items()
    )
    encoded: bytes = tensor.SerializeToString()
    return encoded
