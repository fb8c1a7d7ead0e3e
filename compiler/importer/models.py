"""From a file, bytes or a ``onnx.ModelProto`` to a checked :class:`~onnxplan.compiler.ir.Model`."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.message import DecodeError
from onnx.onnx_ml_pb2 import ModelProto

from onnxplan.compiler import ops
from onnxplan.compiler.errors import InvalidModelError, UnsupportedOperatorError
from onnxplan.compiler.importer.functions import inline_functions
from onnxplan.compiler.importer.graphs import GraphImporter, text
from onnxplan.compiler.importer.schemas import newest_opset
from onnxplan.compiler.importer.sources import ModelSource, Source, open_source
from onnxplan.compiler.importer.tensors import TensorReader
from onnxplan.compiler.importer.wire import WireError, detach_tensors
from onnxplan.compiler.ir import Model
from onnxplan.compiler.registry import find

MissingOperator = tuple[str, str, int, tuple[str, ...]]


def load_model(
    source: ModelSource,
    *,
    check_operators: bool = True,
    external: Mapping[str, memoryview] | None = None,
) -> Model:
    """The model in ``source``: a path, serialised bytes, or an ``onnx.ModelProto``.

    Functions of the model are inlined, nodes sorted topologically. Tensors of more than a few KiB are views
    of the bytes given, or of the file: external data and files of 1 MiB and more are mapped into memory and
    must not be changed in place while the model is in use (replacing them by a rename is fine). ``external``
    gives the bytes of external files by their locations, for a model that is not in a folder.

    Raises :class:`InvalidModelError` for what is no valid model, :class:`UnsupportedOperatorError`, which
    lists every operator that there is no rule for (unless ``check_operators`` is false), ``OSError`` for
    files that cannot be opened, and ``TypeError`` for what is no source of a model.
    """
    opened = open_source(source)
    try:
        model = _import(opened, external)
    except InvalidModelError as error:
        error.args = (f"{opened.label}: {error}",)
        raise
    if check_operators:
        _check_operators(model, opened.label)
    return model


def unsupported_operators(model: Model) -> tuple[MissingOperator, ...]:
    """All operators without a rule: ``(domain, op_type, version, node names)``, sorted."""
    ops.load()
    missing: dict[tuple[str, str, int], list[str]] = {}
    for node in model.graph.walk():
        if find(node.domain, node.op_type, node.version) is None:
            missing.setdefault((node.domain, node.op_type, node.version), []).append(node.label)
    return tuple((*key, tuple(missing[key])) for key in sorted(missing))


def _import(source: Source, external: Mapping[str, memoryview] | None) -> Model:
    proto = source.proto if source.proto is not None else _parse(source)
    if not proto.HasField("graph"):
        raise InvalidModelError(f"it is not an ONNX model: it has no graph{source.hint()}")
    if proto.functions:
        proto = inline_functions(proto)
    opsets = _opsets(proto)
    reader = TensorReader(source.path, source.data, external)
    return Model(
        graph=GraphImporter(reader, opsets).run(proto.graph),
        opsets=opsets,
        ir_version=proto.ir_version,
        producer=text(proto.producer_name, "the producer"),
        producer_version=text(proto.producer_version, "the producer's version"),
        domain=text(proto.domain, "the domain"),
        version=proto.model_version if proto.HasField("model_version") else None,
        description=text(proto.doc_string, "the description"),
        graph_description=text(proto.graph.doc_string, "the graph's description"),
        metadata={
            text(entry.key, "a metadata key"): text(entry.value, f"metadata {entry.key!r}")
            for entry in proto.metadata_props
        },
        path=source.path,
        source=source.portable,
        mappings=(*source.mappings, *reader.mappings),
        data=source.data,
        external=reader.external,
    )


def _parse(source: Source) -> ModelProto:
    assert source.data is not None
    proto = ModelProto()
    try:
        proto.ParseFromString(detach_tensors(source.data))
    except (DecodeError, WireError) as error:
        raise InvalidModelError(
            f"it is not an ONNX model, or is damaged or cut short: {error}{source.hint()}"
        ) from error
    return proto


def _opsets(proto: ModelProto) -> dict[str, int]:
    """Version by domain; models older than IR version 3 name none and mean the first."""
    if not proto.opset_import and proto.ir_version < 3:
        return {"": 1}
    if not proto.opset_import:
        raise InvalidModelError("it is not a valid ONNX model: it imports no operator set")
    found: dict[str, list[int]] = {}
    for entry in proto.opset_import:
        domain = text(entry.domain, "the domain of an operator set")
        found.setdefault("" if domain == "ai.onnx" else domain, []).append(entry.version)
    for domain, versions in found.items():
        if len(set(versions)) > 1 or versions[0] < 1:
            raise InvalidModelError(
                f"it imports the operator set {domain or 'ai.onnx'!r} in version "
                f"{' and '.join(map(str, versions))}; expected one version of at least 1"
            )
    return {domain: versions[0] for domain, versions in found.items()}


def _check_operators(model: Model, label: str) -> None:
    missing = unsupported_operators(model)
    lines = [
        f"  {domain or 'ai.onnx'}::{op_type} (opset {version}), nodes: {_enumerate(nodes)}"
        for domain, op_type, version, nodes in missing
    ]
    version, newest = model.opsets.get("", 0), newest_opset()
    if version > newest:
        import onnx

        missing = (("", "*", version, ()), *missing)
        lines.insert(
            0,
            f"  ai.onnx::* (opset {version}): the installed onnx {onnx.__version__} describes opsets up to "
            f"{newest}; install a newer onnx package, or export the model with an older opset",
        )
    if missing:
        raise UnsupportedOperatorError(
            "\n".join([f"{label} needs operators that onnxplan does not have:", *lines]), missing
        )


def _enumerate(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
