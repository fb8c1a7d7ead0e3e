"""The steps of a plan on a GPU, each by itself: time by CUDA events, bandwidth and arithmetic rate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import onnxplan
from bench import models
from bench.cuda_models import ORDER
from bench.cuda_rates import cuda_runtime, event_seconds
from bench.supervised import Settings
from onnxplan.compiler.plan import Step
from onnxplan.compiler.plan_text import kernel_name
from onnxplan.runtime.cuda.matmul import FAMILY, Product
from onnxplan.runtime.planner import Request

BATCHES = (1, 32)
REPEATS = 10
MODELS = ORDER[:8]


@dataclass(frozen=True, slots=True)
class StepTime:
    """A step with its time on the device in seconds."""

    number: int
    step: Step
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Microseconds, GB/s and TFLOP/s by the plan's estimates of bytes and FLOPs."""
        return {
            "step": self.number,
            "us": round(1e6 * self.seconds, 2),
            "estimated_us": round(1e6 * self.step.seconds, 2),
            "GB/s": round(self.step.bytes / self.seconds / 1e9, 1),
            "TFLOP/s": round(self.step.flops / self.seconds / 1e12, 2),
            "blocks": self.step.tiles,
            "kernel": kernel_name(self.step.kernel),
            "nodes": ", ".join(self.step.nodes)[:80],
        }


def names(settings: Settings) -> list[str]:
    return [f"{name} {batch}" for name in MODELS for batch in BATCHES]


def check(name: str, settings: Settings) -> dict[str, Any]:
    """The table of a model's first plan; a step's launch is in its time, which counts below 5 us."""
    cuda_runtime(settings)
    model, batch = name.split(" ")
    feeds = models.feeds(model, batch=int(batch))
    with onnxplan.InferenceSession(models.path(model, dynamic=True), device=settings.device) as session:
        session.run_sync(feeds)
        times = time_steps(session, {key: array.shape for key, array in feeds.items()}, settings)
    total = sum(item.seconds for item in times)
    return {
        "steps": [item.to_json() for item in times],
        "total_us": round(1e6 * total, 1),
        "flops": sum(item.step.flops for item in times),
        "bytes": sum(item.step.bytes for item in times),
    }


def time_steps(
    session: onnxplan.InferenceSession, shapes: dict[str, tuple[int, ...]], settings: Settings
) -> list[StepTime]:
    """Times of all steps that start anything, in a slot of the plan for input ``shapes``."""
    runtime = cuda_runtime(settings)
    request = Request(session.input_names, tuple(shapes[name] for name in session.input_names))
    executor: Any = session._engine.first_stage(request).executor
    plan = executor.plan
    launched = [(n, step) for n, step in enumerate(plan.steps) if not _is_empty(step, plan)]
    shared = executor._shared
    slot, lane = shared.turns.take(None)
    try:
        with shared.context.active("timing steps"):
            slot.drain()
            return [
                StepTime(
                    number, step, event_seconds(runtime, slot.stream, partial(queue, slot.stream), REPEATS)
                )
                for (number, step), queue in zip(launched, slot._steps, strict=True)
            ]
    finally:
        shared.turns.queued(slot)
        shared.give(slot, lane)


def _is_empty(step: Step, plan: onnxplan.ExecutionPlan) -> bool:
    """Does the step start nothing?"""
    return Product.of(step, plan).is_empty if step.kernel.family == FAMILY else not step.tiles
