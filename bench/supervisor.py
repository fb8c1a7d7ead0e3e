"""Runs checks in processes of their own, within a time, be there crashes, hangs or failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.supervised import BROKEN_STATUS, Settings

POLL_SECONDS = 0.1
LONG_SECONDS = 30.0
"""What a check must have taken to be blamed when the time of its part is up."""

LEAST_SECONDS = 3.0
"""Parts with less time than this are not begun."""

RESTARTS = 25
"""Processes that are started anew for what a crash left undone, for each worker."""


@dataclass(frozen=True)
class Part:
    """Checks of one module.

    ``seconds`` is its time, shared by ``workers`` processes; one that gives no sign of life for ``stall``
    seconds is ended. ``prefix`` is a command to run them under.
    """

    name: str
    module: str
    seconds: float
    workers: int = 1
    stall: float = 60.0
    prefix: tuple[str, ...] = ()


@dataclass
class Result:
    """What became of a part's checks; ``error`` is why there are none."""

    part: str
    seconds: float = 0.0
    outcomes: list[dict[str, Any]] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)
    error: str = ""

    def count(self, status: str) -> int:
        return sum(outcome["status"] == status for outcome in self.outcomes)

    @property
    def failures(self) -> list[dict[str, Any]]:
        return [outcome for outcome in self.outcomes if outcome["status"] == "failed"]

    @property
    def passed(self) -> bool:
        """Whether something passed and nothing failed or was left out."""
        return not (self.error or self.failures or self.not_run) and self.count("passed") > 0

    def grouped_failures(self) -> list[dict[str, Any]]:
        """The failures, those of the same error together, the commonest first."""
        groups: dict[str, list[str]] = {}
        for outcome in self.failures:
            groups.setdefault(outcome["error"], []).append(outcome["name"])
        ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
        return [{"error": error, "names": names} for error, names in ordered]

    def to_json(self) -> dict[str, Any]:
        """Counts, failures by name, reasons of what was skipped, figures."""
        details = {
            o["name"]: o["details"] for o in self.outcomes if "details" in o and _is_figure(o["details"])
        }
        skipped: dict[str, int] = {}
        for outcome in self.outcomes:
            if outcome["status"] == "skipped":
                skipped[outcome["error"]] = skipped.get(outcome["error"], 0) + 1
        return {
            "part": self.part,
            "passed": self.count("passed"),
            "failed": len(self.failures),
            "skipped": self.count("skipped"),
            "not_run": len(self.not_run),
            "seconds": round(self.seconds, 1),
            **({"error": self.error} if self.error else {}),
            "failures": self.grouped_failures(),
            "skips": skipped,
            "first_not_run": self.not_run[:20],
            "details": details,
        }


def _is_figure(details: dict[str, Any]) -> bool:
    """Kernels and rows have other places in a record."""
    return not details.keys() & {"kernels", "rows"}


class Worker:
    """A process that works through a list of names, and the processes that follow it when it dies."""

    def __init__(self, part: Part, names: Sequence[str], settings: Settings, output: Path) -> None:
        self._part, self._settings, self._output = part, settings, output
        self.remaining = list(names)
        self.outcomes: list[dict[str, Any]] = []
        self._position = 0
        self._restarts = 0
        self._begun: str | None = None
        self._start()

    def _start(self) -> None:
        command = [*self._part.prefix, *_command(self._part.module, self._settings), str(self._output)]
        self._errors = open(f"{self._output}.err", "w+b")  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=self._errors,
            stderr=self._errors,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(self.remaining).encode())
            self._process.stdin.close()
        except BrokenPipeError:
            self._process.stdin = None
        self._heard = time.monotonic()

    def poll(self) -> bool:
        """Reads what is new, ends what hangs, goes on after crashes; False when all is done."""
        status = self._process.poll()
        self._read()
        if status is None:
            if time.monotonic() - self._heard > self._part.stall:
                self.end(f"no result within {self._part.stall:g} s")
                return self._go_on()
            return True
        if not self.remaining:
            if status not in (0, BROKEN_STATUS):
                error = f"status {status}: {self._last_words()}"
                outcome = {"name": "end of the process", "status": "failed", "seconds": 0.0, "error": error}
                self.outcomes.append(outcome)
            self._errors.close()
            return False
        if status != BROKEN_STATUS:
            self._fail(f"the process ended with status {status}: {self._last_words()}")
        self._errors.close()
        return self._go_on()

    def _go_on(self) -> bool:
        self._restarts += 1
        if not self.remaining or self._restarts > RESTARTS:
            return False
        self._start()
        return True

    def _read(self) -> None:
        if not self._output.exists():
            return
        with self._output.open("rb") as file:
            file.seek(self._position)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._position += len(whole)
        for line in whole.decode().splitlines():
            self._heard = time.monotonic()
            entry = json.loads(line)
            if "begin" in entry:
                self._begun = entry["begin"]
                continue
            self._begun = None
            self.outcomes.append(entry)
            self.remaining.remove(entry["name"])

    def _fail(self, error: str) -> None:
        """Puts the blame on the check that had begun, else on the first one that was to come."""
        name = self._begun or self.remaining[0]
        self._begun = None
        self.remaining.remove(name)
        self.outcomes.append({"name": name, "status": "failed", "seconds": 0.0, "error": error})

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return "\n".join(lines[-8:])[-1500:]

    def end(self, reason: str) -> None:
        """Ends the process; a check that had begun fails for ``reason``."""
        self._kill()
        if self._begun is not None:
            self._fail(reason)

    def end_late(self) -> None:
        """Ends the process when the part's time is up; a check that took little of it counts as not run."""
        if time.monotonic() - self._heard >= LONG_SECONDS:
            self.end("not finished in the time of its part")
        else:
            self._kill()

    def _kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._read()
        self._errors.close()


def _command(module: str, settings: Settings) -> list[str]:
    return [sys.executable, "-P", "-m", "bench.supervised", module, settings.to_json()]


def list_names(part: Part, settings: Settings, seconds: float) -> list[str]:
    """The names of a part's checks; raises ``RuntimeError`` with the reason why there are none."""
    command = [*_command(part.module, settings), "--list"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"its checks could not be listed within {seconds:g} s") from error
    if found.returncode:
        raise RuntimeError(f"its checks cannot be listed: {found.stderr.strip()[-1500:]}")
    names = json.loads(found.stdout.splitlines()[-1])
    return [str(name) for name in names]


def run_part(part: Part, settings: Settings, names: Sequence[str] | None = None) -> Result:
    """Runs a part's checks (or those of ``names``); whatever they do, there is a result in time."""
    start = time.monotonic()
    result = Result(part.name)
    if part.seconds < LEAST_SECONDS:
        result.error = "no time was left for it"
        return result
    try:
        names = list_names(part, settings, part.seconds) if names is None else names
    except RuntimeError as error:
        result.error = str(error)
        result.seconds = time.monotonic() - start
        return result
    count = max(1, min(part.workers, len(names)))
    stem = Path(settings.folder) / part.name
    workers = [
        Worker(part, names[number::count], settings, stem.with_name(f"{stem.name}-{number}.jsonl"))
        for number in range(count)
        if names
    ]
    running = list(workers)
    while running and time.monotonic() - start < part.seconds:
        running = [worker for worker in running if worker.poll()]
        time.sleep(POLL_SECONDS)
    for worker in running:
        worker.end_late()
    for worker in workers:
        result.outcomes += worker.outcomes
        result.not_run += worker.remaining
    result.seconds = time.monotonic() - start
    return result
