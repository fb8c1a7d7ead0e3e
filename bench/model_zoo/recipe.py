"""What a benchmark model is: its inputs, its symbolic dimensions and how it is built and exported."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

Dims = Mapping[str, int]
Fill = Callable[[np.random.Generator, tuple[int, ...], Dims], np.ndarray]
SymbolicDim = int | Callable[[Dims], int]


class Exporter(enum.StrEnum):
    """How a module becomes an ONNX file. Deployed models come from all three, and their graphs differ."""

    DYNAMO = "dynamo"
    """torch.export through onnxscript, optimised as torch does by default."""
    DYNAMO_UNFUSED = "dynamo-unfused"
    """The same with constants folded but nothing rewritten: BatchNormalization and Pad nodes survive."""
    TORCHSCRIPT = "torchscript"
    """The tracing exporter: decomposed GELU, chains of Shape, Gather and Concat for dynamic dimensions."""


@dataclass(frozen=True)
class Input:
    """One graph input.

    `shape` holds an int for a fixed dimension and a name for a symbolic one; `fill(rng, shape, dims)` returns
    plausible values of that shape, in the input's dtype.
    """

    name: str
    shape: tuple[int | str, ...]
    fill: Fill

    def concrete_shape(self, dims: Dims) -> tuple[int, ...]:
        """The shape with every symbolic dimension replaced by its value in `dims`."""
        return tuple(dims[size] if isinstance(size, str) else size for size in self.shape)

    def dynamic_axes(self) -> dict[int, str]:
        """Axis number to the symbolic dimension's name, for the axes that have one."""
        return {axis: size for axis, size in enumerate(self.shape) if isinstance(size, str)}


@dataclass(frozen=True)
class Recipe:
    """How one benchmark model is made.

    `build` returns the torch module in eval mode with fixed weights; its `forward` takes the inputs in order
    and returns a tensor or a tuple of tensors, in the order of `outputs`. `dims` gives each symbolic
    dimension its size in the static form, or computes it from those before it. The dynamic form is traced at
    `trace_dims` (sizes of 1 would be taken for constants) and verified at the static sizes and at each of
    `check_dims`.
    `version` is part of the file name: raise it with any change that alters the exported file.
    """

    name: str
    summary: str
    build: Callable[[], torch.nn.Module]
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    dims: Mapping[str, SymbolicDim]
    trace_dims: Dims
    check_dims: tuple[Dims, ...]
    exporter: Exporter = Exporter.DYNAMO
    opset: int = 20
    version: int = 1

    def resolve_dims(self, overrides: Dims) -> dict[str, int]:
        """Every symbolic dimension's size, with `overrides` in place of the static sizes.

        Raises:
            ValueError: `overrides` names a dimension that this model does not have, or one that is computed.
        """
        free = [name for name, size in self.dims.items() if isinstance(size, int)]
        unknown = sorted(set(overrides) - set(free))
        if unknown:
            raise ValueError(
                f"{self.name} has no free dimension {', '.join(unknown)}; it has {', '.join(free)}"
            )
        sizes: dict[str, int] = {}
        for name, size in self.dims.items():
            sizes[name] = overrides.get(name, size) if isinstance(size, int) else size(sizes)
        return sizes

    def feeds(self, *, seed: int = 0, dims: Dims | None = None) -> dict[str, np.ndarray]:
        """Random plausible inputs by name, at the static sizes changed by `dims`.

        Raises:
            ValueError: `dims` names a dimension that this model does not have.
        """
        sizes = self.resolve_dims(dims or {})
        rng = np.random.default_rng(seed)
        return {i.name: i.fill(rng, i.concrete_shape(sizes), sizes) for i in self.inputs}


def normal(scale: float = 1.0) -> Fill:
    """Fills with float32 values from a normal distribution of standard deviation `scale`."""

    def fill(rng: np.random.Generator, shape: tuple[int, ...], dims: Dims) -> np.ndarray:
        return scale * rng.standard_normal(shape, dtype=np.float32)

    return fill


def token_ids(vocabulary_size: int) -> Fill:
    """Fills with int64 values from 0 up to, but not including, `vocabulary_size`."""

    def fill(rng: np.random.Generator, shape: tuple[int, ...], dims: Dims) -> np.ndarray:
        return rng.integers(0, vocabulary_size, shape, dtype=np.int64)

    return fill


def constant(value: int) -> Fill:
    """Fills with one int64 value, as an attention mask of ones."""

    def fill(rng: np.random.Generator, shape: tuple[int, ...], dims: Dims) -> np.ndarray:
        return np.full(shape, value, dtype=np.int64)

    return fill


def positions(start: str | None = None) -> Fill:
    """Fills each row with int64 0, 1, 2, ..., counted from the size of the dimension `start` where given."""

    def fill(rng: np.random.Generator, shape: tuple[int, ...], dims: Dims) -> np.ndarray:
        first = 0 if start is None else dims[start]
        return np.broadcast_to(np.arange(first, first + shape[-1], dtype=np.int64), shape).copy()

    return fill
