"""The data of a report: what plans, profiles and lowering know about a model, as plain JSON values.

Times are in seconds, sizes in bytes. All stages and steps are known by their numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import onnxplan
from onnxplan.compiler.plan import ExecutionPlan, Step
from onnxplan.compiler.plan_text import kernel_name, operand_range, operand_text
from onnxplan.compiler.provenance import COMPUTED, NodeOrigin
from onnxplan.profiling import BETWEEN, Profile, StageProfile
from onnxplan.report.layout import Edge, arrange
from onnxplan.runtime.bound_stage import BoundStage
from onnxplan.runtime.planner import StageFacts
from onnxplan.session import InferenceSession

STEPS = "steps"
"""The fate of nodes that steps name."""
REMOVED = "removed"
"""The fate of nodes whose operations passes removed: nothing needs them, or others compute the same."""
REWRITTEN = "rewritten"
"""The fate of nodes that a rewrite of the graph replaced."""
UNKNOWN = "unknown"
"""The fate of nodes without a step of an artifact's plan, which does not tell."""


def collect(
    session: InferenceSession, name: str, stages: Sequence[BoundStage], profile: Profile | None = None
) -> dict[str, Any]:
    """All that a report shows of ``stages``, which follow each other in a run, and of their ``profile``.

    ``name`` is the model's. Raises ``ValueError`` where the profile is of other stages.
    """
    plans = [stage.executor.plan for stage in stages]
    if profile is not None and [len(each.steps) for each in profile.stages] != [len(p.steps) for p in plans]:
        raise ValueError("the profile is of other stages than the plans")
    operators = session._engine.planner.operators()
    timed: Sequence[StageProfile | None] = [None] * len(plans) if profile is None else profile.stages
    data = collect_plans(name, plans, operators, timed)
    for found, stage in zip(data["stages"], stages, strict=True):
        found["ends"] = "" if stage.facts.final else _end(stage.facts)
    last = stages[-1]
    data["nodes"] = _node_rows(plans, session._engine.planner.origins(last.request, last.answers), operators)
    data["complete"] = last.facts.final
    if profile is not None:
        data["run"] = {"seconds": profile.seconds, "runs": profile.runs, "between": profile.between_stages}
        data["ceilings"] = _ceilings(profile)
    return data


def collect_plans(
    name: str,
    plans: Sequence[ExecutionPlan],
    operators: Mapping[str, str],
    timed: Sequence[StageProfile | None],
) -> dict[str, Any]:
    """The same without what only a session knows: plans, and times where there are some."""
    target = plans[0].target
    return {
        "model": name,
        "version": onnxplan.__version__,
        "target": str(target),
        "device": target.device,
        "threads": target.threads,
        "assumed": {"flops": target.flops, "bandwidth": target.bandwidth, "launch": target.launch},
        "ceilings": None,
        "run": None,
        "complete": True,
        "stages": [_stage(plan, operators, times) for plan, times in zip(plans, timed, strict=True)],
        "nodes": _node_rows(plans, None, operators),
    }


def _end(facts: StageFacts) -> str:
    return f"the host works for {facts.asked_by}" if facts.function else f"{facts.asked_by} depends on data"


def _ceilings(profile: Profile) -> dict[str, float | None] | None:
    found = profile.ceilings
    if found is None:
        return None
    byte_operations = found.byte_operations if math.isfinite(found.byte_operations) else None
    return {"flops": found.flops, "bandwidth": found.bandwidth, "byte_operations": byte_operations}


def _stage(plan: ExecutionPlan, operators: Mapping[str, str], times: StageProfile | None) -> dict[str, Any]:
    boxes, edges = plan_edges(plan)
    layout = arrange(boxes, edges)
    constants = [math.prod(each.shape) * each.dtype.itemsize for each in plan.constants]
    timed = [None] * len(plan.steps) if times is None else [row.seconds for row in times.steps]
    others = [] if times is None else [row for row in times.rows if row.index is None]
    return {
        "ends": "",
        "arena": plan.arena_bytes,
        "bound": plan.arena_lower_bound,
        "scratch": plan.scratch_bytes,
        "constants": [len(constants), sum(constants)],
        "kernels": len(plan.kernels),
        "seconds": None if times is None else times.seconds,
        "between": sum(row.seconds for row in others if row.kind == BETWEEN),
        "host": sum(row.seconds for row in others if row.kind != BETWEEN),
        "inputs": [f"{each.name}: {each.dtype}{list(each.shape)}" for each in plan.inputs],
        "outputs": [f"{each.name}: {each.dtype}{list(each.shape)}" for each in plan.outputs],
        "steps": [_step(step, plan, operators, s) for step, s in zip(plan.steps, timed, strict=True)],
        "buffers": [
            {
                "name": each.name,
                "space": each.space,
                "index": each.index,
                "offset": each.offset,
                "size": each.size,
                "first": each.first,
                "last": each.last,
            }
            for each in plan.buffers
        ],
        "edges": [[edge.source, edge.target, edge.buffer, edge.size] for edge in edges],
        "layout": {
            "rows": layout.rows,
            "columns": layout.columns,
            "lanes": layout.lanes,
            "tracks": layout.tracks,
        },
    }


def _step(
    step: Step, plan: ExecutionPlan, operators: Mapping[str, str], seconds: float | None
) -> dict[str, Any]:
    return {
        "family": step.kernel.family,
        "kernel": kernel_name(step.kernel),
        "nodes": step.nodes,
        "operators": list(dict.fromkeys(operators[node] for node in step.nodes if node in operators)),
        "flops": step.flops,
        "bytes": step.bytes,
        "estimated": step.seconds,
        "seconds": seconds,
        "tiles": step.tiles,
        "scratch": step.scratch,
        "writes": [operand_text(step.operands[place], plan.buffers) for place in step.outputs],
        "reads": [
            operand_text(operand, plan.buffers)
            for place, operand in enumerate(step.operands)
            if place not in step.outputs
        ],
        "buffers": list(dict.fromkeys(operand.buffer for operand in step.operands)),
    }


def plan_edges(plan: ExecutionPlan) -> tuple[int, list[Edge]]:
    """How many boxes a plan's graph has, and the tensors that they hand on.

    Boxes are the inputs, the steps, then the outputs. A step reads what all steps before it (or an input)
    wrote into the range of bytes that it reads; constants come from no box.
    """
    first_step = len(plan.inputs)
    first_output = first_step + len(plan.steps)
    writes: dict[int, list[tuple[int, int, int]]] = {}
    found: dict[tuple[int, int, int], int] = {}

    def read(box: int, buffer: int, low: int, high: int) -> None:
        for writer, start, end in writes.get(buffer, ()):
            common = min(end, high) - max(start, low)
            if common > 0 and writer != box:
                key = writer, box, buffer
                found[key] = max(found.get(key, 0), common)

    for number, buffer in enumerate(plan.buffers):
        if buffer.space == "input":
            writes[number] = [(buffer.index, 0, buffer.size)]
    for number, step in enumerate(plan.steps):
        box = first_step + number
        for place, operand in enumerate(step.operands):
            if place not in step.outputs:
                read(box, operand.buffer, *operand_range(operand))
        for place in step.outputs:
            operand = step.operands[place]
            writes.setdefault(operand.buffer, []).append((box, *operand_range(operand)))
    for number, buffer in enumerate(plan.buffers):
        if buffer.space == "output":
            read(first_output + buffer.index, number, 0, buffer.size)
    edges = [Edge(*key, size) for key, size in found.items()]
    return first_output + len(plan.outputs), edges


def _node_rows(
    plans: Sequence[ExecutionPlan], origins: Sequence[NodeOrigin] | None, operators: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Every node once: what became of it, and the steps (stage, number) that name it."""
    steps: dict[str, list[tuple[int, int]]] = {}
    for stage, plan in enumerate(plans):
        for number, step in enumerate(plan.steps):
            for node in step.nodes:
                steps.setdefault(node, []).append((stage, number))
    rows: list[dict[str, Any]] = []
    if origins is None:
        for label in dict.fromkeys((*operators, *steps)):
            places = steps.get(label, [])
            rows.append(
                _node_row(label, operators.get(label, ""), STEPS if places else UNKNOWN, None, places)
            )
        return rows
    known = set()
    for origin in origins:
        known.add(origin.label)
        places = steps.get(origin.label, [])
        fate = STEPS if places else REMOVED if origin.fate == COMPUTED else origin.fate
        rows.append(_node_row(origin.label, origin.op_type, fate, origin.stage, places))
    rows += [
        _node_row(label, "", STEPS, None, places) for label, places in steps.items() if label not in known
    ]
    rows += [
        _node_row(label, kind, REWRITTEN, None, [])
        for label, kind in operators.items()
        if label not in known and label not in steps
    ]
    return rows


def _node_row(
    label: str, kind: str, fate: str, stage: int | None, places: list[tuple[int, int]]
) -> dict[str, Any]:
    return {"name": label, "operator": kind, "fate": fate, "stage": stage, "steps": places}
