"""Checks an exported model against the torch module it came from, through ONNX Runtime on the CPU."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import torch

from bench.model_zoo.recipe import Dims, Recipe

RELATIVE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Check:
    """One comparison: the symbolic sizes it ran at and the largest error over the outputs.

    `error` is the largest absolute difference of an output, relative to that output's root mean square.
    """

    dims: Mapping[str, int]
    error: float
    deviation: float

    @property
    def passed(self) -> bool:
        """Whether the error is finite and within tolerance, and the outputs are not all alike."""
        return self.error <= RELATIVE_TOLERANCE and self.deviation > 1e-3


def verify(recipe: Recipe, static: pathlib.Path, dynamic: pathlib.Path) -> list[Check]:
    """Runs the static form at its sizes, the dynamic form at those and at each of `check_dims`.

    Returns one Check a run, the static form's first.

    Raises:
        onnx.checker.ValidationError: a file is not a valid model.
        onnxruntime.capi.onnxruntime_pybind11_state.Fail: ONNX Runtime cannot load or run a file.
        ValueError: an output's name, shape or dtype is not the module's, or a value is not finite.
    """
    module = recipe.build()
    checks: list[Check] = []
    for file, sizes in ((static, ({},)), (dynamic, ({}, *recipe.check_dims))):
        onnx.checker.check_model(file, full_check=True)
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        checks += [_compare(recipe, module, session, dims) for dims in sizes]
        del session
    return checks


def _compare(
    recipe: Recipe, module: torch.nn.Module, session: onnxruntime.InferenceSession, dims: Dims
) -> Check:
    feeds = recipe.feeds(seed=1, dims=dims)
    mask = feeds.get("attention_mask")
    if mask is not None and len(mask) > 1:
        # A mask of ones would not show that the mask is read at all. The last token stays: decoding needs it.
        mask[-1, -(mask.shape[1] // 3) : -1] = 0
    with torch.no_grad():
        expected = module(*(torch.from_numpy(value) for value in feeds.values()))
    expected = [expected] if isinstance(expected, torch.Tensor) else expected
    names = [output.name for output in session.get_outputs()]
    if names != list(recipe.outputs):
        raise ValueError(f"{recipe.name} has outputs {names}, expected {list(recipe.outputs)}")
    errors, deviations = [], []
    for name, actual, wanted in zip(names, session.run(None, feeds), expected, strict=True):
        errors.append(_error(f"{recipe.name} output {name}", actual, wanted.numpy()))
        deviations.append(float(actual.std()))
    return Check(recipe.resolve_dims(dims), max(errors), min(deviations))


def _error(label: str, actual: np.ndarray, expected: np.ndarray) -> float:
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        raise ValueError(
            f"{label} is {actual.dtype} {actual.shape}, expected {expected.dtype} {expected.shape}"
        )
    if not np.isfinite(actual).all():
        raise ValueError(f"{label} has values that are not finite")
    return float(np.abs(actual - expected).max() / np.sqrt(np.mean(np.square(expected))))
