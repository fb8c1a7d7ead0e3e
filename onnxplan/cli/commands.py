"""The commands."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.table import Table

import onnxplan
from onnxplan.cli.doctor import diagnose
from onnxplan.cli.inputs import parse_dims, read_inputs, resolve_shapes
from onnxplan.cli.timing import compare_latency
from onnxplan.feeds import describe

application = typer.Typer(
    name="onnxplan",
    help="Compiles ONNX models into static execution plans and runs them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
console = Console()

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="an ONNX file")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or auto")]
Threads = Annotated[int | None, typer.Option(help="workers of one run; default: the cores available")]
Dims = Annotated[
    list[str] | None, typer.Option("--dim", metavar="NAME=SIZE", help="size of a symbolic dimension")
]


@application.command()
def run(
    model: Model,
    input_: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="NAME=FILE", help=".npy file of an input; random where left out"),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="folder for the outputs, as NAME.npy")] = None,
    dim: Dims = None,
    device: Device = "cpu",
    threads: Threads = None,
    seed: Annotated[int, typer.Option(help="seed of random inputs")] = 0,
) -> None:
    """Run a model once and show (or save) its outputs."""
    with onnxplan.InferenceSession(model, device=device, threads=threads) as session:
        feeds = read_inputs(session, input_ or [], parse_dims(dim or []), seed)
        results = asyncio.run(_run_once(session, feeds))
        table = Table("output", "type", "min", "max", "mean")
        for name, tensor in results.items():
            table.add_row(name, describe(tensor.type, tensor.dims), *_statistics(tensor.numpy()))
        console.print(table)
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            for name, tensor in results.items():
                np.save(output / f"{_file_name(name)}.npy", tensor.numpy())
            console.print(f"{len(results)} outputs written to {output}")


async def _run_once(
    session: onnxplan.InferenceSession, feeds: dict[str, npt.NDArray[Any]]
) -> dict[str, onnxplan.Tensor]:
    return await session.run(feeds)


def _statistics(array: npt.NDArray[Any]) -> tuple[str, str, str]:
    if array.size == 0 or array.dtype.kind not in "biufV":
        return "", "", ""
    wide = array.astype(np.float64)
    return f"{wide.min():.6g}", f"{wide.max():.6g}", f"{wide.mean():.6g}"


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name) or "output"


@application.command()
def plan(
    model: Model,
    dim: Dims = None,
    device: Device = "cpu",
    threads: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="the plan as JSON")] = False,
) -> None:
    """Show the execution plan of a model."""
    with onnxplan.InferenceSession(model, device=device, threads=threads) as session:
        found = session.plan(resolve_shapes(session, parse_dims(dim or [])))
        print(found.to_json() if as_json else found)


@application.command()
def bench(
    model: Model,
    dim: Dims = None,
    device: Device = "cpu",
    threads: Threads = None,
    seconds: Annotated[float, typer.Option(help="time for each engine")] = 5.0,
    seed: Annotated[int, typer.Option(help="seed of the random inputs")] = 0,
) -> None:
    """Time a model, beside onnxruntime where that is installed."""
    with onnxplan.InferenceSession(model, device=device, threads=threads) as session:
        feeds = read_inputs(session, [], parse_dims(dim or []), seed)
        console.print(compare_latency(model, session, feeds, threads, seconds))


@application.command()
def check(
    model: Model,
    as_json: Annotated[bool, typer.Option("--json", help="the findings as JSON")] = False,
) -> None:
    """Tell whether every operator of a model runs here; lists all gaps at once."""
    from onnxplan.compiler.importer import load_model, unsupported_operators

    imported = load_model(model, check_operators=False)
    missing = unsupported_operators(imported)
    counts: dict[tuple[str, str, int], int] = {}
    for node in imported.graph.walk():
        key = (node.domain, node.op_type, node.version)
        counts[key] = counts.get(key, 0) + 1
    gaps = {entry[:3]: entry[3] for entry in missing}
    if as_json:
        rows = [
            {
                "domain": domain or "ai.onnx",
                "op_type": op_type,
                "opset": version,
                "nodes": count,
                "device": None if (domain, op_type, version) in gaps else "cpu",
                "missing_in": list(gaps.get((domain, op_type, version), ())),
            }
            for (domain, op_type, version), count in sorted(counts.items())
        ]
        print(json.dumps({"supported": not gaps, "operators": rows}, indent=2))
    else:
        table = Table("operator", "opset", "nodes", "runs on", "first nodes of a gap")
        for (domain, op_type, version), count in sorted(counts.items()):
            nodes = gaps.get((domain, op_type, version))
            label = f"{domain}::{op_type}" if domain else op_type
            place = "[red]nothing[/red]" if nodes else "cpu"
            table.add_row(label, str(version), str(count), place, ", ".join((nodes or ())[:3]))
        console.print(table)
        total = len(counts)
        console.print(
            f"{len(gaps)} of {total} operators are missing" if gaps else f"all {total} operators run here"
        )
    if gaps:
        raise typer.Exit(1)


@application.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="the findings as JSON")] = False,
) -> None:
    """Show devices, libraries found and missing, versions, and the size of the kernel store."""
    sections = diagnose()
    if as_json:
        print(json.dumps(sections, indent=2))
        return
    for title, rows in sections.items():
        table = Table(title=title, show_header=False, title_justify="left")
        for name, value in rows.items():
            table.add_row(name, value)
        console.print(table)
