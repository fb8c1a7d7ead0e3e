"""Runs models in child processes that may crash, hang or run out of memory."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
ADDRESS_SPACE = 3 << 30
SECONDS = 20.0
"""Processor time that a model may take: most need milliseconds, and kernels are compiled meanwhile."""


@dataclass(frozen=True)
class Outcome:
    """What became of a model: ``ran``, ``refused``, ``wrong`` or ``died``, and the text about it."""

    model: bytes
    kind: str
    text: str

    @property
    def is_right(self) -> bool:
        return self.kind in ("ran", "refused")


def attempt_all(models: Sequence[bytes], seconds: float = SECONDS) -> Iterator[Outcome]:
    """The outcome for each model; a child that dies is replaced for the models after it."""
    done = 0
    while done < len(models):
        rest = models[done:]
        content = b"".join(len(data).to_bytes(8, "little") + data for data in rest)
        command = [sys.executable, "-m", "tests.fuzz.child", str(ADDRESS_SPACE), str(seconds)]
        with tempfile.TemporaryFile() as given:
            given.write(content)
            given.seek(0)
            result = subprocess.run(command, stdin=given, capture_output=True, cwd=ROOT, check=False)
        lines = [json.loads(line) for line in result.stdout.decode().splitlines()]
        ended = [line for line in lines if line[0] != "begins"]
        for data, (kind, text) in zip(rest, ended, strict=False):
            yield Outcome(data, kind, text)
        done += len(ended)
        if len(ended) < len(rest):
            errors = result.stderr.decode(errors="replace")
            if len(lines) == 2 * len(ended):
                raise RuntimeError(f"the child ended with {result.returncode} between two models:\n{errors}")
            yield Outcome(models[done], "died", f"exit status {result.returncode}\n{errors}")
            done += 1
