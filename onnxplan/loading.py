"""What a session is made of: a signature and a planner, from a model or a compiled artifact."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxplan.compiler.errors import IncompatibleArtifactError, InvalidArtifactError
from onnxplan.compiler.ir import MapType, OptionalType, SequenceType, TensorType
from onnxplan.infos import StructureInfo, TensorInfo, ValueInfo
from onnxplan.interface import Signature
from onnxplan.options import SessionOptions
from onnxplan.runtime.artifact import Artifact, TargetEntry, TensorEntry, is_artifact
from onnxplan.runtime.artifact_planner import ArtifactPlanner
from onnxplan.runtime.device import Device
from onnxplan.runtime.planner import Planner

if TYPE_CHECKING:
    import onnx

    from onnxplan.compiler.ir import Model

    ModelLike = str | os.PathLike[str] | bytes | onnx.ModelProto


@dataclass(frozen=True, slots=True)
class Loaded:
    """``source`` is what can be loaded again; ``None`` or no path or bytes where nothing can."""

    signature: Signature
    planner: Planner
    source: Any


def load(model: ModelLike, device: Device, options: SessionOptions, adapt: Callable[[Model], None]) -> Loaded:
    """The model or artifact ``model`` for ``device``; see :class:`~onnxplan.InferenceSession`.

    ``adapt`` may change a model once it is read; it is not called for artifacts.
    """
    verify_key = options.verify_key
    if is_artifact(model):
        assert isinstance(model, str | os.PathLike)
        key = verify_key if isinstance(verify_key, bytes | None) else Path(verify_key).read_bytes()
        return _load_artifact(Artifact(model, verify_key=key), device, recompile=options.recompile)
    if verify_key is not None:
        raise InvalidArtifactError(
            "verify_key is given, but the model is no compiled artifact: it has no signature"
        )
    from onnxplan.compiler.importer import load_model
    from onnxplan.runtime.model_planner import ModelPlanner

    imported = load_model(model)
    adapt(imported)
    planner = ModelPlanner(imported, device.selector, optimize=options.optimize)
    return Loaded(Signature.of(imported), planner, imported.source)


def _load_artifact(artifact: Artifact, device: Device, *, recompile: bool) -> Loaded:
    header = artifact.header
    infos = [(entry, _info(entry)) for entry in header.inputs]
    signature = Signature(
        tuple(info for entry, info in infos if not entry.optional),
        tuple(info for entry, info in infos if entry.optional),
        tuple(_info(entry) for entry in header.outputs),
        header.metadata,
    )
    fallback = partial(_model_planner, artifact, device)
    refusals = [device.refusal(entry) for entry in header.targets]
    usable = [number for number, refusal in enumerate(refusals) if refusal is None]
    if usable:
        number = min(usable, key=lambda number: _distance(header.targets[number], device))
        kernels = device.artifact_kernels(artifact, header.targets[number])
        planner: Planner = ArtifactPlanner(artifact, number, kernels, device.target.threads, fallback)
    elif recompile:
        planner = fallback()
    else:
        raise IncompatibleArtifactError(
            f"artifact {artifact.path!r} cannot run on {device.name}: {'; '.join(filter(None, refusals))}; "
            "compile the model for this machine, or open the artifact with recompile=True"
        )
    return Loaded(signature, planner, artifact.path)


def _info(entry: TensorEntry) -> ValueInfo:
    if isinstance(entry.type, SequenceType | OptionalType | MapType):
        return StructureInfo(entry.name, entry.type)
    if isinstance(entry.type, TensorType):
        return TensorInfo.declared(entry.name, entry.type)
    return TensorInfo(entry.name, entry.type, entry.dims)


def _distance(entry: TargetEntry, device: Device) -> tuple[bool, int]:
    """Orders the targets that can run: those of the device's own instruction set and threads first."""
    return entry.target.isa != device.target.isa, abs(entry.target.threads - device.target.threads)


def _model_planner(artifact: Artifact, device: Device) -> Planner:
    """Plans from the model that the artifact carries."""
    header = artifact.header
    if header.model is None:
        raise IncompatibleArtifactError(
            f"artifact {artifact.path!r} was compiled without its model, so that there are no other plans "
            "than those in it"
        )
    from onnxplan.compiler.importer import load_model
    from onnxplan.runtime.model_planner import ModelPlanner

    external = {location: artifact.section(number) for location, number in header.external.items()}
    model = load_model(artifact.section(header.model), external=external)
    return ModelPlanner(model, device.selector, optimize=int(header.options["optimize"]))
