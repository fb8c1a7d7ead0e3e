"""The commands."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

import onnxplan
from onnxplan.cli.cache import cache
from onnxplan.cli.comparing import show_comparison
from onnxplan.cli.compile import parse_dim_lists, parse_shapes, shape_sets, size_text
from onnxplan.cli.doctor import MISSING, diagnose
from onnxplan.cli.explaining import explain_model
from onnxplan.cli.inputs import Sizes, parse_lengths, read_inputs, resolve_shapes
from onnxplan.cli.outputs import output_rows, write_results
from onnxplan.cli.profiling import profile
from onnxplan.cli.reporting import report
from onnxplan.cli.sessions import Device, Dims, Inputs, Lengths, Math, Model, Seed, Threads, open_session
from onnxplan.cli.terminal import add_row, compilation_bar, console, counted, print_error, progress_bar, table
from onnxplan.cli.timing import compare_latency
from onnxplan.comparison import Comparer
from onnxplan.compiler.errors import OnnxPlanError, UnsupportedOperatorError
from onnxplan.interface import Signature
from onnxplan.peers import PEERS

SHOWN_NODES = 3

application = typer.Typer(
    name="onnxplan",
    help="Compiles ONNX models into static execution plans and runs them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
application.add_typer(cache, name="cache")
application.command()(profile)
application.command()(report)
application.command("explain")(explain_model)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"onnxplan {onnxplan.__version__}")
        raise typer.Exit


@application.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    """Compiles ONNX models into static execution plans and runs them."""


@application.command()
def run(
    model: Model,
    inputs: Inputs = None,
    output: Annotated[Path | None, typer.Option(help="folder for the outputs, as NAME.npy")] = None,
    dim: Dims = None,
    length: Lengths = None,
    device: Device = "cpu",
    threads: Threads = None,
    math: Math = "strict",
    seed: Seed = 0,
) -> None:
    """Run a model once and show (or save) its outputs."""
    sizes = Sizes.parse(dim or [], length or [])
    with open_session(model, device, threads, math) as session:
        feeds = read_inputs(session, inputs or [], sizes, seed)
        results = asyncio.run(_run_once(session, feeds))
    found = table("output", "type", "min", "max", "mean", "first elements")
    for row in output_rows(results):
        add_row(found, *row)
    screen = console()
    screen.print(found)
    if output is not None:
        write_results(output, results)
        screen.print(f"{counted(len(results), 'output')} written to {output}")


async def _run_once(session: onnxplan.InferenceSession, feeds: dict[str, Any]) -> dict[str, Any]:
    return await session.run(feeds)


@application.command()
def plan(
    model: Model,
    dim: Dims = None,
    length: Lengths = None,
    device: Device = "cpu",
    threads: Threads = None,
    math: Math = "strict",
    as_json: Annotated[bool, typer.Option("--json", help="the plan as JSON")] = False,
) -> None:
    """Show the execution plan of a model."""
    sizes = Sizes.parse(dim or [], length or [])
    with open_session(model, device, threads, math) as session:
        found = session.plan(resolve_shapes(session, sizes))
    print(found.to_json() if as_json else found)


@application.command()
def bench(
    model: Model,
    inputs: Inputs = None,
    dim: Dims = None,
    length: Lengths = None,
    device: Device = "cpu",
    threads: Threads = None,
    math: Math = "strict",
    seconds: Annotated[float, typer.Option(min=0.01, help="time for each engine")] = 5.0,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="the latencies as JSON")] = False,
) -> None:
    """Time a model, beside onnxruntime where that is installed."""
    sizes = Sizes.parse(dim or [], length or [])
    with open_session(model, device, threads, math) as session:
        feeds = read_inputs(session, inputs or [], sizes, seed)
        latencies = compare_latency(model, session, feeds, threads, seconds)
    if as_json:
        print(json.dumps({"unit": "ms", "engines": latencies.rows()}, indent=2))
    else:
        console().print(latencies.table())


@application.command("compile")
def compile_model(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="the artifact to write")],
    device: Annotated[
        list[str] | None, typer.Option(help="cpu, cuda, or cuda:sm_90 and the like; may be repeated")
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=1x3x224x224,...", help="shapes of inputs; repeat for further plans"),
    ] = None,
    dim: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SIZE,...", help="sizes of a symbolic dimension, a plan for each; 1 if left out"
        ),
    ] = None,
    length: Lengths = None,
    threads: Threads = None,
    math: Math = "strict",
    with_model: Annotated[
        bool, typer.Option("--model/--no-model", help="carry the model, for other shapes and machines")
    ] = True,
    sign_key: Annotated[Path | None, typer.Option(help="PEM file of an Ed25519 private key")] = None,
) -> None:
    """Compile a model into an artifact, which starts in milliseconds."""
    from onnxplan.compiler.importer import load_model

    signature = Signature.of(load_model(model))
    shapes = shape_sets(
        signature, parse_shapes(shape or []), parse_dim_lists(dim or []), parse_lengths(length or [])
    )
    try:
        with compilation_bar():
            onnxplan.compile(
                model, output, device=device or ["cpu"], shapes=shapes, threads=threads, math=math,
                include_model=with_model, sign_key=sign_key,
            )  # fmt: skip
    except OnnxPlanError:
        raise
    except (ImportError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    console().print(f"{output}: {counted(len(shapes), 'plan')} for each device, {size_text(output)}")


@application.command()
def check(
    model: Model,
    as_json: Annotated[bool, typer.Option("--json", help="the findings as JSON")] = False,
) -> None:
    """Tell whether every operator of a model runs here; lists all gaps at once."""
    counts, gaps = _operators(model)
    if as_json:
        rows = [
            {
                "domain": domain or "ai.onnx",
                "op_type": op_type,
                "opset": version,
                "nodes": counts.get((domain, op_type, version), 0),
                "device": None if (domain, op_type, version) in gaps else "cpu",
                "missing_in": list(gaps.get((domain, op_type, version), ())),
            }
            for domain, op_type, version in sorted({*counts, *gaps})
        ]
        print(json.dumps({"supported": not gaps, "operators": rows}, indent=2))
    else:
        _show_operators(counts, gaps)
    if gaps:
        raise typer.Exit(1)


Operator = tuple[str, str, int]


def _operators(model: Path) -> tuple[dict[Operator, int], dict[Operator, Sequence[str]]]:
    """How many nodes of each operator (domain, type, opset) a model has, and the nodes of missing ones."""
    from onnxplan.compiler.importer import load_model

    gaps: dict[Operator, Sequence[str]] = {}
    try:
        imported = load_model(model)
    except UnsupportedOperatorError as error:
        imported = load_model(model, check_operators=False)
        gaps = {entry[:3]: entry[3] for entry in error.operators}
    counts: dict[Operator, int] = {}
    for node in imported.graph.walk():
        key = (node.domain, node.op_type, node.version)
        counts[key] = counts.get(key, 0) + 1
    return counts, gaps


def _show_operators(counts: dict[Operator, int], gaps: dict[Operator, Sequence[str]]) -> None:
    found = table("operator", "opset", "nodes", "runs on", "first nodes of a gap")
    for domain, op_type, version in sorted({*counts, *gaps}):
        nodes = gaps.get((domain, op_type, version))
        label = f"{domain}::{op_type}" if domain else op_type
        place = Text("cpu") if nodes is None else Text("nothing", style="red")
        count = counts.get((domain, op_type, version), 0)
        add_row(found, label, str(version), str(count), place, ", ".join((nodes or ())[:SHOWN_NODES]))
    screen = console()
    screen.print(found)
    total = counted(len({*counts, *gaps}), "operator")
    screen.print(f"{len(gaps)} of {total} do not run here" if gaps else f"{total}: all run here")


@application.command()
def compare(
    model: Model,
    against: Annotated[
        str, typer.Option(help="onnxruntime, reference (ONNX's own) or unoptimised (onnxplan, node by node)")
    ] = "onnxruntime",
    inputs: Inputs = None,
    dim: Dims = None,
    length: Lengths = None,
    device: Device = "cpu",
    threads: Threads = None,
    seed: Seed = 0,
    rtol: Annotated[
        float | None, typer.Option(min=0, help="relative tolerance; default: by element type")
    ] = None,
    atol: Annotated[
        float | None, typer.Option(min=0, help="absolute tolerance; default: by element type")
    ] = None,
) -> None:
    """Find the first node that computes something else than onnxruntime does.

    Exit status: 0 where all values agree, 1 where one differs, 2 where the two could not be compared.
    """
    sizes = Sizes.parse(dim or [], length or [])
    if against not in PEERS:
        raise typer.BadParameter(f"--against {against}: expected one of {', '.join(PEERS)}")
    try:
        with open_session(model, device, threads) as session:
            feeds = read_inputs(session, inputs or [], sizes, seed)
        with compilation_bar():
            comparer = Comparer(model, feeds, against, rtol, atol, device, threads)
        with progress_bar("comparing nodes") as report:
            found = comparer.search(report)
    except (OnnxPlanError, OSError) as error:
        # 1 says that something differs.
        print_error(error)
        raise typer.Exit(2) from error
    show_comparison(console(), found)
    if not found.agrees:
        raise typer.Exit(1)


@application.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="the findings as JSON")] = False,
) -> None:
    """Show devices, libraries found and missing, versions, and the size of the kernel store."""
    sections = diagnose()
    if as_json:
        print(json.dumps(sections, indent=2))
    else:
        screen = console()
        for title, rows in sections.items():
            found = table("", "", title=title, header=False)
            for name, value in rows.items():
                add_row(found, name, Text(value, "red" if value.startswith(MISSING) else ""))
            if rows:
                screen.print(found)
    if any(value.startswith(MISSING) for rows in sections.values() for value in rows.values()):
        raise typer.Exit(1)
