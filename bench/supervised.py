"""Runs the checks of one module by name, in a process that may crash or hang.

    python -m bench.supervised MODULE SETTINGS --list          # prints the names as JSON
    python -m bench.supervised MODULE SETTINGS OUTPUT < NAMES

The module has ``names(settings)`` and ``check(name, settings)``; the latter raises for a failure and returns
figures, or ``None``. OUTPUT gets one line of JSON when a check begins and one when it ends, so that what a
crash leaves behind tells which check it was.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import SkipTest

BROKEN_STATUS = 3
"""Exit status after a failure that left the device unusable for this process."""

ERROR_LINES = 6


@dataclass(frozen=True, slots=True)
class Settings:
    """What checks run on, and how long the long ones take: the defaults are those of ``make test-cuda``.

    ``tasks`` run for ``task_seconds``; the leak check makes ``leak_runs``; ``repeats`` is how often a replay
    is repeated; ``folder`` is for files that parts leave each other.
    """

    device: str = "cuda"
    folder: str = "."
    tasks: int = 16
    task_seconds: float = 60.0
    leak_runs: int = 10_000
    repeats: int = 50

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Settings:
        return Settings(**json.loads(text))


def first_lines(error: BaseException) -> str:
    """The error's first lines, with the place it was raised at."""
    lines = [line for line in f"{type(error).__name__}: {error}".splitlines() if line.strip()]
    frames = traceback.extract_tb(error.__traceback__)
    place = f" [{Path(frames[-1].filename).name}:{frames[-1].lineno}]" if frames else ""
    return "\n".join(lines[:ERROR_LINES])[:1500] + place


def run_check(part: Any, name: str, settings: Settings) -> dict[str, Any]:
    """The outcome of one check: ``name``, ``status``, ``seconds``, and ``error`` or ``details``."""
    start = time.perf_counter()
    outcome: dict[str, Any] = {"name": name, "status": "passed"}
    try:
        details = part.check(name, settings)
        if details:
            outcome["details"] = details
    except SkipTest as reason:
        outcome |= {"status": "skipped", "error": str(reason)}
    except Exception as error:
        outcome |= {"status": "failed", "error": first_lines(error)}
    outcome["seconds"] = round(time.perf_counter() - start, 4)
    return outcome


def is_device_broken(settings: Settings) -> bool:
    """Does every further call fail, as after a kernel that read where it must not?"""
    if not settings.device.startswith("cuda"):
        return False
    from onnxplan.compiler.errors import DeviceUnavailableError
    from onnxplan.runtime.cuda.api import load_api

    try:
        api = load_api()
    except DeviceUnavailableError:
        return False
    try:
        api.runtime.deviceSynchronize()
    except api.errors:
        return True
    return False


def main() -> None:
    module, text, output = sys.argv[1:4]
    settings = Settings.from_json(text)
    part = importlib.import_module(module)
    if output == "--list":
        print(json.dumps(list(part.names(settings))))
        return
    with open(output, "a", encoding="utf-8") as file:

        def write(line: dict[str, Any]) -> None:
            file.write(json.dumps(line) + "\n")
            file.flush()

        for name in json.load(sys.stdin):
            write({"begin": name})
            outcome = run_check(part, name, settings)
            write(outcome)
            if outcome["status"] == "failed" and is_device_broken(settings):
                file.flush()
                os._exit(BROKEN_STATUS)


if __name__ == "__main__":
    main()
