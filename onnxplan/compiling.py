"""Writing compiled artifacts: everything that running a model needs, in one file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onnxplan.compiler.errors import InvalidModelError
from onnxplan.compiler.importer import load_model
from onnxplan.compiler.ir import Model
from onnxplan.describing import describe
from onnxplan.interface import Signature
from onnxplan.options import SessionOptions
from onnxplan.runtime.artifact_writer import ArtifactWriter
from onnxplan.runtime.devices import open_compiler
from onnxplan.runtime.model_planner import ModelPlanner
from onnxplan.shapes import Shapes, check_shapes

if TYPE_CHECKING:
    import onnx


def compile(  # noqa: A001 - onnxplan.compile is its public name
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    path: str | os.PathLike[str],
    *,
    device: str | Sequence[str] = "cpu",
    shapes: Sequence[Shapes] | Shapes | None = None,
    threads: int | None = None,
    math: str = "strict",
    optimize: int = 1,
    cache: bool = True,
    include_model: bool = True,
    sign_key: str | os.PathLike[str] | bytes | None = None,
) -> None:
    """Compiles ``model`` and writes an artifact to ``path``, which :class:`~onnxplan.InferenceSession` opens.

    ``device`` is ``"cpu"`` (this machine's kind of processor), ``"cuda"`` (the GPU at hand), ``"cuda:sm_90"``
    (any of that compute capability, none needed here), or several of them. ``shapes`` are shapes of the
    inputs, by name (one mapping or several); they may be left out where the model fixes them. ``threads``,
    ``math``, ``optimize`` and ``cache`` are those of sessions. With ``include_model`` the artifact carries
    the model too: other shapes are then planned when they come, and it may be compiled again on another
    machine. ``sign_key`` is an Ed25519 private key (the path of a PEM file, or its bytes) to sign with.

    Raises what sessions raise for models and options, ``ValueError`` for a model whose course depends on data
    (there is no plan of all of it) if ``include_model`` is false, ``OSError`` where no file can be written.
    """
    SessionOptions("cpu", threads, math, cache, optimize=optimize)
    imported = load_model(model)
    signature = Signature.of(imported)
    requests = [
        check_shapes(each, signature.inputs, signature.optional_inputs)
        for each in ([shapes] if shapes is None or isinstance(shapes, Mapping) else shapes)
    ]
    writer = ArtifactWriter()
    describe(writer, signature, math, optimize)
    for name in [device] if isinstance(device, str) else device:
        compiler = open_compiler(name, threads=threads, math=math, cache=cache)
        planner = ModelPlanner(imported, compiler.selector, optimize=optimize)
        planned = [(request, planner.plan(request, ())) for request in requests]
        whole = [(request, stage) for request, stage in planned if stage.facts.final]
        if len(whole) < len(planned) and not include_model:
            raise ValueError(
                "the shapes of this model depend on data, so that its plans are made while it runs: they "
                "need the model, which include_model=False leaves out"
            )
        # Later stages are planned when their shapes are known, with the kernels that the first ones use.
        specs = list(dict.fromkeys(spec for _, stage in planned for spec in stage.compiled.plan.kernels))
        target = writer.add_target(compiler.target, compiler.target_code(specs))
        for request, stage in whole:
            writer.add_plan(target, request, stage)
    if include_model:
        _add_model(writer, imported)
    key = sign_key if isinstance(sign_key, bytes | None) else Path(sign_key).read_bytes()
    if key is None:
        writer.write(path)
        return
    from onnxplan.runtime.signing import sign

    writer.write(path, lambda message: sign(key, message))


def _add_model(writer: ArtifactWriter, model: Model) -> None:
    if model.data is None:
        raise InvalidModelError(
            "a ModelProto of more than 2 GiB has no bytes that could be put into an artifact; give the model "
            "as a path"
        )
    writer.fields["model"] = writer.add_section(model.data)
    writer.fields["external"] = {
        location: writer.add_section(data.data) for location, data in model.external.items()
    }
