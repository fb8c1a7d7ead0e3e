"""In words: what became of a model's nodes, what was fused and what was not, and what a plan costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any

from onnxplan.compiler.expression import LEAVES, Expression
from onnxplan.compiler.passes.refusals import Refusals
from onnxplan.compiler.plan import ExecutionPlan, HostFunction, Step
from onnxplan.compiler.plan_text import binary, duration, shorten
from onnxplan.compiler.records import dataclass
from onnxplan.infos import TensorInfo
from onnxplan.profiling import HOST, Profile, StepProfile
from onnxplan.runtime.bound_stage import BoundStage
from onnxplan.runtime.cancellation import CancelFlag
from onnxplan.session import InferenceSession

EXAMPLES = 8
"""Lines of a section that would be longer otherwise."""
NODES_WIDTH = 160
COPIES = frozenset(("interleave", "transpose"))
"""Families of kernels that only move elements."""
MOVING = frozenset(LEAVES) - {"index"}


@dataclass(frozen=True, slots=True)
class Section:
    """Sentences under a title."""

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What there is to say about a model on a device; ``print`` shows it."""

    sections: tuple[Section, ...]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        parts = ["\n".join([each.title, *(f"  {line}" for line in each.lines)]) for each in self.sections]
        return "\n\n".join(parts)


@dataclass(slots=True)
class _Course:
    """Observes which stages a run takes."""

    stages: list[BoundStage] = field(default_factory=list)

    def execute(self, stage: BoundStage, inputs: Any, outputs: Any, cancel: CancelFlag | None) -> None:
        self.stages.append(stage)
        stage.executor.run(inputs, outputs, cancel)

    def call_host(self, stage: BoundStage, function: HostFunction, answer: Any) -> Any:
        return function(answer)


def plans_of_run(session: InferenceSession, feeds: Mapping[str, Any]) -> list[ExecutionPlan]:
    """The plans of the stages that a run with ``feeds`` takes, in order."""
    return [stage.executor.plan for stage in stages_of_run(session, feeds)]


def stages_of_run(session: InferenceSession, feeds: Mapping[str, Any]) -> list[BoundStage]:
    """The stages that a run with ``feeds`` takes, in order."""
    course = _Course()
    request, arrays = session._check(feeds, None, session._device)
    session._run_request(request, arrays, None, observer=course)
    return course.stages


def explain(
    session: InferenceSession, plans: Sequence[ExecutionPlan], refusals: Refusals, profile: Profile
) -> Explanation:
    """Explains the ``plans`` of the stages that a run takes.

    ``refusals`` are those recorded while they were made, ``profile`` is of the same course.
    """
    operators = session._engine.planner.operators()
    sections = [
        Section("Inputs and stages", tuple(_stages(session, profile))),
        Section("Nodes without a step", tuple(_absent(plans, operators))),
        Section("Fused", tuple(_fused(plans, operators))),
        Section("Neighbours that were not fused", tuple(_unfused(plans, refusals))),
        Section("Copies and transpositions left", tuple(_copies(plans))),
        Section("Work of the host", tuple(_host(profile))),
        Section("Memory", tuple(_memory(profile))),
        Section("Estimated and measured times", tuple(_estimates(profile))),
    ]
    return Explanation(tuple(each for each in sections if each.lines))


def _stages(session: InferenceSession, profile: Profile) -> Iterator[str]:
    infos = [each for each in (*session.inputs, *session.optional_inputs) if isinstance(each, TensorInfo)]
    free = sorted({dim for info in infos for dim in info.dims or () if isinstance(dim, str)})
    unknown = [info.name for info in infos if info.dims is None or None in info.dims]
    if free:
        yield f"symbolic dimensions: {', '.join(free)}; each combination of sizes gets a plan of its own"
    if unknown:
        yield f"inputs of which sizes are open: {', '.join(unknown)}; each shape gets a plan of its own"
    others = len(session.inputs) + len(session.optional_inputs) - len(infos)
    if others:
        yield f"{others} inputs are sequences, optionals or maps: each length or set of keys gets a plan"
    if not (free or unknown or others):
        yield "all inputs have fixed shapes: there is one plan"
    if len(profile.stages) == 1:
        yield f"one stage of {len(profile.stages[0].steps)} steps: nothing in it depends on data"
    else:
        yield f"{len(profile.stages)} stages, each planned with the answers of those before it"
    for stage in profile.stages:
        if stage.ends:
            yield f"stage {stage.index} ends after {len(stage.steps)} steps: {stage.ends}"


def _absent(plans: Sequence[ExecutionPlan], operators: Mapping[str, str]) -> Iterator[str]:
    """Nodes that no step came from: computed while planning, or windows on the memory of others."""
    seen = {node for plan in plans for step in plan.steps for node in step.nodes}
    counts: dict[str, int] = {}
    for node, kind in operators.items():
        if node not in seen:
            counts[kind] = counts.get(kind, 0) + 1
    if not counts:
        return
    found = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    yield (
        f"{sum(counts.values())} of {len(operators)} nodes have no step: they were computed while planning, "
        "are views of other tensors, were merged with equal ones, or nothing needs them"
    )
    yield ", ".join(f"{count} {kind}" for kind, count in found)


def _label(nodes: Sequence[str], operators: Mapping[str, str]) -> str:
    return " + ".join(operators.get(node, node) for node in nodes)


def _fused(plans: Sequence[ExecutionPlan], operators: Mapping[str, str]) -> Iterator[str]:
    groups: dict[tuple[str, str], list[tuple[str, Step]]] = {}
    for place, step in _numbered(plans):
        if len(step.nodes) > 1:
            key = step.kernel.family, _label(step.nodes, operators)
            groups.setdefault(key, []).append((place, step))
    found = sorted(groups.items(), key=lambda item: -len(item[1]))
    for (family, kinds), steps in found:
        place, step = steps[0]
        nodes = shorten(", ".join(step.nodes), NODES_WIDTH)
        more = f" and {len(steps) - 1} more" if len(steps) > 1 else ""
        yield f"{shorten(kinds, NODES_WIDTH)} became one {family}: step {place}{more} ({nodes})"


def _numbered(plans: Sequence[ExecutionPlan]) -> Iterator[tuple[str, Step]]:
    for stage, plan in enumerate(plans):
        for number, step in enumerate(plan.steps):
            yield (f"{stage}.{number}" if len(plans) > 1 else str(number)), step


def _unfused(plans: Sequence[ExecutionPlan], refusals: Refusals) -> Iterator[str]:
    """Pairs of steps of which one reads what the other wrote into the arena, by why they stay apart."""
    groups: dict[str, list[str]] = {}
    for stage, plan in enumerate(plans):
        for first, second in neighbours(plan):
            one, other = plan.steps[first], plan.steps[second]
            reason = _reason(one, other, refusals)
            prefix = f"{stage}." if len(plans) > 1 else ""
            pair = f"{prefix}{first} {one.kernel.family} -> {prefix}{second} {other.kernel.family}"
            groups.setdefault(reason, []).append(pair)
    for reason, pairs in sorted(groups.items(), key=lambda item: -len(item[1])):
        shown = "; ".join(pairs[:EXAMPLES])
        more = f"; {len(pairs) - EXAMPLES} more" if len(pairs) > EXAMPLES else ""
        yield f"{reason}: {shown}{more}"


def neighbours(plan: ExecutionPlan) -> list[tuple[int, int]]:
    """Numbers of steps, writer and reader, that hand on a tensor of the arena."""
    writers: dict[int, int] = {}
    found: dict[tuple[int, int], None] = {}
    for number, step in enumerate(plan.steps):
        for place, operand in enumerate(step.operands):
            writer = writers.get(operand.buffer)
            if (
                place not in step.outputs
                and writer is not None
                and plan.buffers[operand.buffer].space == "arena"
            ):
                found[writer, number] = None
        for place in step.outputs:
            writers[step.operands[place].buffer] = number
    return list(found)


def _reason(one: Step, other: Step, refusals: Refusals) -> str:
    """What the passes said about the nodes of two steps; the latest that speaks of just these comes first."""
    first, second = frozenset(one.nodes), frozenset(other.nodes)
    if first == second:
        return "both are parts of what one node needs"
    exact = refusals.get((first, second))
    if exact is not None:
        return exact
    for (producer, consumer), reason in reversed(refusals.items()):
        if producer <= first and consumer <= second:
            return reason
    return f"no pass puts {_article(one.kernel.family)} and {_article(other.kernel.family)} into one kernel"


def _article(family: str) -> str:
    return f"{'an' if family[0] in 'aeiou' else 'a'} {family}"


def moves_only(step: Step) -> bool:
    """Does the step compute nothing?"""
    if step.kernel.family in COPIES:
        return True
    expressions = [item for item in step.kernel.variant if isinstance(item, Expression)]
    return step.kernel.family == "map" and all(
        instruction.op in MOVING for item in expressions for instruction in item.instructions
    )


def _copies(plans: Sequence[ExecutionPlan]) -> Iterator[str]:
    copies = [(place, step) for place, step in _numbered(plans) if moves_only(step)]
    if not copies:
        yield "none"
        return
    total = sum(step.bytes for _, step in copies)
    yield f"{len(copies)} steps move elements only, {binary(total)} in all"
    stages = [plan for plan in plans for _ in plan.steps]
    owners = dict(zip((place for place, _ in _numbered(plans)), stages, strict=True))
    for place, step in copies[:EXAMPLES]:
        nodes = shorten(", ".join(step.nodes), NODES_WIDTH)
        reason = _why(owners[place], step)
        yield f"step {place} {step.kernel.family}, {binary(step.bytes)}, for {nodes}: {reason}"
    if len(copies) > EXAMPLES:
        yield f"and {len(copies) - EXAMPLES} more"


def _why(plan: ExecutionPlan, step: Step) -> str:
    spaces = [plan.buffers[operand.buffer].space for operand in step.operands]
    written = {spaces[place] for place in step.outputs}
    read = {space for place, space in enumerate(spaces) if place not in step.outputs}
    if "output" in written:
        return "its result is an output of the plan, which lies there row by row"
    if "input" in read:
        return "its operand is an input of the plan, in another order than the steps behind it read"
    if read <= {"constant"}:
        return "it puts constants where steps expect them"
    return "strides cannot express what the steps behind it read of the tensor where it lies"


def _host(profile: Profile) -> Iterator[str]:
    for stage in profile.stages:
        for row in stage.rows:
            if row.kind == HOST:
                yield f"after stage {stage.index}: {', '.join(row.nodes)} takes {duration(row.seconds)}"


def _memory(profile: Profile) -> Iterator[str]:
    for stage in profile.stages:
        bound = stage.arena_lower_bound
        above = f", {stage.arena_bytes / bound - 1:.1%} above" if stage.arena_bytes > bound > 0 else ""
        yield (
            f"stage {stage.index}: an arena of {binary(stage.arena_bytes)}, at least {binary(bound)} live at "
            f"once{above}; constants of {binary(stage.constant_bytes)}"
        )


def _estimates(profile: Profile) -> Iterator[str]:
    rows = [row for stage in profile.stages for row in stage.steps if row.seconds > 0 and row.estimated > 0]
    measured, estimated = sum(row.seconds for row in rows), sum(row.estimated for row in rows)
    if profile.threads == 1:
        yield f"steps take {duration(measured)}; they were estimated at {duration(estimated)}"
    else:
        yield (
            f"steps take {duration(measured)}; on one thread they were estimated at {duration(estimated)}, "
            f"which {profile.threads} threads would share at best in {duration(estimated / profile.threads)}"
        )

    def error(row: StepProfile) -> float:
        """Seconds by which a step lies outside of what its estimate says for one thread and for all."""
        return max(row.seconds - row.estimated, row.estimated / profile.threads - row.seconds)

    worst = sorted((row for row in rows if error(row) > 0), key=error, reverse=True)
    for row in worst[:EXAMPLES]:
        nodes = shorten(", ".join(row.nodes), NODES_WIDTH)
        yield (
            f"step {row.index} {row.family}: estimated {duration(row.estimated)}, "
            f"measured {duration(row.seconds)} ({nodes})"
        )
