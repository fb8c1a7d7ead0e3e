"""The page of a report: its data, style and scripts in one file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

SCRIPTS = ("d3.min.js", "common.js", "graph.js", "charts.js", "tables.js", "main.js")


def render(data: Mapping[str, Any]) -> str:
    """The HTML of the page that shows ``data`` (:func:`onnxplan.report.collecting.collect`).

    Its content security policy forbids all connections, and scripts other than its own.
    """
    script = "\n".join(_asset(name) for name in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # A name in the model could end the element.
    embedded = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    parts = {
        "@title@": html.escape(f"{data['model']} - onnxplan"),
        "@policy@": policy,
        "@style@": _asset("page.css"),
        "@licence@": _asset("d3.LICENSE.txt").replace("--", "=="),
        "@data@": embedded,
        "@script@": script,
    }
    page = _asset("page.html")
    # In one pass: texts put in may hold the marks.
    pieces = []
    while page:
        place, mark = min(
            ((page.find(mark), mark) for mark in parts if mark in page), default=(len(page), "")
        )
        pieces += [page[:place], parts.get(mark, "")]
        page = page[place + len(mark) :]
    return "".join(pieces)


def _asset(name: str) -> str:
    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")
