"""What a session is made of: a signature and a planner, from a model or a compiled artifact."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxplan.compiler.errors import IncompatibleArtifactError, InvalidArtifactError
from onnxplan.compiler.ir import MapType, OptionalType, SequenceType, TensorType
from onnxplan.compiler.records import dataclass
from onnxplan.infos import StructureInfo, TensorInfo, ValueInfo
from onnxplan.interface import Signature
from onnxplan.options import SessionOptions
from onnxplan.runtime.artifact import Artifact, TargetEntry, TensorEntry, is_artifact
from onnxplan.runtime.artifact_planner import ArtifactPlanner
from onnxplan.runtime.device import Device
from onnxplan.runtime.origin import Origin, origin_of
from onnxplan.runtime.planner import Planner
from onnxplan.runtime.seen_models import Place, place_of

if TYPE_CHECKING:
    import onnx

    from onnxplan.compiler.ir import Model
    from onnxplan.runtime.artifact_writer import ArtifactWriter

    ModelLike = str | os.PathLike[str] | bytes | onnx.ModelProto


@dataclass(frozen=True, slots=True)
class Loaded:
    """``source`` is what can be loaded again; ``None`` or no path or bytes where nothing can."""

    signature: Signature
    planner: Planner
    source: Any


def load(
    model: ModelLike, device: Device, options: SessionOptions, adapt: Callable[[Model], None] | None = None
) -> Loaded:
    """The model or artifact ``model`` for ``device``; see :class:`~onnxplan.InferenceSession`.

    ``adapt`` may change a model once it is read; it is not called for artifacts. Plans of the model in a file
    that nobody changes come from the kernel store, where they are kept, and neither onnx nor the compiler is
    imported.
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
    place = None
    if adapt is None and options.cache and device.name == "cpu" and isinstance(model, str | os.PathLike):
        place = place_of(model, device.target, options.optimize)
        loaded = None if place is None else _load_seen(place, device, options)
        if loaded is not None:
            return loaded
    device.expect_plans()
    from onnxplan.compiler.importer import load_model
    from onnxplan.runtime.model_planner import ModelPlanner

    moment = time.time()
    imported = load_model(model)
    if adapt is not None:
        adapt(imported)
    signature = Signature.of(imported)
    planner: Planner = ModelPlanner(imported, device.selector, optimize=options.optimize)
    if place is not None:
        origin = origin_of(place.path, imported.external, moment)
        if origin is not None:
            planner = _keeping(planner, place, origin, device, options, signature)
    return Loaded(signature, planner, imported.source)


def _load_seen(place: Place, device: Device, options: SessionOptions) -> Loaded | None:
    """The model of the entry at ``place``; None where it is not there or cannot run here."""
    seen = place.open()
    if seen is None:
        return None
    artifact = seen.artifact
    (entry,) = artifact.header.targets
    if entry.target != device.target or device.refusal(entry) is not None:
        return None
    signature = _signature(artifact)

    def others() -> Planner:
        """Plans from the model's file as it was when the session was opened."""
        from onnxplan.compiler.importer import load_model
        from onnxplan.runtime.model_planner import ModelPlanner

        model = load_model(seen.data, external=seen.external)
        planner = ModelPlanner(model, device.selector, optimize=options.optimize)
        assert artifact.header.origin is not None
        return _keeping(planner, place, artifact.header.origin, device, options, signature)

    kernels = device.artifact_kernels(artifact, entry)
    planner = ArtifactPlanner(artifact, 0, kernels, device.target.threads, others)
    return Loaded(signature, planner, place.path)


def _keeping(
    planner: Planner,
    place: Place,
    origin: Origin,
    device: Device,
    options: SessionOptions,
    signature: Signature,
) -> Planner:
    from onnxplan.runtime.model_keeper import KeepingPlanner, ModelKeeper

    def describe(writer: ArtifactWriter) -> None:
        # Not needed before something is written.
        from onnxplan import describing

        describing.describe(writer, signature, options.math, options.optimize)

    keeper = ModelKeeper(place, origin, device.target, device.has_code, device.target_code, describe)
    return KeepingPlanner(planner, keeper)


def _signature(artifact: Artifact) -> Signature:
    header = artifact.header
    infos = [(entry, _info(entry)) for entry in header.inputs]
    return Signature(
        tuple(info for entry, info in infos if not entry.optional),
        tuple(info for entry, info in infos if entry.optional),
        tuple(_info(entry) for entry in header.outputs),
        header.metadata,
        header.description,
    )


def _load_artifact(artifact: Artifact, device: Device, *, recompile: bool) -> Loaded:
    header = artifact.header
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
    return Loaded(_signature(artifact), planner, artifact.path)


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
