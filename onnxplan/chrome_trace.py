"""A profile's timeline in Chrome's trace event format, which https://ui.perfetto.dev opens.

Source: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU. Times are
microseconds. The traced run and the asynchronous runs after it are two processes of the trace, each with its
own beginning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from onnxplan.step_timers import worker_name

if TYPE_CHECKING:
    from onnxplan.profiling import Profile, StageProfile, StepProfile, TileEvent, Timeline

Event = dict[str, Any]

RUN, QUEUE = 1, 2
"""Process numbers: one run in all detail, and several asynchronous ones as wholes."""
STAGES, STEPS, FIRST_WORKER = 0, 1, 2
"""Threads of the first process; each worker has one."""
QUEUE_CATEGORY, BUFFER_CATEGORY = "queue", "buffer"


def profile_trace(profile: Profile) -> dict[str, Any]:
    """The document. Raises ``ValueError`` where the profile has no timeline."""
    timeline = profile.timeline
    if timeline is None:
        raise ValueError("the profile has no timeline; measure it with timeline=True")
    events = [*_names(profile, timeline), *_stages(profile, timeline), *_tiles(profile, timeline)]
    for stage in profile.stages:
        events += _memory(stage, _step_spans(timeline, stage.index))
    events += _runs(timeline)
    facts = {name: getattr(profile, name) for name in ("model", "device", "target", "threads", "version")}
    return {"traceEvents": events, "displayTimeUnit": "ns", "otherData": facts}


def _microseconds(seconds: float) -> float:
    return round(1e6 * seconds, 3)


def _slice(
    process: int, thread: int, name: str, category: str, begin: float, end: float, **arguments: Any
) -> Event:
    return {
        "ph": "X",
        "pid": process,
        "tid": thread,
        "name": name,
        "cat": category,
        "ts": _microseconds(begin),
        "dur": max(0.0, round(_microseconds(end) - _microseconds(begin), 3)),
        "args": arguments,
    }


def _metadata(process: int, thread: int, kind: str, **arguments: Any) -> Event:
    return {"ph": "M", "pid": process, "tid": thread, "name": kind, "args": arguments}


def _asynchronous(
    process: int, name: str, category: str, identity: str, begin: float, end: float, **arguments: Any
) -> Iterator[Event]:
    common = {"pid": process, "tid": 0, "name": name, "cat": category, "id": identity}
    yield {"ph": "b", **common, "ts": _microseconds(begin), "args": arguments}
    yield {"ph": "e", **common, "ts": _microseconds(end), "args": {}}


def _counter(process: int, name: str, time: float, **values: float) -> Event:
    return {"ph": "C", "pid": process, "tid": 0, "name": name, "ts": _microseconds(time), "args": values}


def _names(profile: Profile, timeline: Timeline) -> Iterator[Event]:
    yield _metadata(RUN, 0, "process_name", name="run")
    workers = sorted({0, *(event.worker for event in timeline.tiles)})
    rows = {STAGES: "stages", STEPS: "steps"}
    rows |= {FIRST_WORKER + each: worker_name(profile.device, each) for each in workers}
    for thread, name in rows.items():
        yield _metadata(RUN, thread, "thread_name", name=name)
        yield _metadata(RUN, thread, "thread_sort_index", sort_index=thread)
    if timeline.runs:
        yield _metadata(QUEUE, 0, "process_name", name="asynchronous runs at once")
        for thread, name in enumerate(_threads(timeline)):
            yield _metadata(QUEUE, thread, "thread_name", name=name)


def _threads(timeline: Timeline) -> list[str]:
    return sorted({run.thread for run in timeline.runs})


def _stages(profile: Profile, timeline: Timeline) -> Iterator[Event]:
    for event in timeline.stages:
        # Random numbers may have led the traced run elsewhere than the timed ones.
        known = event.stage < len(profile.stages)
        ends = profile.stages[event.stage].ends if known else ""
        yield _slice(RUN, STAGES, f"stage {event.stage}", "stage", event.begin, event.end, ends=ends)


def _rows(profile: Profile) -> Mapping[tuple[int, int | None], StepProfile]:
    return {
        (stage.index, row.index): row
        for stage in profile.stages
        for row in stage.rows
        if row.kind in ("step", "host")
    }


def _tiles(profile: Profile, timeline: Timeline) -> Iterator[Event]:
    rows = _rows(profile)
    for event in timeline.tiles:
        row = rows.get((event.stage, event.step))
        tiles = f"{event.first}:{event.last}"
        yield _slice(
            RUN, FIRST_WORKER + event.worker, _label(row, event), "tiles", event.begin, event.end,
            stage=event.stage, step=event.step, tiles=tiles,
        )  # fmt: skip
    for number in range(len(timeline.stages)):
        for step, (begin, end) in _step_spans(timeline, number).items():
            row = rows.get((number, step))
            facts: dict[str, Any] = {"stage": number, "step": step}
            if row is not None:
                facts |= {
                    "kernel": row.kernel,
                    "nodes": ", ".join(row.nodes),
                    "operators": ", ".join(row.operators),
                    "flops": row.flops,
                    "bytes": row.bytes,
                    "median_us": _microseconds(row.seconds),
                }
            name = row.family if row is not None else f"step {step}"
            yield _slice(RUN, STEPS, name, "step", begin, end, **facts)


def _label(row: StepProfile | None, event: TileEvent) -> str:
    if row is None:
        return f"step {event.step}"
    return row.family if event.step is None else f"{event.step} {row.family}"


def _step_spans(timeline: Timeline, stage: int) -> dict[int | None, tuple[float, float]]:
    """When the first worker began and the last one ended each step of a stage."""
    spans: dict[int | None, tuple[float, float]] = {}
    for event in timeline.tiles:
        if event.stage == stage:
            begin, end = spans.get(event.step, (event.begin, event.end))
            spans[event.step] = min(begin, event.begin), max(end, event.end)
    return spans


def _memory(stage: StageProfile, spans: Mapping[int | None, tuple[float, float]]) -> Iterator[Event]:
    """Buffers of the arena as slices from their first step to their last, and how much of it is in use."""
    changes: list[tuple[float, int]] = []
    for number, buffer in enumerate(stage.buffers):
        if buffer.first not in spans or buffer.last not in spans:
            continue
        begin, end = spans[buffer.first][0], spans[buffer.last][1]
        changes += [(begin, buffer.size), (end, -buffer.size)]
        yield from _asynchronous(
            RUN, buffer.name or f"buffer {number}", BUFFER_CATEGORY, f"{stage.index}.{number}", begin, end,
            bytes=buffer.size, offset=buffer.offset, first_step=buffer.first, last_step=buffer.last,
        )  # fmt: skip
    used = 0
    for time, change in sorted(changes):
        used += change
        yield _counter(RUN, "arena in use", time, bytes=used)


def _runs(timeline: Timeline) -> Iterator[Event]:
    threads = _threads(timeline)
    changes: list[tuple[float, int]] = []
    for run in timeline.runs:
        thread = threads.index(run.thread)
        yield _slice(QUEUE, thread, f"run {run.number}", "run", run.begun, run.ended, number=run.number)
        changes += [(run.submitted, 1), (run.begun, -1)]
        yield from _asynchronous(
            QUEUE, f"run {run.number} waits", QUEUE_CATEGORY, str(run.number), run.submitted, run.begun
        )
    waiting = 0
    for time, change in sorted(changes):
        waiting += change
        yield _counter(QUEUE, "runs waiting", time, runs=waiting)
