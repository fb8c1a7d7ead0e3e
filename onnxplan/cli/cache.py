"""``onnxplan cache``: the kernel store on disk, and the models that were seen."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

import onnxplan
from onnxplan.cli.inputs import Sizes, read_inputs
from onnxplan.cli.sessions import Device, Dims, Inputs, Lengths, Math, Model, Threads, open_session
from onnxplan.cli.terminal import add_row, console, counted, mebibytes, table
from onnxplan.compiler.plan import DEMAND
from onnxplan.infos import StructureInfo
from onnxplan.runtime.devices import open_device
from onnxplan.runtime.store import entry_target, store_directory, store_trouble
from onnxplan.runtime.store_upkeep import Entry, list_entries, size_bound
from onnxplan.runtime.store_upkeep import clear as clear_store

DAY_SECONDS = 86400.0
UNKNOWN = "unknown"

cache = typer.Typer(
    help="Show, empty or fill the kernel store: compiled kernels and models, kept for later processes.",
    no_args_is_help=True,
)


@cache.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="the findings as JSON")] = False,
) -> None:
    """Show where the kernel store is, what is in it, and its bound."""
    try:
        bound = size_bound()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    folder = store_directory()
    entries = list_entries(folder)
    models = [entry for entry in entries if entry.is_model]
    targets = _by_target([entry for entry in entries if not entry.is_model])
    kernels = sum(map(len, targets.values()))
    size = sum(entry.size for entry in entries)
    if as_json:
        rows = [{"target": target, "kernels": len(found), **_use(found)} for target, found in targets.items()]
        total = {"folder": str(folder), "kernels": kernels, "models": len(models), "bytes": size}
        seen = {"seen": _use(models)} if models else {}
        print(json.dumps({**total, "bound": bound, "targets": rows, **seen}, indent=2))
        return
    screen = console()
    screen.print(
        f"{folder}: {counted(kernels, 'kernel')}, {counted(len(models), 'model')}, "
        f"{mebibytes(size)} of {mebibytes(bound)}"
    )
    if entries:
        shown = table("entries", "number", "size", "oldest use", "newest use")
        named = [(f"kernels, {target}", found) for target, found in targets.items()]
        for name, found in [*named, ("models", models)]:
            if found:
                row = _use(found)
                times = (_local(row["oldest"]), _local(row["newest"]))
                add_row(shown, name, str(len(found)), mebibytes(row["bytes"]), *times)
        screen.print(shown)


def _by_target(entries: list[Entry]) -> dict[str, list[Entry]]:
    found: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        try:
            found[entry_target(entry.path) or UNKNOWN].append(entry)
        except FileNotFoundError:
            continue
        except OSError:
            found[UNKNOWN].append(entry)
    return dict(sorted(found.items()))


def _use(entries: list[Entry]) -> dict[str, Any]:
    times = [entry.used for entry in entries]
    return {
        "bytes": sum(entry.size for entry in entries),
        "oldest": datetime.fromtimestamp(min(times), UTC).isoformat(timespec="seconds"),
        "newest": datetime.fromtimestamp(max(times), UTC).isoformat(timespec="seconds"),
    }


def _local(moment: str) -> str:
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M")


@cache.command()
def clear(
    older_than: Annotated[
        float | None,
        typer.Option("--older-than", metavar="DAYS", min=0, help="only what was not used for so many days"),
    ] = None,
) -> None:
    """Remove compiled kernels and models; what is needed again is compiled again."""
    folder = store_directory()
    freed = clear_store(folder, None if older_than is None else time.time() - older_than * DAY_SECONDS)
    kernels = counted(freed.entries - freed.models, "kernel")
    console().print(
        f"{kernels} and {counted(freed.models, 'model')} removed from {folder}, {mebibytes(freed.size)} freed"
    )


@cache.command()
def warm(
    model: Model,
    inputs: Inputs = None,
    dim: Dims = None,
    length: Lengths = None,
    device: Device = "cpu",
    threads: Threads = None,
    math: Math = "strict",
) -> None:
    """Compile a model and all kernels that it needs, so that later processes start without a compiler.

    A model whose course depends on data is run once, on random inputs where none are given.
    """
    sizes = Sizes.parse(dim or [], length or [])
    folder = store_directory()
    needed = 0
    with open_session(model, device, threads, math) as session:
        feeds = read_inputs(session, inputs or [], sizes)
        depends = _depends_on_feeds(session)
        if not depends:
            shapes = {name: array.shape for name, array in feeds.items()}
            plan = session.plan(shapes)
            outputs, needed = {binding.name for binding in plan.outputs}, len(plan.kernels)
        if depends or DEMAND in outputs:
            session.run_sync(feeds)
        session._engine.settle(wait=True)
        opened = open_device(device, threads=threads, math=math)
        # Another process may have compiled some of what was missing.
        compiled = opened.missing_kernels
        # Those of a model that was seen before are in its own entry.
        total = max(opened.compiled_kernels + opened.loaded_kernels, needed)
    found = (
        f"{counted(total, 'kernel')} for {opened.name}: {compiled} compiled, {total - compiled} were there"
    )
    trouble = store_trouble(folder)
    if trouble is not None:
        raise onnxplan.OnnxPlanError(f"{found}, but the kernel store does not keep them: {trouble}")
    console().print(f"{found}; the store is {folder}")


def _depends_on_feeds(session: onnxplan.InferenceSession) -> bool:
    """Do plans depend on more than shapes: on strings, lengths of sequences, keys of maps?"""
    infos = [*session.inputs, *session.optional_inputs]
    return any(isinstance(info, StructureInfo) or info.type == "string" for info in infos)
