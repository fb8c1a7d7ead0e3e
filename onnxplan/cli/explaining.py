"""``onnxplan explain``: what became of a model, in words."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.text import Text

from onnxplan.cli.inputs import Sizes, read_inputs
from onnxplan.cli.sessions import Device, Dims, Inputs, Lengths, Math, Model, Seed, Threads, open_session
from onnxplan.cli.terminal import console
from onnxplan.compiler.passes.refusals import recorded_refusals
from onnxplan.explaining import explain, plans_of_run
from onnxplan.runtime.artifact import is_artifact
from onnxplan.runtime.seen_models import planned_anew


def explain_model(
    model: Model,
    inputs: Inputs = None,
    dim: Dims = None,
    length: Lengths = None,
    device: Device = "cpu",
    threads: Threads = None,
    math: Math = "strict",
    seconds: Annotated[float, typer.Option(min=0.01, help="time for runs")] = 1.0,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="the sections as JSON")] = False,
) -> None:
    """Tell what was fused and what was not, where stages end, and how far estimates are off."""
    if is_artifact(model):
        raise typer.BadParameter(f"{model} is an artifact, whose plans were made elsewhere; give the model")
    sizes = Sizes.parse(dim or [], length or [])
    with (
        planned_anew(),
        recorded_refusals() as refusals,
        open_session(model, device, threads, math) as session,
    ):
        feeds = read_inputs(session, inputs or [], sizes, seed)
        try:
            profile = session.profile(feeds, seconds)
        except NotImplementedError as error:
            raise typer.BadParameter(str(error)) from error
        found = explain(session, plans_of_run(session, feeds), refusals, profile)
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
        return
    screen = console()
    for section in found.sections:
        screen.print(Text(section.title, "bold"))
        for line in section.lines:
            screen.print(f"  {line}", soft_wrap=True)
