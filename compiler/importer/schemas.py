"""Arity and attributes of nodes, checked against the schemas that the onnx package brings."""

from __future__ import annotations

import difflib
import functools
from typing import Any

from onnx.onnx_cpp2py_export import defs
from onnx.onnx_ml_pb2 import AttributeProto, NodeProto

from onnxplan.compiler.errors import InvalidModelError
from onnxplan.compiler.records import dataclass

_UNBOUNDED = 2**31 - 1
_TYPES: dict[str, int] = dict(AttributeProto.AttributeType.items())
_TYPE_NAMES = {number: name.lower() for name, number in _TYPES.items()}


@dataclass(frozen=True, slots=True)
class _Schema:
    """What a node of an operator must look like: least and most inputs and outputs, types of attributes."""

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    required_inputs: tuple[tuple[int, str], ...]
    variadic_input: tuple[int, str] | None
    attributes: dict[str, int]
    required_attributes: tuple[str, ...]


@functools.lru_cache(maxsize=1024)
def _schema(op_type: str, version: int, domain: str) -> _Schema | None:
    try:
        found: Any = defs.get_schema(op_type, version, domain)
    except defs.SchemaError:
        return None
    options = defs.OpSchema.FormalParameterOption
    required = {
        option: [
            (number, formal.name) for number, formal in enumerate(found.inputs) if formal.option == option
        ]
        for option in (options.Single, options.Variadic)
    }
    return _Schema(
        (found.min_input, found.max_input),
        (found.min_output, found.max_output),
        tuple(required[options.Single]),
        next(iter(required[options.Variadic]), None),
        {name: _TYPES[attribute.type.name] for name, attribute in found.attributes.items()},
        tuple(name for name, attribute in found.attributes.items() if attribute.required),
    )


def newest_opset() -> int:
    """The newest version of the standard's operators that the schemas describe."""
    newest: int = defs.schema_version_map()[""][1]
    return newest


def check_node(proto: NodeProto, domain: str, version: int, label: str) -> None:
    """Raises :class:`InvalidModelError` where a node breaks its operator's schema, if there is one."""
    schema = _schema(proto.op_type, version, domain)
    if schema is None:
        return
    what = f"node {label!r} ({proto.op_type}, opset {version})"
    _check_count(what, "inputs", len(proto.input), schema.inputs)
    _check_count(what, "outputs", len(proto.output), schema.outputs)
    for position, name in schema.required_inputs:
        if position < len(proto.input) and not proto.input[position]:
            raise InvalidModelError(f"{what} lacks its input {name!r}")
    if schema.variadic_input is not None:
        first, name = schema.variadic_input
        for position in range(first, len(proto.input)):
            if not proto.input[position]:
                raise InvalidModelError(f"{what} lacks its input {position}, one of {name!r}")
    present = set()
    for attribute in proto.attribute:
        name = attribute.name
        present.add(name)
        expected = schema.attributes.get(name)
        if expected is None:
            close = difflib.get_close_matches(str(name), schema.attributes, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            known = ", ".join(sorted(schema.attributes)) or "none"
            raise InvalidModelError(f"{what} has no attribute {name!r}{hint} (known: {known})")
        kind = attribute_type(attribute)
        if kind != expected:
            raise InvalidModelError(
                f"{what}: attribute {name!r} is of type {_TYPE_NAMES.get(kind, kind)}, "
                f"expected {_TYPE_NAMES.get(expected, expected)}"
            )
    for name in schema.required_attributes:
        if name not in present:
            raise InvalidModelError(f"{what} lacks its attribute {name!r}")


def _check_count(what: str, kind: str, found: int, limits: tuple[int, int]) -> None:
    low, high = limits
    if not low <= found <= high:
        expected = str(low) if low == high else f"{low} to {high}" if high < _UNBOUNDED else f"at least {low}"
        raise InvalidModelError(f"{what} has {found} {kind}; expected {expected}")


def attribute_type(attribute: AttributeProto) -> int:
    """The ``AttributeProto.AttributeType``; models of IR version 1 leave it to the field that is set."""
    kind: int = attribute.type
    if kind == AttributeProto.UNDEFINED:
        for field, _ in attribute.ListFields():
            if field.name in _FIELD_TYPES:
                return _FIELD_TYPES[field.name]
    return kind


_FIELD_TYPES: dict[str, int] = {
    "f": AttributeProto.FLOAT,
    "i": AttributeProto.INT,
    "s": AttributeProto.STRING,
    "t": AttributeProto.TENSOR,
    "g": AttributeProto.GRAPH,
    "floats": AttributeProto.FLOATS,
    "ints": AttributeProto.INTS,
    "strings": AttributeProto.STRINGS,
    "tensors": AttributeProto.TENSORS,
    "graphs": AttributeProto.GRAPHS,
}
