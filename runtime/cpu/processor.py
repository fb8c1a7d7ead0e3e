"""The system's functions that tell a thread's processor and set which it may use."""

from __future__ import annotations

import ctypes
import sys

from onnxplan.runtime.cpu.layout import TeamWord
from onnxplan.runtime.cpu.semaphore import function_address


def processor_functions() -> dict[int, int]:
    """Addresses of the system's functions by word of the team's block; none but on Linux."""
    if not sys.platform.startswith("linux"):
        return {}
    library = ctypes.CDLL(None)
    words = {
        TeamWord.PROCESSOR: "sched_getcpu",
        TeamWord.GET_AFFINITY: "sched_getaffinity",
        TeamWord.SET_AFFINITY: "sched_setaffinity",
    }
    if not all(hasattr(library, name) for name in words.values()):
        return {}
    return {word: function_address(getattr(library, name)) for word, name in words.items()}
