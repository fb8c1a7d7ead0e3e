"""Profiles of sessions, in the format that Chrome and Perfetto read and onnxruntime writes."""

from __future__ import annotations

import json
import os
import threading
import time
from datetime import UTC, datetime
from typing import Any


class Profile:
    """Events of a session, from when this was made; :meth:`write` puts them into a file, once.

    The file's name is ``prefix`` and the time, as onnxruntime makes it. Source of the format:
    https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.start_ns = time.time_ns()
        self._begin = time.perf_counter_ns()
        self._events: list[dict[str, Any]] = []
        self._file = ""

    def add(self, name: str, begin: int, category: str = "Session", **arguments: Any) -> None:
        """An event from ``begin``, a reading of ``time.perf_counter_ns``, until now."""
        self._events.append(
            {
                "cat": category,
                "pid": os.getpid(),
                "tid": threading.get_native_id(),
                "dur": (time.perf_counter_ns() - begin) // 1000,
                "ts": max(0, begin - self._begin) // 1000,
                "ph": "X",
                "name": name,
                "args": arguments,
            }
        )

    def write(self) -> str:
        """Writes the file; its name."""
        if not self._file:
            began = datetime.fromtimestamp(self.start_ns / 1e9, UTC).astimezone()
            milliseconds = self.start_ns // 1_000_000 % 1000
            self._file = f"{self._prefix}_{began:%Y-%m-%d_%H-%M-%S}_{milliseconds}.json"
            lines = ",\n".join(json.dumps(event) for event in self._events)
            with open(self._file, "w", encoding="utf-8") as file:
                file.write(f"[\n{lines}\n]\n")
        return self._file
