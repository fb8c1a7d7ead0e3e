"""Runs the code in Markdown documents, and writes what it prints into them.

    python -m tests.document_code docs/compiler.md

A fence says what a block is. ``python`` blocks of a document run one after another in one process, and
``console`` blocks, whose commands follow ``$``, in a shell; both in a folder of their own with ``model.onnx``
(the reference sample). A ``text`` block right behind one is what it prints. Lines of ``...`` stand for any.
"""

from __future__ import annotations

import doctest
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from examples.demo import reference_model

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.M | re.S)
COMMENT = re.compile(r"\s{2,}# .*$")
SECONDS = 240

DRIVER = """
import contextlib, io, json, sys
blocks, names, printed = json.load(sys.stdin), {"__name__": "__main__"}, []
for place, text in blocks:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(text, place, "exec"), names)
    printed.append(out.getvalue())
json.dump(printed, sys.stdout)
"""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; ``begin`` and ``end`` are where its text stands, ``output`` the block that follows."""

    language: str
    text: str
    line: int
    begin: int
    end: int
    output: Block | None = None


def blocks(document: str) -> list[Block]:
    """The blocks of a document, each with the ``text`` block right behind it."""
    found: list[Block] = []
    for match in reversed(list(FENCE.finditer(document))):
        follower = found[-1] if found else None
        gap = document[match.end() : follower.begin] if follower is not None else ""
        adjacent = follower is not None and not gap.partition("```")[0].strip()
        output = follower if adjacent and follower is not None and follower.language == "text" else None
        line = document.count("\n", 0, match.start()) + 1
        text = textwrap.dedent(match["text"])
        found.append(Block(match["language"], text, line, match.start("text"), match.end("text"), output))
    return found[::-1]


def prepare(folder: Path) -> None:
    """Puts what documents refer to into ``folder``."""
    onnx.save(reference_model(), folder / "model.onnx")
    np.save(folder / "a.npy", np.arange(1, 13, dtype=np.float32).reshape(3, 4))
    (folder / "program.py").write_text("import onnxruntime\nprint(onnxruntime.__name__)\n")


def environment() -> dict[str, str]:
    """Commands of this Python environment first; nothing wider than a page."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}


def run_python(name: str, code: Sequence[Block], folder: Path) -> list[str]:
    """What each of the ``python`` blocks prints. ``RuntimeError`` with the traceback of one that fails."""
    texts = [(f"{name}, block in line {block.line}", block.text) for block in code]
    result = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps(texts),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    if result.returncode:
        raise RuntimeError(f"{name}:\n{result.stderr}")
    printed: list[str] = json.loads(result.stdout)
    return printed


def commands(block: Block) -> Iterator[str]:
    """The commands of a ``console`` block, without comments. ``ValueError`` for other lines."""
    for line in block.text.splitlines():
        if not line.startswith("$ "):
            raise ValueError(f"line {block.line}: commands begin with '$ ', {line!r} does not")
        yield COMMENT.sub("", line[2:])


def run_command(command: str, folder: Path) -> str:
    """What a command prints. Raises ``RuntimeError`` where it fails."""
    result = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        stdin=subprocess.DEVNULL,
    )
    if result.returncode:
        raise RuntimeError(f"{command}: exit status {result.returncode}\n{result.stdout}{result.stderr}")
    return result.stdout


def differs(expected: str, printed: str) -> str | None:
    """How ``printed`` is not what a document says, or ``None``. The ends of lines do not count."""
    checker, flags = doctest.OutputChecker(), doctest.ELLIPSIS
    want, got = (
        "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n" for text in (expected, printed)
    )
    if checker.check_output(want, got, flags):
        return None
    return checker.output_difference(doctest.Example("", want), got, flags | doctest.REPORT_NDIFF)


def updated(name: str, document: str, folder: Path) -> str:
    """The document with what its ``python`` blocks print now."""
    code = [block for block in blocks(document) if block.language == "python"]
    for block, printed in reversed(list(zip(code, run_python(name, code, folder), strict=True))):
        if block.output is not None and differs(block.output.text, printed) is not None:
            text = "\n".join(line.rstrip() for line in printed.strip().splitlines()) + "\n"
            document = document[: block.output.begin] + text + document[block.output.end :]
    return document


def main() -> None:
    import tempfile

    for name in sys.argv[1:]:
        path = Path(name)
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder))
            path.write_text(updated(name, path.read_text(encoding="utf-8"), Path(folder)), encoding="utf-8")


if __name__ == "__main__":
    main()
