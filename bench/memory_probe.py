"""The memory that one engine takes for one model, in a process of its own; :mod:`bench.memory` starts it.

    python -m bench.memory_probe ENGINE MODEL FEEDS BASELINE THREADS RUNS      # prints a line of JSON

FEEDS is a file of ``numpy.savez``. BASELINE is a model of one node with the input ``x`` of four float32:
what the process takes with it loaded and run is the engine itself with all that it imports.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bench.peers import LOADERS

INTERVAL = 0.001
"""Seconds between two looks at anonymous memory, whose peak the kernel does not keep."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: the peak of all resident pages, and how many there were of which kind at one moment.

    ``anonymous`` pages belong to the process; ``file`` pages are of mapped files (weights, libraries), which
    the kernel can drop and share.
    """

    peak: int
    anonymous: int
    file: int


def read_memory() -> Memory:
    """The memory of this process now; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kibibytes = {name: text for name, _, text in (line.partition(":") for line in lines)}
    peak, anonymous, file = (int(kibibytes[name].split()[0]) for name in ("VmHWM", "RssAnon", "RssFile"))
    return Memory(1024 * peak, 1024 * anonymous, 1024 * file)


class AnonymousPeak:
    """The most anonymous memory seen while it is open. Use as a context manager."""

    def __init__(self) -> None:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, read_memory().anonymous)
            if self._stop.wait(INTERVAL):
                return

    def __enter__(self) -> AnonymousPeak:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self.bytes = max(self.bytes, read_memory().anonymous)


def main() -> None:
    engine, model, feeds_file, baseline_model, threads, runs = sys.argv[1:]
    with np.load(feeds_file) as archive:
        feeds = dict(archive)
    load = LOADERS[engine]
    smallest = load(Path(baseline_model), {"x": np.zeros(4, np.float32)}, int(threads))
    smallest()
    baseline = read_memory()
    with AnonymousPeak() as anonymous:
        run = load(Path(model), feeds, int(threads))
        loaded = read_memory()
        for _ in range(int(runs)):
            run()
    after = read_memory()
    figures = {"baseline": baseline, "loaded": loaded, "after": after}
    print(
        json.dumps(
            {name: asdict(memory) for name, memory in figures.items()}
            | {"peak": after.peak, "anonymous_peak": anonymous.bytes}
        ),
        flush=True,
    )
    # Some engines hang or crash while the interpreter tears down; there is nothing left to save.
    os._exit(0)


if __name__ == "__main__":
    main()
