"""From a file, bytes or a ``ModelProto`` to a checked :class:`~onnxplan.compiler.ir.Model`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from onnxplan.compiler import ops
from onnxplan.compiler.errors import InvalidModelError, UnsupportedOperatorError
from onnxplan.compiler.importer.graphs import GraphImporter
from onnxplan.compiler.importer.tensors import TensorReader
from onnxplan.compiler.ir import Model
from onnxplan.compiler.registry import find

ModelSource = "str | os.PathLike[str] | bytes | bytearray | memoryview | onnx.ModelProto"


def load_model(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | onnx.ModelProto,
    *,
    check_operators: bool = True,
) -> Model:
    """The model in ``source``: a path, serialised bytes, or an ``onnx.ModelProto``.

    Functions of the model are inlined, nodes sorted topologically, external data mapped. Raises
    :class:`InvalidModelError` for what is no valid model, and :class:`UnsupportedOperatorError`, which lists
    every operator that there is no rule for (unless ``check_operators`` is false), ``FileNotFoundError`` and
    the like for files that cannot be opened.
    """
    path: str | None = None
    if isinstance(source, onnx.ModelProto):
        proto, described = source, "the ModelProto"
    elif isinstance(source, bytes | bytearray | memoryview):
        described = f"the {len(source)} bytes given as model"
        proto = _parse(bytes(source), described)
    else:
        path = os.fspath(source)
        described = f"file {path!r}"
        proto = _parse(_read(path, described), described)
    _check_header(proto, described)
    if proto.functions:
        proto = _inline_functions(proto, described)
    opsets = {_domain(entry.domain): entry.version for entry in proto.opset_import}
    _check_opsets(opsets, described)
    reader = TensorReader(path)
    model = Model(
        graph=GraphImporter(reader, opsets).run(proto.graph),
        opsets=opsets,
        ir_version=proto.ir_version,
        producer=f"{proto.producer_name} {proto.producer_version}".strip(),
        description=proto.doc_string,
        metadata={entry.key: entry.value for entry in proto.metadata_props},
        path=path,
    )
    if check_operators:
        missing = unsupported_operators(model)
        if missing:
            lines = [
                f"  {domain or 'ai.onnx'}::{op_type} (opset {version}), nodes: {_enumerate(nodes)}"
                for domain, op_type, version, nodes in missing
            ]
            raise UnsupportedOperatorError(
                "\n".join([f"{described} needs operators that onnxplan does not have:", *lines]), missing
            )
    return model


def unsupported_operators(model: Model) -> tuple[tuple[str, str, int, tuple[str, ...]], ...]:
    """All operators without a rule: ``(domain, op_type, version, node names)``, sorted."""
    ops.load()
    missing: dict[tuple[str, str, int], list[str]] = {}
    for node in model.graph.walk():
        if find(node.domain, node.op_type, node.version) is None:
            missing.setdefault((node.domain, node.op_type, node.version), []).append(node.label)
    return tuple((*key, tuple(missing[key])) for key in sorted(missing))


def _enumerate(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _read(path: str, described: str) -> bytes:
    file = Path(path)
    if file.is_dir():
        raise InvalidModelError(f"{path!r} is a directory; expected an ONNX file")
    if not file.exists():
        raise FileNotFoundError(f"there is no model file {path!r}")
    if not file.is_file():
        raise InvalidModelError(f"{path!r} is not a regular file")
    data = file.read_bytes()
    if not data:
        raise InvalidModelError(f"{described} is empty")
    return data


def _parse(data: bytes, described: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise InvalidModelError(
            f"{described} is not an ONNX model, or is damaged or cut short: {error}"
        ) from error
    return proto


def _check_header(proto: onnx.ModelProto, described: str) -> None:
    if not proto.HasField("graph"):
        raise InvalidModelError(f"{described} is not an ONNX model: it has no graph")
    if not proto.opset_import and proto.ir_version >= 3:
        raise InvalidModelError(f"{described} is not a valid ONNX model: it imports no operator set")
    if not proto.opset_import:
        proto.opset_import.append(onnx.helper.make_opsetid("", 1))


def _check_opsets(opsets: dict[str, int], described: str) -> None:
    newest = onnx.defs.onnx_opset_version()
    version = opsets.get("", 0)
    if version > newest:
        raise UnsupportedOperatorError(
            f"{described} uses opset {version} of ai.onnx; the installed onnx {onnx.__version__} describes "
            f"them up to {newest}: install a newer onnx package, or export the model with an older opset",
            (("", "*", version, ()),),
        )


def _calls(function: onnx.FunctionProto) -> Iterator[tuple[str, str]]:
    pending = list(function.node)
    while pending:
        node = pending.pop()
        yield _domain(node.domain), node.op_type
        for attribute in node.attribute:
            for graph in [attribute.g, *attribute.graphs]:
                pending.extend(graph.node)


def _inline_functions(proto: onnx.ModelProto, described: str) -> onnx.ModelProto:
    from onnx import inliner

    functions = {(_domain(f.domain), f.name): list(_calls(f)) for f in proto.functions}
    finished: set[tuple[str, str]] = set()
    for root in functions:
        stack = [(root, iter(functions[root]))]
        active = [root]
        while stack:
            name, calls = stack[-1]
            callee = next((c for c in calls if c in functions and c not in finished), None)
            if callee is None:
                finished.add(name)
                stack.pop()
                active.pop()
            elif callee in active:
                cycle = " -> ".join("::".join(part) for part in [*active[active.index(callee) :], callee])
                raise InvalidModelError(f"{described} defines functions that call themselves: {cycle}")
            else:
                stack.append((callee, iter(functions[callee])))
                active.append(callee)
    try:
        return inliner.inline_local_functions(proto, convert_version=True)
    except Exception as error:
        raise InvalidModelError(f"{described}: its functions cannot be inlined: {error}") from error
