"""Measures profiles: runs whose step tables read the clock, in turn with runs as they always are.

Between two steps of a timed run there is nothing but a reading of the clock (about 30 ns, which is measured
in the same run and subtracted), on CUDA an event. Alternating meets the machine's moods in both.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import onnxplan
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import InvalidModelError
from onnxplan.compiler.plan import ExecutionPlan, HostFunction, Step
from onnxplan.compiler.plan_text import kernel_name
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target
from onnxplan.profiling import (
    BETWEEN,
    HOST,
    STEP,
    BufferProfile,
    Profile,
    RunEvent,
    StageEvent,
    StageProfile,
    StepProfile,
    TileEvent,
    Timeline,
)
from onnxplan.runtime.bound_stage import BoundStage
from onnxplan.runtime.cancellation import CancelFlag, Cancelled
from onnxplan.runtime.ceilings import Ceilings
from onnxplan.runtime.cpu.timed_plan import clock_nanoseconds
from onnxplan.step_timers import Timer, Tracer, ceilings_of, timer_of, tracer_of, workers_of

if TYPE_CHECKING:
    from onnxplan.session import InferenceSession

LEAST_ROUNDS = 5
ROUND_LIMIT = 2000
TRACED_RUNS = 5
"""Runs that are traced; the shortest becomes the timeline."""

BYTES = frozenset((DType.INT8, DType.UINT8))
PRODUCTS = frozenset(("matmul", "conv"))
"""Families of kernels that multiply weights of bfloat16 as such, where the processor has tiles for it."""


@dataclass(frozen=True, slots=True, eq=False)
class _StageRun:
    """A stage in a timed run: its time, those of its steps, and the time of the host's work."""

    stage: BoundStage
    seconds: float
    steps: npt.NDArray[np.float64]
    host: float


@dataclass(slots=True)
class _TimingObserver:
    """Runs stages with stamps between their steps."""

    timers: dict[BoundStage, Timer] = field(default_factory=dict)
    found: list[_StageRun] = field(default_factory=list)

    def execute(self, stage: BoundStage, inputs: Any, outputs: Any, cancel: CancelFlag | None) -> None:
        timer = self.timers.get(stage)
        if timer is None:
            timer = self.timers[stage] = timer_of(stage)
        self.found.append(_StageRun(stage, *timer.run(inputs, outputs, cancel), 0.0))

    def call_host(self, stage: BoundStage, function: HostFunction, answer: Any) -> Any:
        start = time.perf_counter()
        made = function(answer)
        run = self.found.pop()
        self.found.append(_StageRun(run.stage, run.seconds, run.steps, time.perf_counter() - start))
        return made


@dataclass(slots=True)
class _TracingObserver:
    """Runs stages and notes who computed which tiles when, in nanoseconds of the clock."""

    tracers: dict[BoundStage, Tracer] = field(default_factory=dict)
    stages: list[tuple[int, int]] = field(default_factory=list)
    tiles: list[tuple[int, int, int | None, int, int, int, int]] = field(default_factory=list)

    def execute(self, stage: BoundStage, inputs: Any, outputs: Any, cancel: CancelFlag | None) -> None:
        tracer = self.tracers.get(stage)
        if tracer is None:
            tracer = self.tracers[stage] = tracer_of(stage)
        begin = clock_nanoseconds()
        events = tracer.run(inputs, outputs, cancel)
        number = len(self.stages)
        self.stages.append((begin, clock_nanoseconds()))
        self.tiles += [
            (worker, number, step, first, last, start, end)
            for worker, step, first, last, start, end in events.tolist()
        ]

    def call_host(self, stage: BoundStage, function: HostFunction, answer: Any) -> Any:
        begin = clock_nanoseconds()
        made = function(answer)
        end = clock_nanoseconds()
        number = len(self.stages) - 1
        self.stages[number] = self.stages[number][0], end
        self.tiles.append((0, number, None, 0, 1, begin, end))
        return made


def profile_runs(
    session: InferenceSession,
    feeds: Mapping[str, Any],
    seconds: float,
    *,
    timeline: bool,
    remeasure: bool,
    cancel: CancelFlag | None = None,
) -> Profile:
    """See :meth:`onnxplan.InferenceSession.profile`; raises ``Cancelled`` once ``cancel`` is set."""
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, not {seconds!r}")
    session._require_open()
    request, arrays = session._check(feeds, None, session._device)
    try:
        first = session._engine.first_stage(request)
    except InvalidModelError as error:
        raise session._refused(request, error) from error
    ceilings = ceilings_of(first, remeasure=remeasure)

    def timed_run(observer: _TimingObserver | _TracingObserver) -> None:
        session._run_request(request, arrays, cancel, observer=observer)

    totals, rounds = _run_rounds(session, feeds, timed_run, seconds, cancel)
    operators = session._engine.planner.operators()
    stages = [
        _stage_profile(number, runs, operators, ceilings)
        for number, runs in enumerate(zip(*rounds, strict=True))
    ]
    found = _trace(session, feeds, timed_run) if timeline else None
    return Profile(
        _model_name(session),
        session.device,
        str(first.executor.plan.target),
        workers_of(first),
        onnxplan.__version__,
        len(totals),
        float(np.median(totals)),
        tuple(stages),
        ceilings,
        found,
    )


def _model_name(session: InferenceSession) -> str:
    source = session._source
    return os.fspath(source) if isinstance(source, str | os.PathLike) else ""


def _run_rounds(
    session: InferenceSession,
    feeds: Mapping[str, Any],
    timed_run: Any,
    limit: float,
    cancel: CancelFlag | None,
) -> tuple[list[float], list[list[_StageRun]]]:
    """Times of plain runs, and the stages of timed ones: of those that took the most usual course.

    Random numbers and the like may lead a model through other stages in some runs.
    """
    observer = _TimingObserver()
    totals: list[float] = []
    rounds: list[list[_StageRun]] = []
    warm_up, end = True, 0.0
    while len(totals) < LEAST_ROUNDS or (time.perf_counter() < end and len(totals) < ROUND_LIMIT):
        if cancel is not None and cancel.is_set:
            raise Cancelled("the profile was cancelled")
        start = time.perf_counter()
        session.run_sync(feeds)
        total = time.perf_counter() - start
        observer.found = []
        timed_run(observer)
        if warm_up:
            warm_up, end = False, time.perf_counter() + limit
            continue
        totals.append(total)
        rounds.append(observer.found)
    courses = [tuple(map(id, (run.stage for run in found))) for found in rounds]
    usual, _ = Counter(courses).most_common(1)[0]
    return totals, [found for course, found in zip(courses, rounds, strict=True) if course == usual]


def _stage_profile(
    number: int, runs: Sequence[_StageRun], operators: Mapping[str, str], ceilings: Ceilings
) -> StageProfile:
    stage = runs[0].stage
    plan = stage.executor.plan
    medians = np.median([run.steps for run in runs], axis=0)
    host = float(np.median([run.host for run in runs]))
    own = float(np.median([run.seconds for run in runs]))
    rows = [
        _row(index, step, float(seconds), operators, _limits(step, plan.target, ceilings))
        for index, (step, seconds) in enumerate(zip(plan.steps, medians, strict=True))
    ]
    rest = own - sum(row.seconds for row in rows)
    rows.append(StepProfile(BETWEEN, None, "stage", "stage", (), (), rest))
    if stage.facts.function is not None:
        nodes = (stage.facts.asked_by,)
        rows.append(StepProfile(HOST, None, "host", "host", nodes, _types(nodes, operators), host))
    return StageProfile(
        number,
        own + host,
        tuple(rows),
        stage_end(stage, operators),
        plan.arena_bytes,
        plan.arena_lower_bound,
        sum(stage.constants.values()),
        _arena_buffers(plan),
    )


def stage_end(stage: BoundStage, operators: Mapping[str, str]) -> str:
    """Why a stage ends, in words; empty for the last one."""
    facts = stage.facts
    if facts.final:
        return ""
    kind = operators.get(facts.asked_by, "")
    node = f"node {facts.asked_by!r}" + (f" ({kind})" if kind else "")
    if facts.function is not None:
        return f"{node} is computed by the host"
    return f"{node} needs elements that only a run computes"


def _row(
    index: int, step: Step, seconds: float, operators: Mapping[str, str], limits: Ceilings
) -> StepProfile:
    return StepProfile(
        STEP,
        index,
        kernel_name(step.kernel),
        step.kernel.family,
        step.nodes,
        _types(step.nodes, operators),
        seconds,
        step.seconds,
        step.flops,
        step.bytes,
        limits.seconds(step.flops, step.bytes),
    )


def _types(nodes: Sequence[str], operators: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(operators[node] for node in nodes if node in operators))


def _limits(step: Step, target: Target, ceilings: Ceilings) -> Ceilings:
    """What the machine can do of a step's operations, by the types of the first two operands that it reads.

    Integer products are of bytes. Weights of bfloat16 are multiplied as such where the processor can, and
    float32 in parts of it and what attention multiplies where kernels take tiles.
    """
    dtypes = [operand.dtype for place, operand in enumerate(step.operands) if place not in step.outputs][:2]
    if len(dtypes) == 2 and BYTES.issuperset(dtypes):
        return ceilings.for_bytes()
    if target.bfloat16_tiles and step.kernel.family in PRODUCTS and DType.BFLOAT16 in dtypes[1:]:
        return ceilings.for_bfloat16()
    if step.kernel.variant[:1] != ("tiles",):
        return ceilings
    return ceilings.for_bfloat16() if step.kernel.family == "attention" else ceilings.for_parts()


def _arena_buffers(plan: ExecutionPlan) -> tuple[BufferProfile, ...]:
    return tuple(
        BufferProfile(buffer.name, buffer.offset, buffer.size, buffer.first, buffer.last)
        for buffer in plan.buffers
        if buffer.space == "arena"
    )


def _trace(session: InferenceSession, feeds: Mapping[str, Any], timed_run: Any) -> Timeline:
    observer = _TracingObserver()
    found: list[Timeline] = []
    for number in range(TRACED_RUNS + 1):
        observer.stages, observer.tiles = [], []
        begin = clock_nanoseconds()
        timed_run(observer)
        end = clock_nanoseconds()
        if number:
            found.append(_timeline(observer, begin, end))
    best = min(found, key=lambda each: each.seconds)
    first = next(iter(observer.tracers))
    # Shorter plans run on the event loop itself, and queue nowhere.
    queued = first.seconds >= session._inline_seconds
    return Timeline(best.seconds, best.stages, best.tiles, _concurrent_runs(session, feeds) if queued else ())


def _timeline(observer: _TracingObserver, begin: int, end: int) -> Timeline:
    def seconds(time: int) -> float:
        return 1e-9 * (time - begin)

    stages = tuple(
        StageEvent(number, seconds(start), seconds(stop))
        for number, (start, stop) in enumerate(observer.stages)
    )
    tiles = tuple(
        TileEvent(worker, stage, step, first, last, seconds(start), seconds(stop))
        for worker, stage, step, first, last, start, stop in observer.tiles
    )
    return Timeline(seconds(end), stages, tiles)


def _concurrent_runs(session: InferenceSession, feeds: Mapping[str, Any]) -> tuple[RunEvent, ...]:
    """Twice as many asynchronous runs at once as the device takes, on an event loop of their own."""
    found: list[RunEvent] = []

    async def run_all() -> None:
        begin = clock_nanoseconds()

        async def run_one(number: int) -> None:
            submitted = clock_nanoseconds()

            def work(cancel: CancelFlag) -> None:
                begun = clock_nanoseconds()
                session.run_sync(feeds)
                times = [1e-9 * (each - begin) for each in (submitted, begun, clock_nanoseconds())]
                found.append(RunEvent(number, threading.current_thread().name, *times))

            await session._submit(work)

        await asyncio.gather(*map(run_one, range(2 * session._device.concurrency)))

    # The caller's thread may run an event loop already.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, run_all()).result()
    return tuple(sorted(found, key=lambda run: run.number))
