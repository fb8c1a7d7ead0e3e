"""Outputs on the command line: what they look like, and files for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.tensor import Tensor

SHOWN_ELEMENTS = 4
NAME_CHARACTERS = 60
"""Of a file name: up to four bytes each, and file systems take 255 bytes."""


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
    return " ".join([*shown, "..."] if tensor.size > SHOWN_ELEMENTS else shown)


def format_element(value: Any, digits: int = 6) -> str:
    """One element; floats to so many significant digits."""
    if isinstance(value, str):
        return repr(value)
    return f"{value:.{digits}g}" if isinstance(value, float | np.floating) else str(value)


def write_arrays(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes each tensor to ``folder``, which is made; raises ``OSError``.

    Strings become NumPy's fixed-width texts; types that NumPy lacks (bfloat16) are stored as raw bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = file_names(tensors)
    for name, tensor in tensors.items():
        np.save(folder / names[name], _storable(tensor), allow_pickle=False)


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
