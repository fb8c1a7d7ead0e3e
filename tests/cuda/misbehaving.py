"""Checks that pass, fail, crash and hang, for the tests of what runs them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any
from unittest import SkipTest

from bench.supervised import BROKEN_STATUS, Settings

NAMES = ["passes", "measures", "fails", "skips", "crashes", "passes again", "hangs", "passes at last"]


def names(settings: Settings) -> list[str]:
    return NAMES


def check(name: str, settings: Settings) -> dict[str, Any] | None:
    if name == "fails":
        raise ValueError("wrong\n" + "line\n" * 20)
    if name == "skips":
        raise SkipTest("not here")
    if name == "crashes":
        os.abort()
    if name == "hangs":
        time.sleep(600)
    if name == "ends":
        os._exit(BROKEN_STATUS)
    if name == "measures":
        return {"figure": 1.5}
    if name.startswith("notes"):
        with (Path(settings.folder) / "notes").open("a") as file:
            file.write(json.dumps(name) + "\n")
    return None
