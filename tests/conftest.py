"""For all tests: programs are verified after each pass, and kernels are kept apart from the user's."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("ONNXPLAN_VERIFY", "1")
# Kept between runs, since compiling everything anew takes minutes; any number of processes may share it.
os.environ.setdefault("ONNXPLAN_CACHE_DIR", str(Path(__file__).parent.parent / "build" / "test-kernels"))
