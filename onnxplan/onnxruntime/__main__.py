"""``python -m onnxplan.onnxruntime program.py ...``: a program that imports onnxruntime gets this package."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence

from onnxplan.onnxruntime.installing import install

USAGE = """\
usage: python -m onnxplan.onnxruntime PROGRAM [ARGUMENT ...]
       python -m onnxplan.onnxruntime -m MODULE [ARGUMENT ...]

Runs a Python program in which `import onnxruntime` gives onnxplan.onnxruntime.
"""


def main(arguments: Sequence[str]) -> None:
    """Runs the program that ``arguments`` name as the interpreter does; ``SystemExit`` 2 if they do not."""
    match arguments:
        case ["-h" | "--help", *_]:
            print(USAGE, end="")
        case ["-m", module, *_]:
            install()
            sys.argv = [module, *arguments[2:]]
            sys.path[0] = os.getcwd()
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case [program, *_] if not program.startswith("-"):
            install()
            sys.argv = list(arguments)
            sys.path[0] = os.path.dirname(os.path.abspath(program))
            runpy.run_path(program, run_name="__main__")
        case _:
            print(USAGE, end="", file=sys.stderr)
            raise SystemExit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
