"""What an artifact says about a model beside its plans."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from onnxplan.infos import StructureInfo, ValueInfo
from onnxplan.interface import Signature
from onnxplan.runtime.artifact_structures import write_type
from onnxplan.runtime.artifact_writer import ArtifactWriter

PACKAGES = ("onnxplan", "numpy", "onnx", "llvmlite")
"""Whose versions an artifact names."""


def describe(writer: ArtifactWriter, signature: Signature, math: str, optimize: int) -> None:
    """Adds the signature, the options and the versions of packages."""
    fields = writer.fields
    fields["producer"] = {name: version(name) for name in PACKAGES}
    fields["options"] = {"math": math, "optimize": optimize}
    fields["metadata"] = dict(signature.metadata)
    fields["description"] = signature.description.to_json()
    fields["inputs"] = [[*_info(info), False] for info in signature.inputs]
    fields["inputs"] += [[*_info(info), True] for info in signature.optional_inputs]
    fields["outputs"] = [[*_info(info), False] for info in signature.outputs]


def _info(info: ValueInfo) -> tuple[str, Any, list[int | str | None] | None]:
    if isinstance(info, StructureInfo):
        return info.name, write_type(info.kind), None
    return info.name, info.type, None if info.dims is None else list(info.dims)
