"""The table of onnxruntime's members in docs/onnxruntime.md: ``python -m tests.dropin.member_table``.

It is made from the installed onnxruntime, whose version the document names, and from what this package says
about its own members.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime

import onnxplan.onnxruntime
from onnxplan.onnxruntime import options, providers

DOCUMENT = Path(__file__).parents[2] / "docs" / "onnxruntime.md"
MARKS = ("<!-- members -->\n", "<!-- end of members -->\n")
CLASSES = {
    "InferenceSession": {},
    "SessionOptions": options.SESSION_HINTS,
    "RunOptions": options.RUN_HINTS,
    "IOBinding": {},
    "OrtValue": {},
}
INTERNAL = {"import_capi_exception"}
PROTOCOLS = ("__array__", "__dlpack__", "__dlpack_device__")


def public_members(owner: Any) -> list[str]:
    """The names of public members that are no modules."""
    return [
        name
        for name in dir(owner)
        if (not name.startswith("_") or (name in PROTOCOLS and isinstance(owner, type)))
        and not isinstance(getattr(owner, name), types.ModuleType)
        and name not in INTERNAL
    ]


def verdict(owner: Any, name: str, hints: dict[str, str]) -> tuple[str, str]:
    """Is the member there (``yes``, ``hint`` where it changes nothing, ``no``), and a note."""
    if not hasattr(owner, name):
        return "no", ""
    text = (getattr(owner, name).__doc__ or "").strip().partition("\n")[0]
    if name in hints:
        return "hint", hints[name]
    if text.startswith("Not supported"):
        return "no", ""
    if text.startswith("Does nothing: "):
        return "hint", text.removeprefix("Does nothing: ").rstrip(".")
    return "yes", ""


def rows(title: str, real: Any, ours: Any, hints: dict[str, str]) -> Iterator[str]:
    yield f"### {title}\n"
    yield "| member | here | |\n|---|---|---|"
    for name in public_members(real):
        there, note = verdict(ours, name, hints)
        yield f"| `{name}` | {there} | {note} |"
    yield ""


def entries(title: str, names: frozenset[str]) -> str:
    return f"* {title}: {', '.join(f'`{name}`' for name in sorted(names))}."


def table() -> str:
    lines = [
        f"Made from onnxruntime {onnxruntime.__version__} by `make docs/onnxruntime.md`; *hint* is what is "
        "taken and changes nothing.\n"
    ]
    lines += rows("The module", onnxruntime, onnxplan.onnxruntime, {})
    for name, hints in CLASSES.items():
        lines += rows(name, getattr(onnxruntime, name), getattr(onnxplan.onnxruntime, name), hints)
    lines += [
        "### Entries and options that are hints\n",
        entries("configuration of sessions", options.SESSION_CONFIG_HINTS),
        entries("configuration of runs", options.RUN_CONFIG_HINTS),
        entries("options of `CUDAExecutionProvider`", providers.CUDA_HINTS),
    ]
    return "\n".join(lines) + "\n"


def current_document() -> str:
    """The document with the table as it should be."""
    before, after = MARKS
    pattern = re.compile(f"{re.escape(before)}.*{re.escape(after)}", re.DOTALL)
    return pattern.sub(lambda _: before + table() + after, DOCUMENT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    DOCUMENT.write_text(current_document(), encoding="utf-8")
