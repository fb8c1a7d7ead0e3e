"""``python -m tests.fuzz.child BYTES SECONDS``: loads and runs the models that stand on standard input.

Each model is its length in eight bytes and itself. For each, a line of JSON is written when it begins and one
when it ends. The process has at most ``BYTES`` of address space more than it starts with, and dies with a
traceback on standard error where a model takes more than ``SECONDS`` of processor time, or ten times as long
on the clock.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import sys
import traceback
import warnings

import numpy as np

import onnxplan
from onnxplan.cli.inputs import random_array
from onnxplan.compiler.dtypes import DType

MAX_FEED = 1 << 20
UNKNOWN_DIM = 2


def feed(generator: np.random.Generator, info: onnxplan.TensorInfo) -> object:
    """Random elements of the type and shape that the model declares."""
    shape = [dim if isinstance(dim, int) else UNKNOWN_DIM for dim in info.dims or ()]
    if np.prod(shape, dtype=float) > MAX_FEED:
        shape = [min(dim, UNKNOWN_DIM) for dim in shape]
    return random_array(generator, DType.from_label(info.type or "float32"), tuple(shape))


def attempt(data: bytes) -> tuple[str, str]:
    """``ran`` or ``refused`` with the error's first line, or ``wrong`` with the traceback."""
    generator = np.random.default_rng(0)
    try:
        with onnxplan.InferenceSession(data) as session:
            session.run_sync({info.name: feed(generator, info) for info in session.inputs})
    except (onnxplan.OnnxPlanError, OSError) as error:
        if isinstance(error, onnxplan.CompilerError):
            return "wrong", traceback.format_exc()
        return "refused", f"{type(error).__name__}: {error}"
    except BaseException:
        return "wrong", traceback.format_exc()
    return "ran", ""


def main() -> None:
    # Warnings of NumPy about odd numbers are no errors.
    warnings.simplefilter("ignore")
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    limit = used + int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    seconds = float(sys.argv[2])
    # The signal's default action, which follows the traceback, ends the process.
    faulthandler.register(signal.SIGPROF, chain=True)
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    while head := sys.stdin.buffer.read(8):
        data = sys.stdin.buffer.read(int.from_bytes(head, "little"))
        print(json.dumps(["begins", ""]), file=results, flush=True)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        faulthandler.dump_traceback_later(10 * seconds, exit=True)
        outcome = attempt(data)
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(outcome), file=results, flush=True)


if __name__ == "__main__":
    main()
