"""``make test-cuda``: everything that needs a GPU, in less than nine minutes, and a record of it.

Each part runs in processes of its own with a limited time, so that a crash or a hang still leaves a record:
``bench/results/<date>-test-cuda-<device>.json`` with the device, driver, versions, and for each part what
passed, failed (by name, with the error's first lines), was skipped and was not reached. The exit status is 0
if everything passed, 1 if something failed, 2 without a CUDA device. It needs no network, no installation and
no test runner: ``python bench/checkout.py tests.cuda.gpu_run`` runs it with what Python has.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import record
from bench.supervised import Settings
from bench.supervisor import Part, Result, run_part
from onnxplan.runtime.cuda.inventory import Inventory, take_inventory
from tests.cuda import gpu_sanitizer

NO_DEVICE_STATUS = 2
LIMIT_SECONDS = 520.0
"""Time of all groups together; what is left counts down, so that the record is always written."""

CORES = os.cpu_count() or 1
MANY = max(1, min(12, CORES - 2))
FEW = max(1, min(4, CORES // 4))

# Parts of a group run at the same time; groups one after the other.
GROUPS: tuple[tuple[Part, ...], ...] = (
    (Part("probe", "tests.cuda.gpu_probe", 60, stall=45),),
    (
        Part("operators", "tests.cuda.gpu_cases", 150, workers=MANY),
        Part("tasks", "tests.cuda.gpu_runs", 110, stall=105),
    ),
    (
        Part("backend suite", "tests.cuda.gpu_suite", 90, workers=MANY),
        Part("models", "tests.cuda.gpu_models", 120, workers=FEW, stall=110),
    ),
    (
        Part("runs", "tests.cuda.gpu_runs", 60, stall=50),
        Part("attention by cuDNN", "tests.cuda.gpu_library", 60, stall=50),
    ),
)
SANITIZER_SECONDS = 110.0
ALONE = ("many tasks",)
"""Checks of the runs that take long and share the device with the operators."""


def run_group(parts: Sequence[Part], settings: Settings, left: float) -> list[Result]:
    """Runs parts at the same time, none longer than the time that is ``left``."""
    limited = [replace(part, seconds=min(part.seconds, left)) for part in parts]
    with ThreadPoolExecutor(len(limited)) as pool:
        return list(pool.map(lambda part: run_part(part, settings, names_of(part, settings)), limited))


def names_of(part: Part, settings: Settings) -> list[str] | None:
    """The checks of a part, where they are not simply all of its module."""
    if part.module != "tests.cuda.gpu_runs":
        return None
    from tests.cuda import gpu_runs

    return [name for name in gpu_runs.names(settings) if (name in ALONE) == (part.name == "tasks")]


def run_sanitizer(mode: str, names: Sequence[str], settings: Settings, seconds: float) -> Result:
    """The cases under compute-sanitizer; its findings are failures."""
    part_name = f"compute-sanitizer {mode}"
    tool = gpu_sanitizer.find_tool()
    if tool is None:
        return Result(part_name, error="compute-sanitizer is not installed")
    if not names:
        return Result(part_name, error="no operator case passed that could be run under it")
    log = Path(settings.folder) / f"{mode}.log"
    prefix = gpu_sanitizer.command(tool, mode, log)
    part = Part(part_name, "tests.cuda.gpu_sanitizer", seconds, stall=seconds, prefix=prefix)
    result = run_part(part, settings, names)
    for number, text in enumerate(gpu_sanitizer.findings(log)):
        outcome = {"name": f"finding {number}", "status": "failed", "seconds": 0.0, "error": text}
        result.outcomes.append(outcome)
    details = {"errors counted by the tool": gpu_sanitizer.error_count(log)}
    result.outcomes.append({"name": "summary", "status": "passed", "seconds": 0.0, "details": details})
    return result


def run_all(settings: Settings, chosen: Sequence[str], limit: float) -> list[Result]:
    """All parts, or those ``chosen``."""
    start = time.monotonic()
    results: list[Result] = []
    for group in GROUPS:
        parts = [part for part in group if not chosen or part.name in chosen]
        if parts:
            results += show(run_group(parts, settings, limit - (time.monotonic() - start)))
    if not chosen or "sanitizer" in chosen:
        cases = [result for result in results if result.part == "operators"]
        names = gpu_sanitizer.cover(cases[0].outcomes) if cases else []
        seconds = min(SANITIZER_SECONDS, limit - (time.monotonic() - start))
        with ThreadPoolExecutor(2) as pool:
            modes = ("memcheck", "racecheck")
            results += show(list(pool.map(lambda mode: run_sanitizer(mode, names, settings, seconds), modes)))
    return results


def show(results: list[Result]) -> list[Result]:
    """Prints what became of parts, and passes them on."""
    for result in results:
        counts = f"{result.count('passed')} passed, {len(result.failures)} failed"
        more = f", {result.count('skipped')} skipped, {len(result.not_run)} not run"
        print(f"{result.part}: {counts}{more}, {result.seconds:.0f} s {result.error}".rstrip(), flush=True)
        for group in result.grouped_failures()[:8]:
            error = group["error"].replace("\n", " | ")[:300]
            print(f"  {len(group['names'])} x {error}: {', '.join(group['names'][:3])}", flush=True)
    return results


def rows_of(results: Sequence[Result]) -> list[record.Row]:
    """Counts of each part, and the figures that have a unit."""
    rows = []
    for result in results:
        for status in ("passed", "failed", "skipped"):
            rows.append(record.Row(f"{result.part}: {status}", result.count(status), "checks"))
        rows.append(record.Row(f"{result.part}: not run", len(result.not_run), "checks"))
        rows.append(record.Row(f"{result.part}: time", round(result.seconds, 1), "s"))
    return rows


def write_record(results: Sequence[Result], inventory: Inventory) -> Path:
    release = inventory.driver_release or "unknown"
    driver: dict[str, Any] = {"release": release, "cuda": list(inventory.driver or ())}
    parts = [result.to_json() for result in results]
    passed = all(result.passed for result in results)
    return record.write(
        "test-cuda",
        rows_of(results),
        device=inventory.devices[0].name if inventory.devices else "none",
        details={"driver": driver, "passed": passed, "parts": parts},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Tests on a GPU, with a record.")
    parser.add_argument("--device", default="cuda", help="the device to test")
    parser.add_argument("--parts", nargs="*", default=[], help="parts to run; default: all")
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS, help="seconds for all parts")
    parser.add_argument("--task-seconds", type=float, default=Settings().task_seconds)
    parser.add_argument("--leak-runs", type=int, default=Settings().leak_runs)
    parser.add_argument("--no-record", action="store_true", help="do not write the record")
    options = parser.parse_args()
    inventory = take_inventory()
    if options.device.startswith("cuda") and not inventory.devices:
        print(f"no CUDA device: {inventory.driver_problem}")
        raise SystemExit(NO_DEVICE_STATUS)
    with tempfile.TemporaryDirectory(prefix="onnxplan-test-cuda-") as folder:
        settings = Settings(
            device=options.device,
            folder=folder,
            task_seconds=options.task_seconds,
            leak_runs=options.leak_runs,
        )
        results = run_all(settings, options.parts, options.limit)
    if not options.no_record:
        print(write_record(results, inventory))
    raise SystemExit(0 if all(result.passed for result in results) else 1)


if __name__ == "__main__":
    main()
