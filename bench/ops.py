"""Operators beside onnxruntime and the processor's ceilings: ``python -m bench.ops [GROUP ...]``.

Models of one operator, each engine in its own process with the same number of threads, blocks of runs in
turn, medians of whole calls, in which changes of layout at the model's edges count. Both engines write into
the same arrays in every run: fresh memory costs more than many operators do. Before an operator is timed its
output is compared with onnxruntime's.

The ceiling is the time of the direct algorithm's arithmetic at the measured peak, or of all inputs, weights
and outputs at the measured copy bandwidth, whichever is longer. Winograd convolutions may lie above it, and
so may what fits into caches.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import typer
from rich.progress import track

from bench import record
from bench.model_times import largest_error
from bench.op_cases import GROUPS, OpCase, traffic
from bench.peers import Peer, interleave
from onnxplan.cli.terminal import add_row, console, table
from onnxplan.runtime.ceilings import Ceilings
from onnxplan.runtime.cpu.measure_ceilings import measure_ceilings

ENGINES = ("onnxplan into arrays", "onnxruntime into arrays")
TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class OpTime:
    """Medians of a case in seconds with some number of threads, and its bytes."""

    case: OpCase
    threads: int
    ours: float
    theirs: float
    bytes: int

    @property
    def label(self) -> str:
        return f"{self.case.group}: {self.case.name}, {record.threads_label(self.threads)}"

    def row(self) -> record.Row:
        return record.Row.of_times(self.label, self.ours, "onnxruntime", self.theirs)

    def bound(self, ceilings: Ceilings) -> str:
        """What limits the case: ``arithmetic`` or ``memory``."""
        ceilings = self._own(ceilings)
        arithmetic = self.case.flops / ceilings.flops >= self.bytes / ceilings.bandwidth
        return "arithmetic" if arithmetic else "memory"

    def of_ceiling(self, ceilings: Ceilings) -> float:
        return self._own(ceilings).seconds(self.case.flops, self.bytes) / self.ours

    def _own(self, ceilings: Ceilings) -> Ceilings:
        return ceilings.for_bytes() if self.case.multiplies_bytes else ceilings

    def to_json(self, ceilings: Ceilings) -> dict[str, Any]:
        return {
            "name": self.label,
            "GFLOP/s": round(1e-9 * self.case.flops / self.ours, 2),
            "GB/s": round(1e-9 * self.bytes / self.ours, 2),
            "bound": self.bound(ceilings),
            "of_ceiling": round(self.of_ceiling(ceilings), 3),
        }


def time_case(case: OpCase, threads: int, seconds: float, folder: Path) -> OpTime:
    """Times a case for ``seconds`` in each engine; raises ``RuntimeError`` where outputs differ."""
    model, feeds = case.model(), case.feeds()
    file = folder / "operator.onnx"
    onnx.save(model, file)
    with ExitStack() as stack:
        peers = [stack.enter_context(Peer(engine, file, feeds, threads)) for engine in ENGINES]
        ours, theirs = (peer.outputs() for peer in peers)
        error = largest_error(ours, theirs)
        if not error < TOLERANCE:
            raise RuntimeError(
                f"{case.name}: the output differs from onnxruntime's by {error:.2g} of its scale"
            )
        medians = interleave(peers, seconds)
    return OpTime(case, threads, medians[ENGINES[0]], medians[ENGINES[1]], traffic(model))


def summary_rows(times: Sequence[OpTime], ceilings: dict[int, Ceilings]) -> list[record.Row]:
    """Mean and worst ratio to onnxruntime, least share of the ceiling, by group and number of threads."""
    rows = []
    for group, threads in dict.fromkeys((each.case.group, each.threads) for each in times):
        own = [each for each in times if (each.case.group, each.threads) == (group, threads)]
        ratios = [each.theirs / each.ours for each in own]
        shares = [each.of_ceiling(ceilings[threads]) for each in own]
        label = f"{group}, {record.threads_label(threads)}"
        mean = float(np.exp(np.mean(np.log(ratios))))
        rows.append(record.Row(f"geometric mean, {label}", mean, "ratio", "onnxruntime"))
        rows.append(record.Row(f"worst, {label}", min(ratios), "ratio", "onnxruntime"))
        rows.append(record.Row(f"least share of the ceiling, {label}", min(shares), "ratio"))
    return rows


def show_times(times: Sequence[OpTime], ceilings: dict[int, Ceilings]) -> None:
    headings = ("operator", "ms", "onnxruntime", "ratio", "GFLOP/s", "GB/s", "bound", "of ceiling")
    found = table(*headings, title="operators: milliseconds")
    for each in times:
        cells = each.to_json(ceilings[each.threads])
        add_row(
            found,
            each.label,
            f"{1e3 * each.ours:.4g}",
            f"{1e3 * each.theirs:.4g}",
            f"{each.theirs / each.ours:.2f}",
            f"{cells['GFLOP/s']:.1f}",
            f"{cells['GB/s']:.1f}",
            cells["bound"],
            f"{cells['of_ceiling']:.0%}",
        )
    console().print(found)


def main(
    groups: Annotated[list[str] | None, typer.Argument(help=f"{', '.join(GROUPS)}; default: all")] = None,
    threads: Annotated[list[int] | None, typer.Option(help="numbers of threads; default: 1 and 2")] = None,
    seconds: Annotated[float, typer.Option(help="time for each engine and operator")] = 1.0,
    only: Annotated[str, typer.Option(help="operators whose name contains this")] = "",
    save: Annotated[bool, typer.Option(help="write the record")] = True,
) -> None:
    """Times operators beside onnxruntime."""
    for group in groups or ():
        if group not in GROUPS:
            raise typer.BadParameter(f"no group {group!r}; there are {', '.join(GROUPS)}")
    cases = [case for group in groups or GROUPS for case in GROUPS[group]() if only in case.name]
    counts = threads or [1, 2]
    ceilings = {count: measure_ceilings(count) for count in counts}
    times: list[OpTime] = []
    with tempfile.TemporaryDirectory(prefix="onnxplan-bench-ops-") as folder:
        pairs = [(case, count) for case in cases for count in counts]
        for case, count in track(pairs, "measuring", transient=True):
            times.append(time_case(case, count, seconds, Path(folder)))
    ceilings = {count: found.best(measure_ceilings(count)) for count, found in ceilings.items()}
    rows = summary_rows(times, ceilings)
    for count, found in ceilings.items():
        label = record.threads_label(count)
        rows.append(record.Row(f"arithmetic peak, {label}", 1e-9 * found.flops, "GFLOP/s"))
        rows.append(record.Row(f"peak of products of bytes, {label}", 1e-9 * found.byte_operations, "GOP/s"))
        rows.append(record.Row(f"copy bandwidth, {label}", 1e-9 * found.bandwidth, "GB/s"))
    show_times(times, ceilings)
    record.show("operators", rows)
    if save:
        details = {"operators": [each.to_json(ceilings[each.threads]) for each in times]}
        print(record.write("ops", [each.row() for each in times] + rows, details=details))


if __name__ == "__main__":
    typer.run(main)
