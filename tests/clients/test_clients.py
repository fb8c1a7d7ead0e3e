"""Public programs that use onnxruntime, as they come from the package index, on onnxplan and on onnxruntime.

``make test-clients`` installs them into an environment of their own. None needs a model from elsewhere.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PROGRAMS = Path(__file__).parent / "programs"
TOLERANCES = {
    "silero": 1e-4,
    # Its layer norms subtract nearly equal squares, where onnxruntime's sums are off by 1e-6.
    "magika_types": 3e-3,
    "rapidocr_text": 1e-4,
    "rapidocr3_text": 1e-4,
    "nudenet_boxes": 1e-3,
    "ddddocr_codes": 0,
}
PACKAGES = {
    "silero": "silero_vad",
    "magika_types": "magika",
    "rapidocr_text": "rapidocr_onnxruntime",
    "rapidocr3_text": "rapidocr",
    "nudenet_boxes": "nudenet",
    "ddddocr_codes": "ddddocr",
}


def results(command: Sequence[str]) -> dict[str, Any]:
    """What a program reports, on the last line of its output."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def flat(values: Any) -> list[float]:
    return [number for item in values for number in flat(item)] if isinstance(values, list) else [values]


@pytest.mark.parametrize("name", PACKAGES)
def test_program_finds_the_same_as_on_onnxruntime(name):
    if importlib.util.find_spec(PACKAGES[name]) is None:
        pytest.skip(f"{PACKAGES[name]} is not installed: run make test-clients")
    program = str(PROGRAMS / f"{name}.py")
    expected = results([program])
    found = results(["-m", "onnxplan.onnxruntime", program])
    assert (expected["module"], found["module"]) == ("onnxruntime", "onnxplan.onnxruntime")
    assert found["exact"] == expected["exact"]
    np.testing.assert_allclose(flat(found["values"]), flat(expected["values"]), rtol=0, atol=TOLERANCES[name])
