"""The commands."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy.typing as npt
import typer
from rich.text import Text

import onnxplan
from onnxplan.cli.comparing import show_comparison
from onnxplan.cli.doctor import MISSING, diagnose
from onnxplan.cli.inputs import parse_dims, read_inputs, resolve_shapes
from onnxplan.cli.outputs import first_elements, statistics, write_arrays
from onnxplan.cli.terminal import add_row, compilation_bar, console, print_error, progress_bar, table
from onnxplan.cli.timing import compare_latency
from onnxplan.comparison import Comparer
from onnxplan.compiler.errors import OnnxPlanError, UnsupportedOperatorError
from onnxplan.feeds import describe
from onnxplan.peers import PEERS
from onnxplan.runtime.devices import open_device

SHOWN_NODES = 3

application = typer.Typer(
    name="onnxplan",
    help="Compiles ONNX models into static execution plans and runs them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="an ONNX file")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or auto")]
Threads = Annotated[int | None, typer.Option(min=1, help="workers of one run; default: the cores available")]
Seed = Annotated[int, typer.Option(min=0, help="seed of random inputs")]
Dims = Annotated[
    list[str] | None,
    typer.Option("--dim", metavar="NAME=SIZE", help="size of a symbolic dimension; 1 where left out"),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="NAME=FILE", help=".npy file of an input; random where left out"),
]


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


@contextmanager
def open_session(model: Path, device: str, threads: int | None) -> Iterator[onnxplan.InferenceSession]:
    """A session, with a progress bar on a terminal for as long as kernels are compiled."""
    try:
        open_device(device, threads=threads)
    except onnxplan.DeviceUnavailableError:
        raise
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    with (
        compilation_bar(),
        onnxplan.InferenceSession(model, device=device, threads=threads) as session,
    ):
        yield session


@application.command()
def run(
    model: Model,
    inputs: Inputs = None,
    output: Annotated[Path | None, typer.Option(help="folder for the outputs, as NAME.npy")] = None,
    dim: Dims = None,
    device: Device = "cpu",
    threads: Threads = None,
    seed: Seed = 0,
) -> None:
    """Run a model once and show (or save) its outputs."""
    sizes = parse_dims(dim or [])
    with open_session(model, device, threads) as session:
        feeds = read_inputs(session, inputs or [], sizes, seed)
        results = asyncio.run(_run_once(session, feeds))
    found = table("output", "type", "min", "max", "mean", "first elements")
    for name, tensor in results.items():
        kind = describe(tensor.type, tensor.dims)
        add_row(found, name, kind, *statistics(tensor), first_elements(tensor))
    screen = console()
    screen.print(found)
    if output is not None:
        write_arrays(output, results)
        screen.print(f"{_count(len(results), 'output')} written to {output}")


async def _run_once(
    session: onnxplan.InferenceSession, feeds: dict[str, npt.NDArray[Any]]
) -> dict[str, onnxplan.Tensor]:
    return await session.run(feeds)


@application.command()
def plan(
    model: Model,
    dim: Dims = None,
    device: Device = "cpu",
    threads: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="the plan as JSON")] = False,
) -> None:
    """Show the execution plan of a model."""
    sizes = parse_dims(dim or [])
    with open_session(model, device, threads) as session:
        found = session.plan(resolve_shapes(session, sizes))
    print(found.to_json() if as_json else found)


@application.command()
def bench(
    model: Model,
    inputs: Inputs = None,
    dim: Dims = None,
    device: Device = "cpu",
    threads: Threads = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="time for each engine")] = 5.0,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="the latencies as JSON")] = False,
) -> None:
    """Time a model, beside onnxruntime where that is installed."""
    sizes = parse_dims(dim or [])
    with open_session(model, device, threads) as session:
        feeds = read_inputs(session, inputs or [], sizes, seed)
        latencies = compare_latency(model, session, feeds, threads, seconds)
    if as_json:
        print(json.dumps({"unit": "ms", "engines": latencies.rows()}, indent=2))
    else:
        console().print(latencies.table())


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
    total = _count(len({*counts, *gaps}), "operator")
    screen.print(f"{len(gaps)} of {total} do not run here" if gaps else f"{total}: all run here")


@application.command()
def compare(
    model: Model,
    against: Annotated[
        str, typer.Option(help="onnxruntime, reference (ONNX's own) or unoptimised (onnxplan, node by node)")
    ] = "onnxruntime",
    inputs: Inputs = None,
    dim: Dims = None,
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
    sizes = parse_dims(dim or [])
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


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
