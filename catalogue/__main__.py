"""Writes ``docs/operators.md``."""

from __future__ import annotations

from pathlib import Path

from catalogue.table import document

PATH = Path(__file__).parent.parent / "docs" / "operators.md"

if __name__ == "__main__":
    PATH.write_text(document(), encoding="utf-8")
