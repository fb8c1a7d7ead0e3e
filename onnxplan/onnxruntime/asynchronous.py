"""Threads for ``run_async``."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from onnxplan.runtime.cpu.target import default_threads

_making = threading.Lock()
_pool: ThreadPoolExecutor | None = None


def submit(work: Callable[[], None]) -> None:
    """Calls ``work`` on another thread; what it raises goes to ``threading.excepthook``.

    The threads belong to the process, which waits for them when it ends.
    """
    global _pool
    with _making:
        if _pool is None:
            _pool = ThreadPoolExecutor(max(2, default_threads()), "onnxplan-run-async")
        _pool.submit(_reported, work)


def _reported(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception:
        arguments = threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread()))
        threading.excepthook(arguments)


def _after_fork_in_child() -> None:
    global _making, _pool
    _making, _pool = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
