"""Exports one recipe's module to an ONNX file."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxscript.optimizer
import torch

from bench.model_zoo.recipe import Exporter, Recipe


def export(recipe: Recipe, target: pathlib.Path, *, dynamic: bool) -> None:
    """Writes the recipe's model to `target`, with symbolic dimensions where `dynamic`.

    The file appears whole or not at all, so processes may export the same model at once.

    Raises:
        torch.onnx.OnnxExporterError: the exporter could not convert the module.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=target.parent) as folder:
        partial = os.path.join(folder, target.name)
        with torch.no_grad(), _quiet():
            if recipe.exporter is Exporter.TORCHSCRIPT:
                _export_torchscript(recipe, partial, dynamic=dynamic)
            else:
                _export_dynamo(recipe, partial, dynamic=dynamic)
        os.replace(partial, target)


def _export_dynamo(recipe: Recipe, target: str, *, dynamic: bool) -> None:
    fuse = recipe.exporter is Exporter.DYNAMO
    # The modules take *inputs, one positional parameter: hence the tuple of one.
    shapes = (tuple(i.dynamic_axes() for i in recipe.inputs),) if dynamic else None
    program = torch.onnx.export(
        recipe.build(),
        _example(recipe, dynamic=dynamic),
        **_names(recipe),
        opset_version=recipe.opset,
        dynamo=True,
        dynamic_shapes=shapes,
        optimize=fuse,
        verbose=False,
    )
    assert program is not None
    if not fuse:
        _fold_constants(program.model)
    program.save(target, external_data=False)


def _fold_constants(model: ir.Model) -> None:
    """Does what onnxscript's optimiser does, less its rewrite rules: they fold BatchNormalization and Pad."""
    passes.InlinePass()(model)
    onnxscript.optimizer.fold_constants_ir(model, onnx_shape_inference=True)
    ir.passes.Sequential(
        passes.IdentityEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
    )(model)


def _export_torchscript(recipe: Recipe, target: str, *, dynamic: bool) -> None:
    torch.onnx.export(
        recipe.build(),
        _example(recipe, dynamic=dynamic),
        target,
        **_names(recipe),
        opset_version=recipe.opset,
        dynamo=False,
        dynamic_axes={i.name: i.dynamic_axes() for i in recipe.inputs} if dynamic else None,
        # The module is in eval mode already; PRESERVE keeps the exporter from folding BatchNormalization.
        training=torch.onnx.TrainingMode.PRESERVE,
    )


def _example(recipe: Recipe, *, dynamic: bool) -> tuple[torch.Tensor, ...]:
    feeds = recipe.feeds(dims=recipe.trace_dims if dynamic else None)
    return tuple(torch.from_numpy(value) for value in feeds.values())


def _names(recipe: Recipe) -> dict[str, Any]:
    return {"input_names": [i.name for i in recipe.inputs], "output_names": list(recipe.outputs)}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
