"""Inputs for the command line: from files, or random ones of the model's types and shapes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import typer

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import MapType, OptionalType, SequenceType, TensorType, ValueType
from onnxplan.compiler.records import dataclass
from onnxplan.feeds import suggest
from onnxplan.infos import TensorInfo, ValueInfo, may_be_absent
from onnxplan.session import InferenceSession

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Extents of symbolic dimensions and lengths of sequences, each 1 where it is not given."""

    dims: Mapping[str, int] = field(default_factory=dict)
    lengths: Mapping[str, int] = field(default_factory=dict)

    @staticmethod
    def parse(dims: Sequence[str], lengths: Sequence[str]) -> Sizes:
        """Of ``["batch=4"]`` and ``["frames=10"]``; raises ``typer.BadParameter``."""
        return Sizes(_parse("--dim", dims), parse_lengths(lengths))


def parse_lengths(texts: Sequence[str]) -> dict[str, int]:
    """``["frames=10"]`` to ``{"frames": 10}``; raises ``typer.BadParameter``."""
    return _parse("--length", texts)


def _parse(option: str, texts: Sequence[str]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for text in texts:
        name, _, size = text.rpartition("=")
        if not name or not (size.isascii() and size.isdecimal()):
            raise typer.BadParameter(f"{option} {text}: expected NAME=SIZE, such as batch=4")
        if sizes.setdefault(name, int(size)) != int(size):
            raise typer.BadParameter(f"{option} {text}: {name!r} is {sizes[name]} already")
    return sizes


def check_names(infos: Sequence[ValueInfo], dims: Iterable[str], lengths: Iterable[str]) -> None:
    """Raises ``typer.BadParameter`` for a dimension that no input has, and for what is no sequence."""
    known = sorted({dim for info in infos for dim in tensor_of(info).dims or () if isinstance(dim, str)})
    for name in dims:
        if not known:
            raise typer.BadParameter(f"--dim {name}: the inputs of the model have no symbolic dimensions")
        if name not in known:
            raise typer.BadParameter(f"no input has a dimension called {name!r}{suggest(name, known)}")
    sequences = [info.name for info in infos if _is_sequence(info)]
    for name in lengths:
        if not sequences:
            raise typer.BadParameter(f"--length {name}: no input of the model is a sequence")
        if name not in sequences:
            raise typer.BadParameter(f"no input called {name!r} is a sequence{suggest(name, sequences)}")


def resolve_shapes(session: InferenceSession, sizes: Sizes) -> dict[str, Any]:
    """What to plan for: a shape for each tensor that must be fed, a list of shapes for each sequence."""
    check_names([*session.inputs, *session.optional_inputs], sizes.dims, sizes.lengths)
    return {info.name: resolve_input(info, sizes) for info in session.inputs if not may_be_absent(info)}


def resolve_input(info: ValueInfo, sizes: Sizes) -> Any:
    """The shape of a tensor, or for a sequence a list of so many."""
    shape = resolve_shape(tensor_of(info), sizes.dims)
    return [shape] * sizes.lengths.get(info.name, 1) if _is_sequence(info) else shape


def _content(info: ValueInfo) -> ValueType | None:
    """The type of an input that is no tensor, without the optional around it."""
    if isinstance(info, TensorInfo):
        return None
    return info.kind.element if isinstance(info.kind, OptionalType) else info.kind


def _is_sequence(info: ValueInfo) -> bool:
    return isinstance(_content(info), SequenceType)


def tensor_of(info: ValueInfo) -> TensorInfo:
    """An input that is a tensor, or the tensors in one that is a sequence or an optional of them."""
    if isinstance(info, TensorInfo):
        return info
    content = _content(info)
    kind = content.element if isinstance(content, SequenceType) else content
    if not isinstance(kind, TensorType):
        return TensorInfo(info.name, None, None)
    return TensorInfo.declared(info.name, kind)


def resolve_shape(info: TensorInfo, dims: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of an input with its symbolic dimensions replaced; those not in ``dims`` are 1."""
    if info.dims is None:
        raise typer.BadParameter(
            f"the model does not tell the rank of input {info.name!r}; run it with --input"
        )
    return tuple(dim if isinstance(dim, int) else dims.get(dim or "", 1) for dim in info.dims)


def read_inputs(
    session: InferenceSession, files: Sequence[str] = (), sizes: Sizes | None = None, seed: int = 0
) -> dict[str, Any]:
    """Feeds for the session: ``NAME=FILE`` where given, random elsewhere.

    A sequence takes one file for each of its elements, a map a JSON object. Inputs with a default and
    optional ones are fed only from files. Symbolic dimensions have the extents of ``sizes``, else those of
    the files, else 1. Raises ``typer.BadParameter``.
    """
    sizes = sizes or Sizes()
    check_names([*session.inputs, *session.optional_inputs], sizes.dims, sizes.lengths)
    infos = {info.name: info for info in [*session.inputs, *session.optional_inputs]}
    given = _read_files(infos, files)
    known = dict(sizes.dims)
    for name, value in given.items():
        info = infos[name]
        if isinstance(info, TensorInfo):
            _learn_sizes(known, info, value, sizes.dims)
    generator = np.random.default_rng(seed)
    random = {
        info.name: _random(generator, info, Sizes(known, sizes.lengths))
        for info in session.inputs
        if info.name not in given and not may_be_absent(info)
    }
    return {
        name: given[name] if name in given else random[name] for name in infos if name in {**given, **random}
    }


def _random(generator: np.random.Generator, info: ValueInfo, sizes: Sizes) -> Any:
    if tensor_of(info).type is None:
        what = "--input NAME=FILE.json" if isinstance(_content(info), MapType) else "--input"
        raise typer.BadParameter(f"input {info} cannot be drawn at random; give it with {what}")
    tensor = tensor_of(info)
    shape = resolve_shape(tensor, sizes.dims)
    if _is_sequence(info):
        count = sizes.lengths.get(info.name, 1)
        return [random_input(generator, tensor, shape) for _ in range(count)]
    return random_input(generator, tensor, shape)


def _read_files(infos: Mapping[str, ValueInfo], texts: Sequence[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for text in texts:
        name, file = _split_input(text, infos)
        info = infos[name]
        if _is_sequence(info):
            given.setdefault(name, []).append(read_array(file, tensor_of(info), f"--input {text}"))
            continue
        if name in given:
            raise typer.BadParameter(f"--input {text}: {name!r} is given twice")
        kind = _content(info)
        if isinstance(kind, MapType):
            given[name] = read_map(file, kind, f"--input {text}")
        else:
            given[name] = read_array(file, tensor_of(info), f"--input {text}")
    return given


def read_map(file: Path, kind: MapType, option: str) -> dict[Any, Any]:
    """The map that a JSON object holds, whose keys are always texts. Raises ``typer.BadParameter``."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
        return found if kind.key is DType.STRING else {int(key): value for key, value in found.items()}
    except OSError as error:
        raise typer.BadParameter(f"{option}: {error.strerror or error}") from error
    except ValueError as error:
        raise typer.BadParameter(f"{option}: expected a JSON object by {kind.key} keys: {error}") from error


def _split_input(text: str, known: Mapping[str, ValueInfo]) -> tuple[str, Path]:
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
    assert info.type is not None
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
