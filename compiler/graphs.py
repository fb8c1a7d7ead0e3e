"""Which steps of a plan a CUDA graph holds, and why the others are not in one.

A graph is captured from what a stream is given: kernels, cuBLASLt's products, copies and fills on the device.
Work of the host cannot be recorded, so it divides the plan's steps into runs of consecutive steps, and each
run that the device computes becomes one graph.
"""

from __future__ import annotations

import itertools

from onnxplan.compiler.plan import ExecutionPlan, Step
from onnxplan.compiler.records import dataclass

HOST_FAMILIES: dict[str, str] = {}
"""Kernel families that the host computes, each with the reason; no family of this version is one."""


@dataclass(frozen=True, slots=True)
class GraphRange:
    """The steps ``first`` to ``last``, both included: one graph, or outside of graphs for a ``reason``."""

    first: int
    last: int
    reason: str = ""

    @property
    def captured(self) -> bool:
        return not self.reason


def graph_ranges(plan: ExecutionPlan) -> tuple[GraphRange, ...]:
    """All steps of a plan in order, divided into graphs and what runs between them."""
    found: list[GraphRange] = []
    for reason, group in itertools.groupby(enumerate(plan.steps), key=lambda item: host_reason(item[1])):
        numbers = [number for number, _ in group]
        found.append(GraphRange(numbers[0], numbers[-1], reason))
    return tuple(found)


def host_reason(step: Step) -> str:
    """Why a step cannot be captured; empty if it can."""
    return HOST_FAMILIES.get(step.kernel.family, "")


def host_copies(plan: ExecutionPlan) -> int:
    """Copies between host and device inside the plan: one for each operand that a step of the host touches.

    The copies of inputs and outputs before and after a run are not among them.
    """
    return sum(len(step.operands) for step in plan.steps if host_reason(step))
