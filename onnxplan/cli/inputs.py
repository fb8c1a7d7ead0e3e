"""Inputs for the command line: from files, or random ones of the model's types and shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
        name, _, size = text.rpartition("=")
        if not name or not (size.isascii() and size.isdecimal()):
            raise typer.BadParameter(f"--dim {text}: expected NAME=SIZE, such as batch=4")
        if sizes.setdefault(name, int(size)) != int(size):
            raise typer.BadParameter(f"--dim {text}: {name!r} is {sizes[name]} already")
    return sizes


def check_dim_names(infos: Sequence[TensorInfo], names: Iterable[str]) -> None:
    """Raises ``typer.BadParameter`` for a dimension that none of the inputs has."""
    known = sorted({dim for info in infos for dim in info.dims or () if isinstance(dim, str)})
    for name in names:
        if not known:
            raise typer.BadParameter(f"--dim {name}: the inputs of the model have no symbolic dimensions")
        if name not in known:
            raise typer.BadParameter(f"no input has a dimension called {name!r}{suggest(name, known)}")


def resolve_shapes(session: InferenceSession, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """A shape for each input that must be fed; symbolic dimensions that ``sizes`` lacks are 1."""
    check_dim_names([*session.inputs, *session.optional_inputs], sizes)
    return {info.name: resolve_shape(info, sizes) for info in session.inputs}


def resolve_shape(info: TensorInfo, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of an input with its symbolic dimensions replaced; those not in ``sizes`` are 1."""
    if info.dims is None:
        raise typer.BadParameter(
            f"the model does not tell the rank of input {info.name!r}; run it with --input"
        )
    return tuple(dim if isinstance(dim, int) else sizes.get(dim or "", 1) for dim in info.dims)


def read_inputs(
    session: InferenceSession,
    files: Sequence[str] = (),
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
) -> dict[str, Array]:
    """Feeds for the session: ``NAME=FILE.npy`` where given, random elsewhere.

    Inputs with a default are fed only from files. Symbolic dimensions have the sizes of ``sizes``, else those
    of the files, else 1. Raises ``typer.BadParameter``.
    """
    sizes = sizes or {}
    check_dim_names([*session.inputs, *session.optional_inputs], sizes)
    infos = {info.name: info for info in [*session.inputs, *session.optional_inputs]}
    given = _read_files(infos, files)
    known = dict(sizes)
    for name, array in given.items():
        _learn_sizes(known, infos[name], array, sizes)
    generator = np.random.default_rng(seed)
    random = {
        info.name: random_input(generator, info, resolve_shape(info, known))
        for info in session.inputs
        if info.name not in given
    }
    return {
        name: given[name] if name in given else random[name] for name in infos if name in {**given, **random}
    }


def _read_files(infos: Mapping[str, TensorInfo], texts: Sequence[str]) -> dict[str, Array]:
    given: dict[str, Array] = {}
    for text in texts:
        name, file = _split_input(text, infos)
        if name in given:
            raise typer.BadParameter(f"--input {text}: {name!r} is given twice")
        given[name] = read_array(file, infos[name], f"--input {text}")
    return given


def _split_input(text: str, known: Mapping[str, TensorInfo]) -> tuple[str, Path]:
    """Name and file of ``NAME=FILE``, where both may hold equals signs: the longest name that exists."""
    head, equals, _ = text.partition("=")
    if not equals or text.endswith("="):
        raise typer.BadParameter(f"--input {text}: expected NAME=FILE.npy")
    names = [name for name in known if text.startswith(f"{name}=")]
    if not names:
        inputs = suggest(head, known) if known else ": it has none"
        raise typer.BadParameter(f"--input {text}: the model has no input {head!r}{inputs}")
    name = max(names, key=len)
    return name, Path(text[len(name) + 1 :])


def read_array(file: Path, info: TensorInfo, option: str) -> Array:
    """The array of an ``.npy`` file for an input.

    NumPy stores types that it lacks (bfloat16) as raw bytes, which are taken as the input's type.
    """
    try:
        array = np.load(file, allow_pickle=False)
    except OSError as error:
        raise typer.BadParameter(f"{option}: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise typer.BadParameter(f"{option}: it is not an .npy file of numbers or texts: {error}") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise typer.BadParameter(
            f"{option}: it is an archive of several arrays; expected an .npy file of one"
        )
    expected = DType.from_label(info.type).numpy if info.type else array.dtype
    if array.dtype.kind == "V" and array.dtype.names is None and array.dtype.itemsize == expected.itemsize:
        return array.view(expected)
    return array.astype(object) if array.dtype.kind == "U" else array


def _learn_sizes(known: dict[str, int], info: TensorInfo, array: Array, asked: Mapping[str, int]) -> None:
    """Enters the symbolic dimensions of an array from a file; the session checks ranks and fixed ones."""
    if info.dims is None or len(info.dims) != array.ndim:
        return
    for dim, size in zip(info.dims, array.shape, strict=True):
        if isinstance(dim, str):
            if asked.get(dim, size) != size:
                raise typer.BadParameter(
                    f"--dim {dim}={asked[dim]}, but {dim!r} is {size} in the file of {info}"
                )
            known.setdefault(dim, size)


def random_input(generator: np.random.Generator, info: TensorInfo, shape: tuple[int, ...]) -> Array:
    """Random elements for an input; raises ``typer.BadParameter`` where there can be none."""
    if info.type is None:
        raise typer.BadParameter(f"input {info.name!r} is not a tensor; such inputs are not supported")
    try:
        return random_array(generator, DType.from_label(info.type), shape)
    except (MemoryError, ValueError) as error:
        raise typer.BadParameter(f"input {info} of shape {list(shape)} is too large: {error}") from error


def random_array(generator: np.random.Generator, dtype: DType, shape: tuple[int, ...]) -> Array:
    """Standard normal floats, integers 0 and 1 (which are valid indices nearly everywhere), fair booleans."""
    if dtype is DType.STRING:
        return np.full(shape, "text", object)
    if dtype is DType.BOOL:
        return generator.integers(0, 2, shape).astype(np.bool_)
    if dtype.is_integer:
        return generator.integers(0, 2, shape).astype(dtype.numpy)
    values = generator.standard_normal(shape)
    if dtype.kind == "c":
        return (values + 1j * generator.standard_normal(shape)).astype(dtype.numpy)
    return values.astype(np.float32).astype(dtype.numpy) if dtype.itemsize < 8 else values.astype(dtype.numpy)
