"""The steps of a plan on a GPU, each by itself: time by CUDA events, bandwidth and arithmetic rate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import onnxplan
from bench.cuda_models import ORDER
from bench.cuda_plans import Shapes, borrowed_slot, executor_of, planned_model
from bench.cuda_rates import cuda_runtime, event_seconds
from bench.supervised import Settings
from onnxplan.compiler.plan import Step
from onnxplan.compiler.plan_text import kernel_name

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
    with planned_model(name, settings.device) as (session, shapes):
        times = time_steps(session, shapes, settings)
    total = sum(item.seconds for item in times)
    return {
        "steps": [item.to_json() for item in times],
        "total_us": round(1e6 * total, 1),
        "flops": sum(item.step.flops for item in times),
        "bytes": sum(item.step.bytes for item in times),
    }


def time_steps(session: onnxplan.InferenceSession, shapes: Shapes, settings: Settings) -> list[StepTime]:
    """Times of all steps that start anything, in a slot of the plan for input ``shapes``."""
    runtime = cuda_runtime(settings)
    executor = executor_of(session, shapes)
    with borrowed_slot(executor, "timing steps") as slot:
        return [
            StepTime(
                number,
                executor.plan.steps[number],
                event_seconds(runtime, slot.stream, partial(queue, slot.stream), REPEATS),
            )
            for number, queue in zip(executor.launched_steps, slot._steps, strict=True)
        ]
