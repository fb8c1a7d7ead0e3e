"""Every kernel once under compute-sanitizer: operator cases that together use all kernels met."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.supervised import Settings

PLACES = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer")
SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)")


def find_tool() -> str | None:
    """The file of compute-sanitizer, if it is installed."""
    return shutil.which("compute-sanitizer") or next(
        (found for place in PLACES if (found := shutil.which("compute-sanitizer", path=place))), None
    )


def command(tool: str, mode: str, log: Path) -> tuple[str, ...]:
    """A prefix that runs a command under ``memcheck`` or ``racecheck``; findings are written to ``log``."""
    options = ("--target-processes", "all", "--print-limit", "200")
    return (tool, "--tool", mode, *options, "--log-file", str(log))


def cover(outcomes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of passed cases that together use every kernel that any of them used.

    A kernel is a family with a digest of its variant, as the details of operator cases list them. Greedy:
    short cases that add families come first, then those that add kernels: little time covers much.
    """
    passed = [o for o in outcomes if o["status"] == "passed" and o.get("details", {}).get("kernels")]
    ordered = sorted(passed, key=lambda outcome: outcome["seconds"])
    chosen: list[str] = []
    for level in (_family, _whole):
        seen: set[str] = {level(kernel) for o in ordered if o["name"] in chosen for kernel in _kernels(o)}
        for outcome in ordered:
            new = {level(kernel) for kernel in _kernels(outcome)} - seen
            if new and outcome["name"] not in chosen:
                chosen.append(outcome["name"])
            seen |= new
    return chosen


def _kernels(outcome: Mapping[str, Any]) -> Sequence[str]:
    found: Sequence[str] = outcome["details"]["kernels"]
    return found


def _family(kernel: str) -> str:
    return kernel.partition(" ")[0]


def _whole(kernel: str) -> str:
    return kernel


def findings(log: Path) -> list[str]:
    """What the tool reported, without repetitions: first lines of each report with the kernel's name."""
    if not log.exists():
        return ["compute-sanitizer wrote no log"]
    found: dict[str, None] = {}
    lines = [line.removeprefix("=========").strip() for line in log.read_text(errors="replace").splitlines()]
    for number, line in enumerate(lines):
        if re.match(r"(Error|Warning|Invalid|Misaligned|Program hit|Race|Potential|.* hazard)", line):
            found[" ".join(part for part in lines[number : number + 3] if part)] = None
    return list(found)[:100]


def error_count(log: Path) -> int:
    """Errors that the tool counted, or -1 if it did not come to an end."""
    counts = SUMMARY.findall(log.read_text(errors="replace")) if log.exists() else []
    return sum(map(int, counts)) if counts else -1


def names(settings: Settings) -> list[str]:
    """None by itself: the supervisor gives names that :func:`cover` chose."""
    return []


def check(name: str, settings: Settings) -> None:
    """The case, whose result was compared before; what counts here is the tool's log."""
    from tests.cuda import gpu_cases

    gpu_cases.check(name, settings)
