"""The steps of a model's CPU plan beside what the processor can do: ``python -m bench.roofline resnet50``.

Times are of steps within a run (see :mod:`onnxplan.profiler`), FLOPs and bytes are the plan's. The ceiling of
a step is the time that its arithmetic takes at the measured peak or its bytes at the measured copy bandwidth,
whichever is longer; its share of the ceiling is that over its time. It can exceed 1 where data is in caches.
Winograd steps count the arithmetic that they do, which is less than a direct convolution's. ``lost`` is the
time above the ceiling: what a better kernel could save.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import onnxplan
from bench import models, record
from onnxplan.cli.inputs import read_inputs
from onnxplan.cli.profiling import profile_table
from onnxplan.cli.terminal import compilation_bar, console
from onnxplan.profile_text import profile_rows
from onnxplan.profiling import Profile, StepProfile


def row_record(profile: Profile, row: StepProfile) -> dict[str, Any]:
    """A row as it stands in records: microseconds, rates, and what is above the ceiling."""
    return {
        "step": row.index,
        "rows": row.count,
        "kernel": row.kernel,
        "nodes": ", ".join(row.nodes),
        "us": round(1e6 * row.seconds, 3),
        "share": round(profile.share(row), 4),
        "GFLOP/s": round(1e-9 * row.flops_per_second, 2),
        "GB/s": round(1e-9 * row.bytes_per_second, 2),
        "of_ceiling": round(row.ceiling_share, 3),
        "lost_us": round(1e6 * row.lost, 3) if row.ceiling else 0.0,
    }


def summary_rows(label: str, profile: Profile) -> list[record.Row]:
    """The run as a whole; ``label`` names the number of threads."""
    found = [row for stage in profile.stages for row in stage.steps]
    ceiling, steps = sum(row.ceiling for row in found), sum(row.seconds for row in found)
    assert profile.ceilings is not None
    return [
        record.Row(f"run, {label}", 1e3 * profile.seconds, "ms"),
        record.Row(f"sum of steps, {label}", 1e3 * steps, "ms"),
        record.Row(f"sum of ceilings, {label}", 1e3 * ceiling, "ms"),
        record.Row(f"share of the ceiling, {label}", ceiling / steps if steps else 0.0, "ratio"),
        record.Row(f"arithmetic peak, {label}", 1e-9 * profile.ceilings.flops, "GFLOP/s"),
        record.Row(f"copy bandwidth, {label}", 1e-9 * profile.ceilings.bandwidth, "GB/s"),
    ]


def measure(model: str, threads: int, seconds: float) -> Profile:
    """The profile of a model of the zoo, or of a file, with ceilings measured anew."""
    known = model in models.ZOO
    file = models.path(model) if known else Path(model)
    with compilation_bar() as loaded, onnxplan.InferenceSession(file, threads=threads) as session:
        loaded()
        feeds = models.feeds(model) if known else read_inputs(session)
        return session.profile(feeds, seconds, remeasure=True)


def main(
    model: Annotated[str, typer.Argument(help="a model of bench.models, or a file")],
    threads: Annotated[list[int] | None, typer.Option(help="numbers of threads; default: 1")] = None,
    seconds: Annotated[float, typer.Option(help="time for runs")] = 5.0,
    longest: Annotated[bool, typer.Option(help="the longest steps first")] = False,
    save: Annotated[bool, typer.Option(help="write the record")] = True,
) -> None:
    """Shows where the time of a model goes, and how much of it a better kernel could save."""
    rows: list[record.Row] = []
    details: dict[str, Any] = {}
    for count in threads or [1]:
        label = record.threads_label(count)
        profile = measure(model, count, seconds)
        steps = profile_rows(profile, longest=longest)
        console().print(profile_table(profile, steps, f"{model}, {label}"))
        console().print(profile_table(profile, profile.by_kernel(), f"{model}, {label}, by kernel"))
        rows += summary_rows(label, profile)
        details[label] = {
            "families": [row_record(profile, row) for row in profile.by_kernel()],
            "steps": [row_record(profile, row) for row in profile.rows],
        }
    record.show(f"roofline, {model}", rows)
    if save:
        print(record.write(f"roofline-{Path(model).stem}", rows, details={"plans": details}))


if __name__ == "__main__":
    typer.run(main)
