"""``python -m tests.fuzz.campaign``: random models until the number asked for; failures are saved."""

from __future__ import annotations

import argparse
import secrets
import sys
import time
import traceback
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.checking import check, save
from tests.fuzz.graphs import Program, programs

SLICE = 25


def run_slice(number: int, count: int, dtypes: tuple[str, ...], max_nodes: int, shrink: bool) -> Program | None:
    """Checks ``count`` models of this seed; the (smallest) one that fails."""
    failed: list[Program] = []

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
    )
    @given(programs(dtypes, max_nodes))
    def examine(program: Program) -> None:
        failed.append(program)
        check(program)
        failed.pop()

    try:
        examine()
    except Exception:
        traceback.print_exc(limit=-6)
        return failed[-1]
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="models")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--nodes", type=int, default=9)
    parser.add_argument("--dtypes", default="float32,float64,float16")
    parser.add_argument("--no-shrink", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("build/fuzz"))
    options = parser.parse_args()
    start = time.monotonic()
    first = secrets.randbelow(2**31) if options.seed is None else options.seed
    done = failures = 0
    while done < options.count and time.monotonic() - start < options.seconds:
        number = first + done // SLICE
        failing = run_slice(number, SLICE, tuple(options.dtypes.split(",")), options.nodes, not options.no_shrink)
        done += SLICE
        if failing is not None:
            failures += 1
            options.output.mkdir(parents=True, exist_ok=True)
            path = options.output / f"model-{number}"
            save(failing, str(path))
            print(f"seed {number}: saved {path}.onnx", flush=True)
    print(f"{done} models from seed {first}, {failures} failures, {time.monotonic() - start:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
