"""Outputs on the command line: what they look like, and files for them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.infos import describe
from onnxplan.tensor import Tensor

SHOWN_ELEMENTS = 4
SHOWN_ITEMS = 16
"""Of a sequence."""
NAME_CHARACTERS = 60
"""Of a file name: up to four bytes each, and file systems take 255 bytes."""


def output_rows(results: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str, str, str]]:
    """Name, type, least, largest, mean and first elements of each output; of sequences the elements."""
    for name, value in results.items():
        if isinstance(value, list):
            shown = {f"{name}[{position}]": item for position, item in enumerate(value[:SHOWN_ITEMS])}
            yield from output_rows(shown)
            if len(value) > SHOWN_ITEMS or not value:
                yield name, f"sequence of {len(value)}", "", "", "", "..." if value else ""
        elif isinstance(value, dict):
            items = [f"{key}: {format_element(item)}" for key, item in list(value.items())[:SHOWN_ELEMENTS]]
            yield name, f"map of {len(value)}", "", "", "", _shortened(items, len(value), ", ")
        elif value is None:
            yield name, "absent", "", "", "", ""
        else:
            kind = describe(value.type, value.dims)
            yield name, kind, *statistics(value), first_elements(value)


def statistics(tensor: Tensor) -> tuple[str, str, str]:
    """Least, largest and mean element; empty where there is no such thing."""
    array = tensor.numpy()
    if array.size == 0 or tensor.type.startswith(("string", "complex")):
        return "", "", ""
    wide = array.astype(np.float64)
    # Infinities of both signs have no mean, which is no reason to warn.
    with np.errstate(invalid="ignore", over="ignore"):
        return f"{wide.min():.6g}", f"{wide.max():.6g}", f"{wide.mean():.6g}"


def first_elements(tensor: Tensor) -> str:
    """The first elements in row-major order."""
    shown = [format_element(value) for value in tensor.data[:SHOWN_ELEMENTS]]
    return _shortened(shown, tensor.size, " ")


def _shortened(shown: list[str], count: int, separator: str) -> str:
    return separator.join([*shown, "..."] if count > len(shown) else shown)


def format_element(value: Any, digits: int = 6) -> str:
    """One element; floats to so many significant digits."""
    if isinstance(value, str):
        return repr(value)
    return f"{value:.{digits}g}" if isinstance(value, float | np.floating) else str(value)


def write_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Writes each output to ``folder``, which is made; raises ``OSError``.

    Of a sequence each element gets a file; maps are written as JSON, and absent optionals not at all.
    Strings become NumPy's fixed-width texts; types that NumPy lacks (bfloat16) are stored as raw bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = dict(_files(results))
    for name, file in file_names(values).items():
        value = values[name]
        if isinstance(value, Tensor):
            np.save(folder / file, _storable(value), allow_pickle=False)
        else:
            (folder / file).with_suffix(".json").write_text(json.dumps(value), encoding="utf-8")


def _files(results: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What goes to a file of its own."""
    for name, value in results.items():
        if isinstance(value, list) and not (value and isinstance(value[0], dict)):
            yield from _files({f"{name}-{position}": item for position, item in enumerate(value)})
        elif value is not None:
            yield name, value


def _storable(tensor: Tensor) -> npt.NDArray[Any]:
    array = tensor.numpy()
    if tensor.type == "string":
        return array.astype(str)
    # The types of ml_dtypes are written in ways that NumPy cannot always read.
    return array if array.dtype.isbuiltin == 1 else array.view(f"V{array.dtype.itemsize}")


def file_names(names: Iterable[str]) -> dict[str, str]:
    """``NAME.npy`` for each name, with ``_`` for what files should not be called, and all different."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        stem = "".join(c if c.isalnum() or c in "._-" else "_" for c in name)[:NAME_CHARACTERS]
        stem = f"_{stem}" if not stem or stem.startswith(".") else stem
        unique, number = stem, 2
        # Some file systems do not tell upper from lower case.
        while unique.casefold() in taken:
            unique, number = f"{stem}-{number}", number + 1
        taken.add(unique.casefold())
        found[name] = f"{unique}.npy"
    return found
