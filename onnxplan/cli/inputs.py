"""Inputs for the command line: from files, or random ones of the model's types and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import typer

from onnxplan.compiler.dtypes import DType
from onnxplan.feeds import TensorInfo, suggest
from onnxplan.session import InferenceSession

Array = npt.NDArray[Any]


def parse_dims(texts: Sequence[str]) -> dict[str, int]:
    """``["batch=4"]`` to ``{"batch": 4}``; raises ``typer.BadParameter``."""
    sizes: dict[str, int] = {}
    for text in texts:
        name, equals, size = text.partition("=")
        if not equals or not size.isdigit():
            raise typer.BadParameter(f"--dim {text}: expected NAME=SIZE, such as batch=4")
        sizes[name] = int(size)
    return sizes


def resolve_shape(info: TensorInfo, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of an input with its symbolic dimensions replaced; those not in ``sizes`` are 1."""
    if info.dims is None:
        raise typer.BadParameter(f"input {info} has no known rank: give it with --input")
    return tuple(dim if isinstance(dim, int) else sizes.get(dim or "", 1) for dim in info.dims)


def resolve_shapes(session: InferenceSession, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """A shape for each input of the session; a size for an unknown dimension is an error."""
    known = {dim for info in session.inputs for dim in info.dims or () if isinstance(dim, str)}
    for name in sizes:
        if name not in known:
            raise typer.BadParameter(f"no input has a dimension called {name!r}{suggest(name, known)}")
    return {info.name: resolve_shape(info, sizes) for info in session.inputs}


def read_inputs(
    session: InferenceSession, files: Sequence[str], sizes: Mapping[str, int], seed: int
) -> dict[str, Array]:
    """Feeds for all inputs: ``NAME=FILE.npy`` where given, random elsewhere."""
    given: dict[str, Array] = {}
    for text in files:
        name, equals, file = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"--input {text}: expected NAME=FILE.npy")
        if name not in session.input_names:
            raise typer.BadParameter(f"the model has no input {name!r}{suggest(name, session.input_names)}")
        try:
            given[name] = np.load(Path(file), allow_pickle=False)
        except (OSError, ValueError) as error:
            raise typer.BadParameter(f"--input {text}: {error}") from error
    taken = dict(sizes)
    for info in session.inputs:
        array = given.get(info.name)
        if array is not None and info.dims is not None and len(info.dims) == array.ndim:
            taken.update({d: n for d, n in zip(info.dims, array.shape, strict=True) if isinstance(d, str)})
    shapes = resolve_shapes(session, taken)
    generator = np.random.default_rng(seed)
    return {
        info.name: given[info.name]
        if info.name in given
        else random_array(generator, DType.from_label(info.type or "float32"), shapes[info.name])
        for info in session.inputs
    }


def random_array(generator: np.random.Generator, dtype: DType, shape: tuple[int, ...]) -> Array:
    """Standard normal floats, small non-negative integers, fair booleans."""
    if dtype is DType.STRING:
        return np.full(shape, "text", object)
    if dtype is DType.BOOL:
        return generator.integers(0, 2, shape).astype(np.bool_)
    if dtype.is_integer:
        return generator.integers(0, 2, shape).astype(dtype.numpy)
    values = generator.standard_normal(shape)
    if dtype.kind == "c":
        return (values + 1j * generator.standard_normal(shape)).astype(dtype.numpy)
    return values.astype(np.float32).astype(dtype.numpy)
