"""``python -m tests.fuzz.mutation_campaign``: damaged models until the number asked for."""

from __future__ import annotations

import argparse
import collections
import hashlib
import random
import secrets
import sys
import time
from pathlib import Path

from tests.fuzz.mutations import damaged_bytes, damaged_model
from tests.fuzz.sandbox import attempt_all

sys.path.insert(0, str(Path(__file__).parent.parent / "ops"))

SLICE = 200


def mutants(models, count: int, seed: int) -> list[bytes]:
    source = random.Random(seed)
    found = []
    for _ in range(count):
        model = source.choice(models)
        if source.randrange(8):
            found.append(damaged_model(model, source).SerializeToString())
        else:
            found.append(damaged_bytes(model.SerializeToString(), source))
    return found


def operator_models():
    from cases import discover

    return [case.model(constant=constant) for case in discover() for constant in (False, True)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--output", type=Path, default=Path("build/fuzz"))
    options = parser.parse_args()
    start = time.monotonic()
    first = secrets.randbelow(2**31) if options.seed is None else options.seed
    models = operator_models()
    print(len(models), "models", time.monotonic() - start)
    done = failures = 0
    kinds: collections.Counter[str] = collections.Counter()
    while done < options.count and time.monotonic() - start < options.seconds:
        for outcome in attempt_all(mutants(models, SLICE, first + done // SLICE)):
            kinds[outcome.kind] += 1
            if outcome.kind in ("wrong", "died"):
                failures += 1
                options.output.mkdir(parents=True, exist_ok=True)
                name = hashlib.sha256(outcome.model).hexdigest()[:8]
                path = options.output / f"mutant-{name}.onnx"
                path.write_bytes(outcome.model)
                print(f"--- {path}: {outcome.kind}\n{outcome.text}", flush=True)
        done += SLICE
    print(f"{done} mutants from seed {first}, {dict(kinds)}, {time.monotonic() - start:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
