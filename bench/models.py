"""Real architectures as ONNX files, exported once into a cache folder.

The weights are random but fixed, and such that activations stay in the range of a trained network's. Files
lie in `$ONNXPLAN_MODELS_DIR`, or else in `onnxplan/models` under `$XDG_CACHE_HOME` or `~/.cache`.

    python -m bench.models list
    python -m bench.models export resnet50 gpt2_decode
    python -m bench.models verify

`path` and `feeds` need no torch once a model is in the cache.
"""

from __future__ import annotations

import collections
import os
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
import onnx
import rich
import typer
from rich.table import Table

from bench.model_zoo import sequence, vision
from bench.model_zoo.recipe import Recipe

ZOO: dict[str, Recipe] = {recipe.name: recipe for recipe in (*vision.RECIPES, *sequence.RECIPES)}

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Benchmark models, exported into a cache.")
Names = Annotated[list[str] | None, typer.Argument(help="Models; all of them where none is named.")]


def models_folder() -> pathlib.Path:
    """The folder that exported models are kept in; it need not exist yet."""
    override = os.environ.get("ONNXPLAN_MODELS_DIR")
    if override:
        return pathlib.Path(override)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (pathlib.Path(cache) if cache else pathlib.Path.home() / ".cache") / "onnxplan" / "models"


def path(name: str, *, dynamic: bool = False) -> pathlib.Path:
    """The ONNX file of a model, exported first where it is missing.

    With `dynamic` the dimensions named in `ZOO[name].dims` are symbolic; else every shape is fixed.

    Raises:
        ValueError: no model has that name.
        ImportError: the model is missing and torch, transformers or onnxscript is not installed.
    """
    recipe = _recipe(name)
    target = _target(recipe, dynamic=dynamic)
    if not target.exists():
        from bench.model_zoo.export import export

        export(recipe, target, dynamic=dynamic)
    return target


def is_exported(name: str, *, dynamic: bool = False) -> bool:
    """Whether :func:`path` finds the model in the cache."""
    return _target(_recipe(name), dynamic=dynamic).exists()


def feeds(name: str, *, seed: int = 0, **dims: int) -> dict[str, np.ndarray]:
    """Random plausible inputs of a model, by input name.

    `dims` changes symbolic dimensions of the dynamic form (`batch=4, sequence=64`); the others, and all of
    them by default, have the static form's sizes. Token ids lie in the vocabulary, attention masks are ones.

    Raises:
        ValueError: no model has that name, or it has no such dimension.
    """
    return _recipe(name).feeds(seed=seed, dims=dims)


def operator_counts(file: pathlib.Path) -> collections.Counter[str]:
    """How many nodes of each operator a model has, those in subgraphs and functions included."""
    model = onnx.load(file, load_external_data=False)
    bodies = (model.graph.node, *(function.node for function in model.functions))
    return collections.Counter(
        f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        for body in bodies
        for node in _nodes(body)
    )


def _nodes(body: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in body:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _nodes(graph.node)


def _recipe(name: str) -> Recipe:
    if name not in ZOO:
        raise ValueError(f"no model {name!r}; there are {', '.join(ZOO)}")
    return ZOO[name]


def _target(recipe: Recipe, *, dynamic: bool) -> pathlib.Path:
    form = "dynamic" if dynamic else "static"
    return models_folder() / f"{recipe.name}-{form}-v{recipe.version}.onnx"


def _chosen(names: list[str] | None) -> list[Recipe]:
    try:
        return [_recipe(name) for name in names or ZOO]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


@app.command("list")
def list_models() -> None:
    """Shows every model, its dimensions and what of it is in the cache."""
    table = Table("model", "what", "sizes", "exporter", "MB", "MB dynamic")
    table.columns[0].no_wrap = True
    for recipe in ZOO.values():
        sizes = "\n".join(f"{name} {size}" for name, size in recipe.resolve_dims({}).items())
        files = [_target(recipe, dynamic=dynamic) for dynamic in (False, True)]
        megabytes = [f"{file.stat().st_size / 1e6:.1f}" if file.exists() else "-" for file in files]
        table.add_row(
            recipe.name, recipe.summary, sizes, f"{recipe.exporter}, opset {recipe.opset}", *megabytes
        )
    rich.print(table)
    rich.print(f"in {models_folder()}")


@app.command("export")
def export_models(
    names: Names = None,
    force: Annotated[bool, typer.Option(help="Export again what is in the cache.")] = False,
    operators: Annotated[bool, typer.Option(help="Print how many nodes of each operator there are.")] = False,
) -> None:
    """Exports models into the cache, in the static and in the dynamic form."""
    for recipe in _chosen(names):
        for dynamic in (False, True):
            target = _target(recipe, dynamic=dynamic)
            if force:
                target.unlink(missing_ok=True)
            cached = target.exists()
            start = time.perf_counter()
            file = path(recipe.name, dynamic=dynamic)
            took = "cached" if cached else f"{time.perf_counter() - start:.1f} s"
            rich.print(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB, {took}")
            if operators:
                counts = operator_counts(file).most_common()
                rich.print("  " + " ".join(f"{name}:{count}" for name, count in counts))


@app.command("verify")
def verify_models(names: Names = None) -> None:
    """Checks models with onnx.checker, and against torch through ONNX Runtime at several sizes."""
    from bench.model_zoo.verify import verify

    failed = []
    for recipe in _chosen(names):
        files = [path(recipe.name, dynamic=dynamic) for dynamic in (False, True)]
        for number, check in enumerate(verify(recipe, *files)):
            form = "dynamic" if number else "static"
            sizes = " ".join(f"{name}={size}" for name, size in check.dims.items())
            rich.print(
                f"{recipe.name} {form} {sizes}: {'ok' if check.passed else 'WRONG'}, error {check.error:.1e}"
            )
            if not check.passed:
                failed.append(f"{recipe.name} {form}")
    if failed:
        rich.print(f"[red]wrong: {', '.join(failed)}")
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
