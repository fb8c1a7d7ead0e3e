"""Whole models on a device against the CPU, in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import SkipTest

import numpy as np
import onnx

import onnxplan
from bench import models
from bench.supervised import Settings
from tests.models.light_networks import NAMES, softened, with_random_weights

TOLERANCE = 1e-4
"""Largest difference, relative to the largest element of the CPU's output."""

OTHER_DIMS = {"batch": 3, "sequence": 17}


def names(settings: Settings) -> list[str]:
    """Light networks of the onnx package first: they need neither an export nor a network."""
    light = [f"light {name}" for name in NAMES]
    zoo = [f"zoo {name} {form}" for form in ("static", "dynamic") for name in models.ZOO]
    return light + zoo


def check(name: str, settings: Settings) -> dict[str, Any]:
    kind, name, *form = name.split(" ")
    if kind == "light":
        model = softened(with_random_weights(name))
        return compare(model, [light_feeds(model)], settings)
    dynamic = form == ["dynamic"]
    try:
        path = models.path(name, dynamic=dynamic)
    except ImportError as error:
        raise SkipTest(f"not exported, and cannot be here: {error}") from error
    known = models.ZOO[name].dims
    dims = {key: size for key, size in OTHER_DIMS.items() if key in known}
    feeds = [models.feeds(name), models.feeds(name, **dims)] if dynamic else [models.feeds(name)]
    return compare(path, feeds, settings)


def light_feeds(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    given = {tensor.name for tensor in model.graph.initializer}
    generator = np.random.default_rng(1)
    return {
        value.name: generator.standard_normal([d.dim_value for d in value.type.tensor_type.shape.dim]).astype(
            np.float32
        )
        for value in model.graph.input
        if value.name not in given
    }


def compare(
    model: onnx.ModelProto | Path, all_feeds: list[dict[str, np.ndarray]], settings: Settings
) -> dict[str, Any]:
    """Runs each feed twice on the device (the second time from a graph) and once on the CPU."""
    worst = 0.0
    with (
        onnxplan.InferenceSession(model, device=settings.device) as session,
        onnxplan.InferenceSession(model) as reference,
    ):
        for feeds in all_feeds:
            expected = reference.run_sync(feeds)
            for attempt in ("first run", "replay"):
                results = session.run_sync(feeds)
                for name in reference.output_names:
                    error = relative_error(results[name].numpy(), expected[name].numpy())
                    worst = max(worst, error)
                    assert error <= TOLERANCE, f"{attempt}: output {name} differs by {error:.3g} of its scale"
        plan = session.plan({name: array.shape for name, array in feeds.items()})
    return {
        "error": worst,
        "steps": len(plan.steps),
        "arena_bytes": plan.arena_bytes,
        "arena_lower_bound": plan.arena_lower_bound,
    }


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference over the largest magnitude; infinite where shapes, types or NaNs differ."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return np.inf
    if not np.isfinite(found).all():
        return np.inf
    scale = float(np.abs(expected.astype(np.float64)).max(initial=0.0)) or 1.0
    return float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0)) / scale
