"""The steps of a model's CPU plan beside what the processor can do: ``python -m bench.roofline resnet50``.

Times are of steps within a run (see :mod:`bench.step_times`), FLOPs and bytes are the plan's. The ceiling of
a step is the time that its arithmetic takes at the measured peak or its bytes at the measured copy bandwidth,
whichever is longer; its share of the ceiling is that over its time. It can exceed 1 where data is in caches.
Winograd steps count the arithmetic that they do, which is less than a direct convolution's. ``lost`` is the
time above the ceiling: what a better kernel could save.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import onnxplan
from bench import models, record
from bench.ceilings import measure_ceilings
from bench.step_times import PlanTimes, time_steps
from onnxplan.cli.inputs import read_inputs
from onnxplan.cli.terminal import add_row, compilation_bar, console, table
from onnxplan.compiler.plan_text import NODES_WIDTH, kernel_name, shorten
from onnxplan.runtime.ceilings import Ceilings


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table: a step, or all steps of a kernel family. Times in seconds, work as in plans."""

    label: str
    kernel: str
    nodes: str
    seconds: float
    flops: int
    bytes: int
    ceiling: float
    total: float

    @property
    def share(self) -> float:
        """Of the total time."""
        return _ratio(self.seconds, self.total)

    @property
    def of_ceiling(self) -> float:
        return _ratio(self.ceiling, self.seconds)

    @property
    def lost(self) -> float:
        return max(0.0, self.seconds - self.ceiling)

    def to_json(self) -> dict[str, Any]:
        return {
            "step": self.label,
            "kernel": self.kernel,
            "nodes": self.nodes,
            "us": round(1e6 * self.seconds, 3),
            "share": round(self.share, 4),
            "GFLOP/s": round(1e-9 * _ratio(self.flops, self.seconds), 2),
            "GB/s": round(1e-9 * _ratio(self.bytes, self.seconds), 2),
            "of_ceiling": round(self.of_ceiling, 3),
            "lost_us": round(1e6 * self.lost, 3),
        }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def step_lines(times: PlanTimes, ceilings: Ceilings) -> list[Line]:
    """A line for each step, in the plan's order."""
    total = sum(times.steps)
    return [
        Line(
            str(number),
            kernel_name(step.kernel),
            shorten(", ".join(step.nodes), NODES_WIDTH),
            seconds,
            step.flops,
            step.bytes,
            ceilings.seconds(step.flops, step.bytes),
            total,
        )
        for number, step, seconds in times.timed_steps
    ]


def family_lines(lines: Iterable[Line]) -> list[Line]:
    """The lines of steps summed by kernel family, the longest first."""
    groups: dict[str, list[Line]] = {}
    steps = 0
    for line in lines:
        steps += 1
        groups.setdefault(line.kernel.partition("[")[0], []).append(line)
    found = [
        Line(
            f"{len(group)} of {steps}",
            family,
            "",
            sum(line.seconds for line in group),
            sum(line.flops for line in group),
            sum(line.bytes for line in group),
            sum(line.ceiling for line in group),
            group[0].total,
        )
        for family, group in groups.items()
    ]
    return sorted(found, key=lambda line: line.seconds, reverse=True)


def summary_rows(label: str, times: PlanTimes, lines: list[Line], ceilings: Ceilings) -> list[record.Row]:
    """The run as a whole; ``label`` names the number of threads."""
    ceiling, steps = sum(line.ceiling for line in lines), sum(times.steps)
    return [
        record.Row(f"run, {label}", 1e3 * times.run, "ms"),
        record.Row(f"run that reads the clock, {label}", 1e3 * times.stamped_run, "ms"),
        record.Row(f"sum of steps, {label}", 1e3 * steps, "ms"),
        record.Row(f"sum of ceilings, {label}", 1e3 * ceiling, "ms"),
        record.Row(f"share of the ceiling, {label}", _ratio(ceiling, steps), "ratio"),
        record.Row(f"arithmetic peak, {label}", 1e-9 * ceilings.flops, "GFLOP/s"),
        record.Row(f"copy bandwidth, {label}", 1e-9 * ceilings.bandwidth, "GB/s"),
    ]


def show_lines(title: str, lines: Iterable[Line]) -> None:
    headings = ("step", "kernel", "us", "share", "GFLOP/s", "GB/s", "of ceiling", "lost us", "nodes")
    found = table(*headings, title=title)
    for line in lines:
        cells: Mapping[str, Any] = line.to_json()
        numbers = [f"{cells[name]:.1f}" for name in ("GFLOP/s", "GB/s")]
        add_row(
            found,
            line.label,
            line.kernel,
            f"{cells['us']:.1f}",
            f"{line.share:.1%}",
            *numbers,
            f"{line.of_ceiling:.0%}",
            f"{cells['lost_us']:.1f}",
            line.nodes,
        )
    console().print(found)


def measure(model: str, threads: int, seconds: float) -> tuple[PlanTimes, Ceilings]:
    """Times of a model of the zoo, or a file, and ceilings measured before and after them."""
    known = model in models.ZOO
    file = models.path(model) if known else Path(model)
    with compilation_bar(), onnxplan.InferenceSession(file, threads=threads) as session:
        feeds = models.feeds(model) if known else read_inputs(session)
        before = measure_ceilings(threads)
        times = time_steps(session, feeds, seconds)
    return times, before.best(measure_ceilings(threads))


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
        times, ceilings = measure(model, count, seconds)
        lines = step_lines(times, ceilings)
        families = family_lines(lines)
        shown = sorted(lines, key=lambda line: line.seconds, reverse=True) if longest else lines
        show_lines(f"{model}, {label}", shown)
        show_lines(f"{model}, {label}, by kernel", families)
        rows += summary_rows(label, times, lines, ceilings)
        details[label] = {
            "families": [line.to_json() for line in families],
            "steps": [line.to_json() for line in lines],
        }
    record.show(f"roofline, {model}", rows)
    if save:
        print(record.write(f"roofline-{Path(model).stem}", rows, details={"plans": details}))


if __name__ == "__main__":
    typer.run(main)
