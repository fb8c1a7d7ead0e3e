"""The newest records as tables of the README and docs/benchmarks.md: ``python -m bench.figures``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.record import RESULTS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
BENCHMARKS = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- figures: python -m bench.figures -->", "<!-- end of figures -->"


def newest(suite: str) -> dict[str, Any] | None:
    """The newest record of a suite, by date and then by the time of its file."""
    records = [(file, json.loads(file.read_text())) for file in RESULTS.glob("*.json")]
    own = [
        (record["date"], file.stat().st_mtime, record) for file, record in records if record["suite"] == suite
    ]
    return max(own, key=lambda item: item[:2])[2] if own else None


def model_table(record: dict[str, Any]) -> list[str]:
    """One row a model: ours, and the peers' time over ours, with one thread and with two."""
    times: dict[str, dict[str, float]] = {}
    for row in record["rows"]:
        name, _, threads = row["name"].rpartition(", ")
        if row["unit"] != "ms":
            continue
        cells = times.setdefault(name, {})
        cells[f"{threads} ours"] = row["value"]
        cells[f"{threads} {row['peer']}"] = row["ratio"]
    columns = [f"{threads} {what}" for threads in ("1 thread", "2 threads") for what in COLUMNS]
    lines = ["| model | " + " | ".join(HEADINGS) + " |", "|---|" + "---:|" * len(columns)]
    for name, cells in times.items():
        shown = [_cell(column, cells.get(column)) for column in columns]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return lines


COLUMNS = ("ours", "onnxruntime", "openvino")
HEADINGS = [
    heading
    for threads in ("1 thread", "2 threads")
    for heading in (f"{threads}, ms", "x ONNX Runtime", "x OpenVINO")
]


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if column.endswith("ours") else f"{value:.2f}"


def row_table(record: dict[str, Any]) -> list[str]:
    """The rows of a record as they are."""
    lines = ["| figure | value | peer | x peer |", "|---|---:|---|---:|"]
    for row in record["rows"]:
        peer = f"{row['peer']} {row['peer_value']:.3g}" if row["peer_value"] is not None else ""
        ratio = f"{row['ratio']:.2f}" if row["ratio"] is not None else ""
        lines.append(f"| {row['name']} | {row['value']:.3g} {row['unit']} | {peer} | {ratio} |")
    return lines


def suite_table(record: dict[str, Any]) -> list[str]:
    """The table of a record in docs/benchmarks.md."""
    return model_table(record) if record["suite"] in ("models", "models-fast") else row_table(record)


def figures() -> list[str]:
    """The section's lines."""
    lines: list[str] = []
    models, overhead = newest("models"), newest("overhead")
    if models is not None:
        lines += [f"{models['device']}, float32, {models['date']} (`python -m bench.model_times`):", ""]
        lines += [*model_table(models), ""]
        summaries = [row for row in models["rows"] if row["unit"] == "ratio"]
        lines += [
            "; ".join(f"{row['name']} {row['value']:.2f}" for row in summaries) + " (best peer / ours).",
            "",
        ]
    if overhead is not None:
        lines += ["What a run and a step cost (`python -m bench.overhead`):", "", *row_table(overhead), ""]
    return lines


SUITES = (
    ("models", "Whole models", "model_times"),
    ("models-fast", 'Whole models in `math="fast"` beside OpenVINO in bfloat16', "model_times --math fast"),
    ("overhead", "Runs and steps", "overhead"),
    ("concurrency", "The event loop and many tasks", "concurrency"),
    ("observers", "Metrics and traces", "observers"),
    ("memory", "Memory", "memory"),
    ("ops", "Single operators", "ops"),
)
"""Suites of docs/benchmarks.md, with their titles and the modules of ``bench`` that measure them."""


def benchmarks() -> list[str]:
    """The lines of docs/benchmarks.md that are made from records: for each suite its newest one."""
    lines: list[str] = []
    for suite, title, module in SUITES:
        record = newest(suite)
        if record is None:
            continue
        versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
        lines += [f"## {title}", "", f"`python -m bench.{module}`, {record['date']}, {record['device']};"]
        lines += [f"commit {record['commit']}, {versions}.", ""]
        lines += [*suite_table(record), ""]
    return lines


def write(document: Path, lines: list[str]) -> None:
    """Puts ``lines`` between the marks of ``document``."""
    before, _, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    document.write_text("\n".join([before + BEGIN, "", *lines, END]) + after, encoding="utf-8")


def main() -> None:
    write(README, figures())
    write(BENCHMARKS, benchmarks())


if __name__ == "__main__":
    main()
