"""``onnxplan report``: a page that shows a model's plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxplan.cli.inputs import Sizes, read_inputs, resolve_shapes
from onnxplan.cli.sessions import Device, Dims, Inputs, Lengths, Math, Model, Seed, Threads, open_session
from onnxplan.cli.terminal import console, counted
from onnxplan.explaining import stages_of_run
from onnxplan.report import collect, render
from onnxplan.shapes import check_shapes


def report(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="the HTML file to write")],
    inputs: Inputs = None,
    dim: Dims = None,
    length: Lengths = None,
    device: Device = "cpu",
    threads: Threads = None,
    math: Math = "strict",
    seconds: Annotated[float, typer.Option(min=0.01, help="time for runs")] = 2.0,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="run the model and time its steps, or only plan it")
    ] = True,
    seed: Seed = 0,
) -> None:
    """Write a page that shows the plan: graph, memory, times, roofline, and where each node went.

    Without measuring, a model whose course depends on data is shown up to where that begins.
    """
    if inputs and not measure:
        raise typer.BadParameter("--input is for runs, of which --no-measure makes none; use --dim")
    sizes = Sizes.parse(dim or [], length or [])
    with open_session(model, device, threads, math) as session:
        if measure:
            feeds = read_inputs(session, inputs or [], sizes, seed)
            try:
                profile = session.profile(feeds, seconds)
            except NotImplementedError as error:
                raise typer.BadParameter(f"{error}; add --no-measure") from error
            data = collect(session, model.name, stages_of_run(session, feeds), profile)
        else:
            shapes = resolve_shapes(session, sizes)
            request = check_shapes(shapes, session.inputs, session.optional_inputs)
            data = collect(session, model.name, [session._engine.first_stage(request)])
    output.write_text(render(data), encoding="utf-8")
    steps = sum(len(stage["steps"]) for stage in data["stages"])
    console().print(f"{output}: {counted(steps, 'step')} in {counted(len(data['stages']), 'stage')}")
