"""What only the model's message tells: types of values that are no tensors, denotations, inferred shapes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from onnxplan.compiler.dtypes import DType
from onnxplan.onnxruntime.types import type_name

if TYPE_CHECKING:
    import onnx

Shape = list[int | str | None]


def read_message(source: Any) -> onnx.ModelProto:
    """The message of the model at a path or in bytes, without its external data."""
    import onnx

    if isinstance(source, bytes):
        return onnx.load_model_from_string(source)
    return onnx.load(source, load_external_data=False)


def denoted_places(source: Any, sizes: Mapping[str, int]) -> dict[tuple[str, int], int]:
    """The sizes of the axes of inputs whose denotations are in ``sizes``, by input and axis."""
    return {
        (info.name, axis): sizes[dim.denotation]
        for info in read_message(source).graph.input
        for axis, dim in enumerate(info.type.tensor_type.shape.dim)
        if dim.denotation in sizes
    }


def declared(source: Any) -> dict[str, tuple[str, Shape]]:
    """Type and shape of each input and output, by name, inferred where the message does not declare them."""
    import onnx

    message = read_message(source)
    known = {dim.dim_param for info in _infos(message) for dim in _dims(info.type)}
    # Where inference fails, as for messages of more than 2 GiB, what is declared is all there is.
    with suppress(onnx.shape_inference.InferenceError, ValueError):
        message = onnx.shape_inference.infer_shapes(message, data_prop=True)
    return {info.name: (_type_text(info.type), _shape(info.type, known)) for info in _infos(message)}


def _infos(message: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    return [*message.graph.input, *message.graph.output]


def _type_text(proto: onnx.TypeProto) -> str:
    """``seq(map(int64,tensor(float)))``"""
    match proto.WhichOneof("value"):
        case "tensor_type":
            return _tensor_text(proto.tensor_type.elem_type)
        case "sparse_tensor_type":
            return f"sparse_{_tensor_text(proto.sparse_tensor_type.elem_type)}"
        case "sequence_type":
            return f"seq({_type_text(proto.sequence_type.elem_type)})"
        case "optional_type":
            return f"optional({_type_text(proto.optional_type.elem_type)})"
        case "map_type":
            key = DType.from_code(proto.map_type.key_type).label
            return f"map({key},{_type_text(proto.map_type.value_type)})"
    return ""


def _tensor_text(code: int) -> str:
    return type_name(DType.from_code(code)) if code else ""


def _dims(proto: onnx.TypeProto) -> Sequence[Any]:
    """The dimensions of a tensor or of an optional one; none of other types."""
    if proto.WhichOneof("value") == "optional_type":
        return _dims(proto.optional_type.elem_type)
    dims: Sequence[Any] = proto.tensor_type.shape.dim
    return dims


def _shape(proto: onnx.TypeProto, known: Collection[str]) -> Shape:
    shape: Shape = []
    for dim in _dims(proto):
        if dim.HasField("dim_value"):
            shape.append(dim.dim_value if dim.dim_value >= 0 else None)
        else:
            # Names that inference makes up tell nothing.
            shape.append((dim.dim_param if dim.dim_param in known else None) or None)
    return shape
