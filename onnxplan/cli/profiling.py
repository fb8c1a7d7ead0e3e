"""``onnxplan profile``: where the time of a model's runs goes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from onnxplan.cli.inputs import Sizes, read_inputs
from onnxplan.cli.sessions import Device, Dims, Inputs, Lengths, Math, Model, Seed, Threads, open_session
from onnxplan.cli.terminal import add_row, console, table
from onnxplan.profile_text import GROUPINGS, HEADINGS, profile_cells, profile_rows, profile_summary
from onnxplan.profiling import Profile, StepProfile


def profile(
    model: Model,
    inputs: Inputs = None,
    dim: Dims = None,
    length: Lengths = None,
    device: Device = "cpu",
    threads: Threads = None,
    math: Math = "strict",
    seconds: Annotated[float, typer.Option(min=0.01, help="time for runs")] = 2.0,
    by: Annotated[str, typer.Option(help="a line for each step, kernel or operator")] = "step",
    longest: Annotated[bool, typer.Option(help="the longest steps first")] = False,
    trace: Annotated[
        Path | None, typer.Option(help="file for a timeline, which ui.perfetto.dev opens")
    ] = None,
    remeasure: Annotated[bool, typer.Option(help="measure the machine's ceilings again")] = False,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="the profile as JSON, all steps")] = False,
) -> None:
    """Show how long each step of a model takes, and how near that is to what the machine can do."""
    if by not in GROUPINGS:
        raise typer.BadParameter(f"--by {by}: expected one of {', '.join(GROUPINGS)}")
    sizes = Sizes.parse(dim or [], length or [])
    with open_session(model, device, threads, math) as session:
        feeds = read_inputs(session, inputs or [], sizes, seed)
        try:
            found = session.profile(feeds, seconds, timeline=trace is not None, remeasure=remeasure)
        except NotImplementedError as error:
            raise typer.BadParameter(str(error)) from error
    if trace is not None:
        trace.write_text(json.dumps(found.trace()), encoding="utf-8")
    if as_json:
        print(found.without_timeline().to_json())
        return
    screen = console()
    for line in profile_summary(found):
        screen.print(line, soft_wrap=True)
    screen.print(profile_table(found, profile_rows(found, by, longest=longest)))
    if trace is not None:
        screen.print(f"timeline written to {trace}; open it in https://ui.perfetto.dev", soft_wrap=True)


def profile_table(found: Profile, rows: Sequence[StepProfile], title: str | None = None) -> Table:
    """A line for each of the ``rows`` of a profile."""
    target = table(*HEADINGS, title=title)
    for cells in profile_cells(found, rows):
        add_row(target, *cells)
    return target
