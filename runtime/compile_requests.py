"""What a process does that compiles for another one: kernels into the store, as they are asked for.

A request is a line of JSON. The kernel that takes longest goes first, of those that were asked for by then.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target
from onnxplan.runtime.shared_build import build_if_free
from onnxplan.runtime.store import KernelStore, ObjectCode


@dataclass(frozen=True, slots=True)
class Request:
    """A kernel that the store in ``directory`` lacks under ``key``; ``label`` is what it is shown as."""

    directory: str
    key: str
    label: str
    spec: KernelSpec

    def to_json(self) -> dict[str, Any]:
        return {
            "directory": self.directory,
            "key": self.key,
            "label": self.label,
            "kernel": self.spec.to_json(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Request:
        return cls(data["directory"], data["key"], data["label"], KernelSpec.from_json(data["kernel"]))


class RequestQueue:
    """The requests that come on ``stream``, read by a thread of its own, each key once."""

    def __init__(self, stream: IO[bytes], effort: Callable[[KernelSpec], int]) -> None:
        self._effort = effort
        self._waiting: list[Request] = []
        self._ended = False
        self._changed = threading.Condition()
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def take(self, seconds: float) -> Request | None:
        """The request of most effort, waited for so long at most; None where none comes any more.

        At the end of the stream the process that asked is gone, and what is left is dropped.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended, seconds)
            if self._ended or not self._waiting:
                return None
            request = max(self._waiting, key=lambda request: self._effort(request.spec))
            self._waiting.remove(request)
            return request

    def _read(self, stream: IO[bytes]) -> None:
        seen: set[str] = set()
        for line in stream:
            request = Request.from_json(json.loads(line))
            if request.key not in seen:
                seen.add(request.key)
                with self._changed:
                    self._waiting.append(request)
                    self._changed.notify()
        with self._changed:
            self._ended = True
            self._changed.notify()


def serve(
    requests: RequestQueue, target: Target, build: Callable[[KernelSpec, Target], ObjectCode], seconds: float
) -> None:
    """Compiles what is asked for and nobody else builds, until nothing comes for so long."""
    while (request := requests.take(seconds)) is not None:
        store = KernelStore(Path(request.directory))
        build_if_free(store, request.key, partial(build, request.spec, target), request.label)
