"""``python -m tests.fuzz.campaign``: random models and damaged ones, until the numbers asked for.

Failures are printed with their seeds and saved, and the campaign goes on. The exit status tells of any.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import os
import secrets
import sys
import time
import traceback

from rich.progress import Progress

from tests.fuzz.mutants import mutants, operator_models, varied_model
from tests.fuzz.sandbox import attempt_all
from tests.fuzz.slices import FOLDER, Profile, check_slice

GRAPHS, MUTANTS = 25, 200
PROFILES = (
    Profile(),
    Profile(("float32", "float64", "float16")),
    Profile(("float32", "float16", "bfloat16"), 15),
    Profile(("float32",), 9, 30),
)
"""Taken in turn."""


def fuzz_graphs(count: int, first: int, seconds: float) -> int:
    """The number of slices that failed."""
    failures = 0
    for number in _slices(count, GRAPHS, first, seconds, "random models"):
        try:
            check_slice(number, GRAPHS, PROFILES[number % len(PROFILES)])
        except Exception:
            failures += 1
            print(f"--- seed {number}\n{traceback.format_exc(limit=-4)}", flush=True)
    return failures


def fuzz_mutants(count: int, first: int, seconds: float) -> int:
    """The number of models that crash, hang, or raise what is no error of onnxplan's own."""
    kinds: collections.Counter[str] = collections.Counter()
    models = [*operator_models(), *[varied_model()] * 100]
    for number in _slices(count, MUTANTS, first, seconds, "damaged models"):
        for outcome in attempt_all(mutants(models, MUTANTS, number)):
            kinds[outcome.kind] += 1
            if not outcome.is_right:
                FOLDER.mkdir(parents=True, exist_ok=True)
                path = FOLDER / f"mutant-{hashlib.sha256(outcome.model).hexdigest()[:8]}.onnx"
                path.write_bytes(outcome.model)
                print(f"--- seed {number}: {path} {outcome.kind}\n{outcome.text}", flush=True)
    print(f"damaged models: {dict(kinds)}")
    return kinds["wrong"] + kinds["died"]


def _slices(count: int, size: int, first: int, seconds: float, title: str):
    """Seeds of slices, for ``count`` models or ``seconds``, with a bar on a terminal."""
    end = time.monotonic() + seconds
    total = -(-count // size)
    with Progress(disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(title, total=total)
        done = 0
        for number in range(first, first + total):
            if time.monotonic() > end:
                break
            yield number
            done += 1
            bar.advance(task)
    print(f"{done * size} {title} from seed {first}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--graphs", type=int, default=0, help="how many random models")
    parser.add_argument("--mutants", type=int, default=0, help="how many damaged models")
    parser.add_argument("--seconds", type=float, default=1e9, help="at most, for each kind")
    parser.add_argument("--seed", type=int, help="of the first slice; default: a random one")
    options = parser.parse_args()
    os.environ.setdefault("ONNXPLAN_VERIFY", "1")
    first = secrets.randbelow(2**31) if options.seed is None else options.seed
    failures = fuzz_graphs(options.graphs, first, options.seconds)
    failures += fuzz_mutants(options.mutants, first, options.seconds)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
