"""Many kernels through NVRTC: tens of them in one program, since a program alone costs as much as a kernel.

What was compiled is remembered by text and options under ``build/``, so that a run compiles only what has
changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from onnxplan.kernels.cuda.source import KernelSource
from onnxplan.kernels.scalar_cuda import PRELUDE
from onnxplan.runtime.cuda.compiler import OPTIONS

FOLDER = Path(__file__).parent.parent.parent / "build" / "test-nvrtc"
BATCH = 40
USAGE = re.compile(
    r"Function properties for (?P<name>k\d+)\s+"
    r"ptxas\s+\.\s+(?P<stack>\d+) bytes stack frame, .*\s+"
    r"ptxas info\s+: Used (?P<registers>\d+) registers"
)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a thread of a kernel takes: registers, and bytes of local memory, spilled registers among them."""

    registers: int
    stack: int


class CompilationError(AssertionError):
    """A kernel does not compile; the text is its code and NVRTC's log."""

    def __init__(self, source: KernelSource, log: str) -> None:
        super().__init__(f"{source.text.replace(PRELUDE, '')}\n{log}")
        self.source = source


def compile_kernels(
    nvrtc: Any,
    sources: Sequence[KernelSource],
    architecture: str,
    record: str,
    options: tuple[str, ...] = (),
) -> list[Usage]:
    """Compiles kernels to cubin as the runtime does, but for more ``options`` of NVRTC.

    Raises :class:`CompilationError` for the first that is wrong. ``record`` names the file that remembers
    what was compiled; only one process at a time should use it.
    """
    path = FOLDER / f"{record}.json"
    known = _read(path)
    version = ".".join(map(str, nvrtc.getVersion()))
    keys = [_key(source, architecture, version, options) for source in sources]
    missing = {key: source for key, source in zip(keys, sources, strict=True) if key not in known}
    try:
        waiting = list(missing)
        for batch in (waiting[first : first + BATCH] for first in range(0, len(waiting), BATCH)):
            usages = _compile(nvrtc, [missing[key] for key in batch], architecture, options)
            known |= zip(batch, usages, strict=True)
    finally:
        _write(path, {key: known[key] for key in keys if key in known})
    return [known[key] for key in keys]


def _compile(
    nvrtc: Any, sources: Sequence[KernelSource], architecture: str, options: tuple[str, ...]
) -> list[Usage]:
    """Compiles all kernels as one program; alone where that fails, to tell which is wrong."""
    texts = [PRELUDE]
    for number, source in enumerate(sources):
        own = source.text.replace(PRELUDE, "")
        own, count = re.subn(rf"\b{source.symbol}\(", f"k{number}(", own)
        assert count == 1, f"{source.symbol} is defined {count} times"
        texts.append(f"namespace n{number} {{\n{own}\n}}")
    program = nvrtc.createProgram("\n".join(texts), "kernels.cu", (), ())
    try:
        more = ("-w", "--ptxas-options=-v", *options)
        nvrtc.compileProgram(program, (f"-arch={architecture}", *OPTIONS, *more))
        assert nvrtc.getCUBIN(program)
        log = nvrtc.getProgramLog(program)
    except nvrtc.NVRTCError:
        if len(sources) > 1:
            for source in sources:
                _compile(nvrtc, [source], architecture, options)
        log = nvrtc.getProgramLog(program)
        raise CompilationError(sources[0], log) from None
    finally:
        nvrtc.destroyProgram(program)
    found = {
        match["name"]: Usage(int(match["registers"]), int(match["stack"])) for match in USAGE.finditer(log)
    }
    return [found[f"k{number}"] for number in range(len(sources))]


def _key(source: KernelSource, architecture: str, version: str, options: tuple[str, ...]) -> str:
    facts = "\0".join([source.symbol, source.text, architecture, version, *OPTIONS, *options])
    return hashlib.sha256(facts.encode()).hexdigest()


def _read(path: Path) -> dict[str, Usage]:
    try:
        rows = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return {key: Usage(*row) for key, row in rows.items()}


def _write(path: Path, known: dict[str, Usage]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps({key: astuple(usage) for key, usage in known.items()}))
    os.replace(temporary, path)
