"""What commands that open a model have in common: its arguments and the session."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

import onnxplan
from onnxplan.cli.terminal import compilation_bar
from onnxplan.runtime.devices import open_device

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="an ONNX file, or an artifact")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or auto")]
Threads = Annotated[int | None, typer.Option(min=1, help="workers of one run; default: the cores available")]
Math = Annotated[str, typer.Option(help="strict or fast")]
Seed = Annotated[int, typer.Option(min=0, help="seed of random inputs")]
Dims = Annotated[
    list[str] | None,
    typer.Option("--dim", metavar="NAME=SIZE", help="size of a symbolic dimension; 1 where left out"),
]
Lengths = Annotated[
    list[str] | None,
    typer.Option("--length", metavar="NAME=SIZE", help="elements of a sequence; 1 where left out"),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=FILE",
        help=".npy file of an input, several for the elements of a sequence, .json for a map; "
        "random where left out",
    ),
]


@contextmanager
def open_session(
    model: Path, device: str, threads: int | None, math: str = "strict"
) -> Iterator[onnxplan.InferenceSession]:
    """A session, with a progress bar on a terminal while it is loaded and kernels are compiled."""
    try:
        open_device(device, threads=threads, math=math)
    except onnxplan.DeviceUnavailableError:
        raise
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    with (
        compilation_bar() as loaded,
        onnxplan.InferenceSession(model, device=device, threads=threads, math=math) as session,
    ):
        loaded()
        yield session
