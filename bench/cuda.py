"""``make bench-cuda``: a GPU beside PyTorch and its own limits, in less than nine minutes, with a record.

Copy bandwidth and product rates, the cost of a run and of a step, tasks beside each other, new shapes, whole
models at batch 1 and 32, on the device and from the host, elementwise kernels, norms and softmax beside a
copy, attention beside PyTorch's, the algorithms of the models' products, the convolutions of ResNet-50 beside
cuDNN's, and every step of some. Which bars were reached is printed and recorded
(:mod:`bench.cuda_bars`). Whatever fails is named in the record and ends nothing else. Exit status 2 without a
CUDA device.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from bench import record
from bench.cuda_bars import judge
from bench.cuda_models import ORDER, measure_group
from bench.supervised import Settings
from bench.supervisor import Part, Result, run_part
from onnxplan.runtime.cuda.inventory import take_inventory

NO_DEVICE_STATUS = 2
LIMIT_SECONDS = 520.0
RATES = Part("rates", "bench.cuda_rates", 75, stall=40)
TASKS = Part("tasks", "bench.cuda_tasks", 40, stall=30)
PRODUCTS = Part("products", "bench.cuda_products", 60, stall=40)
CONVOLUTIONS = Part("convolutions", "bench.cuda_convolutions", 50, stall=40)
BANDWIDTH = Part("bandwidth", "bench.cuda_bandwidth", 30, stall=25)
ATTENTION = Part("attention", "bench.cuda_attention", 40, stall=30)
STEPS = Part("steps", "bench.cuda_steps", 90, stall=60)
GROUP = 6
"""Models that are prepared at the same time."""

SECONDS = 0.6
"""Time for each engine, batch size and form."""


def measure_models(
    names: Sequence[str], device: str, deadline: float, seconds: float
) -> tuple[list[record.Row], dict[str, list[str]]]:
    """Rows and notes of all models, group by group; each group gets its share of the time that is left."""
    rows: list[record.Row] = []
    notes: dict[str, list[str]] = {}
    groups = [names[first : first + GROUP] for first in range(0, len(names), GROUP)]
    for number, group in enumerate(groups):
        now = time.monotonic()
        end = now + (deadline - now) / (len(groups) - number)
        found, text = measure_group(group, device, end, seconds)
        rows += found
        notes |= text
        record.show(", ".join(group), found)
    return rows, notes


def rows_of(result: Result) -> list[record.Row]:
    """The rows among the details of a part's checks."""
    found = [row for outcome in result.outcomes for row in outcome.get("details", {}).get("rows", ())]
    return [record.Row(**row) for row in found]


def run_and_show(part: Part, settings: Settings, parts: list[dict[str, Any]]) -> list[record.Row]:
    """Runs a part, prints what came of it, and adds it to ``parts``; its rows."""
    result = run_part(part, settings)
    parts.append(result.to_json())
    rows = rows_of(result)
    if rows:
        record.show(part.name, rows)
    if result.error:
        print(f"{part.name}: {result.error}")
    for group in result.grouped_failures():
        print(f"{part.name}, {', '.join(group['names'])}: {group['error']}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Benchmarks on a GPU, with a record.")
    parser.add_argument("--device", default="cuda", help="the device to measure")
    parser.add_argument("--models", nargs="*", default=list(ORDER), help="models; default: all")
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS, help="seconds for everything")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="seconds for each engine and form")
    parser.add_argument("--no-record", action="store_true", help="do not write the record")
    options = parser.parse_args()
    inventory = take_inventory()
    if options.device.startswith("cuda") and not inventory.devices:
        print(f"no CUDA device: {inventory.driver_problem}")
        raise SystemExit(NO_DEVICE_STATUS)
    deadline = time.monotonic() + options.limit
    rows: list[record.Row] = []
    parts: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="onnxplan-bench-cuda-") as folder:
        settings = Settings(device=options.device, folder=folder)
        # What they do not take of their time is the models'.
        for part in (RATES, TASKS, BANDWIDTH, ATTENTION):
            rows += run_and_show(part, settings, parts)
        steps = replace(STEPS, seconds=min(STEPS.seconds, options.limit / 5))
        products = replace(PRODUCTS, seconds=min(PRODUCTS.seconds, options.limit / 8))
        convolutions = replace(CONVOLUTIONS, seconds=min(CONVOLUTIONS.seconds, options.limit / 10))
        last = (products, convolutions, steps)
        end = deadline - sum(part.seconds for part in last)
        found, notes = measure_models(options.models, options.device, end, options.seconds)
        rows += found
        # Last, since they find the models exported.
        for part in last:
            rows += run_and_show(part, settings, parts)
    reached = judge(rows)
    for bar in reached:
        print(bar)
    for name, text in notes.items():
        print(f"{name}: {'; '.join(text)}")
    if not options.no_record:
        name = inventory.devices[0].name if inventory.devices else "none"
        driver = {"release": inventory.driver_release, "cuda": list(inventory.driver or ())}
        details = {"driver": driver, "notes": notes, "parts": parts, "bars": [asdict(bar) for bar in reached]}
        print(record.write("bench-cuda", rows, device=name, details=details))


if __name__ == "__main__":
    main()
