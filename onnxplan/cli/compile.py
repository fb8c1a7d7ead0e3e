"""``onnxplan compile``: what its options mean in terms of :func:`onnxplan.compile`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from onnxplan.cli.inputs import Sizes, check_names, resolve_input
from onnxplan.infos import ValueInfo, may_be_absent
from onnxplan.interface import Signature

Shapes = dict[str, Any]


def parse_dim_lists(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """``["batch=1,8"]`` to ``{"batch": (1, 8)}``; raises ``typer.BadParameter``."""
    sizes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, _, listed = text.rpartition("=")
        numbers = listed.split(",")
        if not name or not all(number.isascii() and number.isdecimal() for number in numbers):
            raise typer.BadParameter(
                f"--dim {text}: expected NAME=SIZE or NAME=SIZE,SIZE,..., such as batch=1,8"
            )
        if name in sizes:
            raise typer.BadParameter(f"--dim {text}: {name!r} is given twice")
        sizes[name] = tuple(map(int, numbers))
    return sizes


def parse_shapes(texts: Sequence[str]) -> list[Shapes]:
    """``["x=1x3x8,mask=1x8"]`` to ``[{"x": (1, 3, 8), "mask": (1, 8)}]``; raises ``typer.BadParameter``."""
    found: list[Shapes] = []
    for text in texts:
        shapes: Shapes = {}
        for item in text.split(","):
            name, _, extents = item.rpartition("=")
            numbers = extents.split("x") if extents else []
            if not name or name in shapes or not all(n.isascii() and n.isdecimal() for n in numbers):
                raise typer.BadParameter(
                    f"--shape {text}: expected NAME=1x3x224x224, with commas between inputs"
                )
            shapes[name] = tuple(map(int, numbers))
        found.append(shapes)
    return found


def shape_sets(
    signature: Signature,
    shapes: Sequence[Shapes],
    sizes: Mapping[str, Sequence[int]],
    lengths: Mapping[str, int],
) -> list[Shapes]:
    """All ``shapes`` with each combination of ``sizes`` for the inputs that they leave open.

    Symbolic dimensions without a size and sequences without a length are 1. Raises ``typer.BadParameter`` for
    names that the model has not.
    """
    check_names((*signature.inputs, *signature.optional_inputs), sizes, lengths)
    found: list[Shapes] = []
    for given in shapes or [{}]:
        for combination in itertools.product(*sizes.values()):
            chosen = dict(zip(sizes, combination, strict=True))
            left = [info for info in signature.inputs if info.name not in given]
            complete = {**given, **_resolved(left, Sizes(chosen, lengths))}
            if complete not in found:
                found.append(complete)
    return found


def _resolved(infos: Iterable[ValueInfo], sizes: Sizes) -> Shapes:
    return {info.name: resolve_input(info, sizes) for info in infos if not may_be_absent(info)}


def size_text(path: Path) -> str:
    """``12.3 MB``"""
    return f"{path.stat().st_size / 1e6:.1f} MB"
