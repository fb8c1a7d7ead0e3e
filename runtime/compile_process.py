"""A second process that compiles kernels into the store while this one does.

LLVM lets one thread of a process in at a time, but processes on one store share the work
(:mod:`onnxplan.runtime.shared_build`). The second begins with the last kernel. It takes as long to start as a
few kernels to compile, so that it is started before anybody knows whether kernels are missing where that is
likely: when a process plans its first model.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.target import Target
from onnxplan.runtime.cpu.target import default_threads
from onnxplan.runtime.store import KernelStore

if TYPE_CHECKING:
    pass

logger = logging.getLogger("onnxplan.store")

LEAST_KERNELS = 3
"""Fewer are compiled by the time that a process has started."""
IDLE_SECONDS = 10
"""So long a process that was started early waits for kernels to compile."""

PROGRAM = """
import json, os, sys, threading
start = json.loads(sys.stdin.readline())
sys.path[:] = start["path"]
from onnxplan.runtime.devices import compile_into_store, prepare_to_compile
prepare_to_compile(start["target"])
idle = threading.Timer(start["idle"], os._exit, (0,))
idle.daemon = True
idle.start()
line = sys.stdin.readline()
idle.cancel()
if line:
    compile_into_store(json.loads(line))
"""


class CompileProcess:
    """A process that compiles once it is told what, and ends then, or with this one."""

    def __init__(self, target: Target) -> None:
        """Raises ``OSError`` where none can be started."""
        # Not needed by a warm start.
        import subprocess

        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._sender: threading.Thread | None = None
        self._send({"path": sys.path, "target": target.to_json(), "idle": IDLE_SECONDS})

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def compile(self, store: KernelStore, target: Target, specs: Sequence[KernelSpec]) -> None:
        """Tells it what to compile, the last of ``specs`` first; does not wait until it listens."""
        assert store.directory is not None
        job = {
            "store": str(store.directory.absolute()),
            "target": target.to_json(),
            "kernels": [spec.to_json() for spec in reversed(specs)],
        }
        self._sender = threading.Thread(target=self._send, args=(job,), name="onnxplan-job", daemon=True)
        self._sender.start()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        # Where it has ended, that is found out later.
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def end(self) -> None:
        """Ends it. What it holds is given back by the system, as for any builder that died."""
        code = self._process.poll()
        if code:
            logger.warning("the process that compiles beside this one failed with status %d", code)
        self._process.kill()
        self._process.wait()
        if self._sender is not None:
            self._sender.join()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()


class _Early:
    """The process that was started before kernels were known to be missing, if there is one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = False
        self._process: CompileProcess | None = None

    def start(self, target: Target) -> None:
        """Starts it, if that can be; only the first call in a process does."""
        with self._lock:
            if not self._begun:
                self._begun = True
                self._process = _started(target)

    def take(self) -> CompileProcess | None:
        """The process, which is the caller's then."""
        with self._lock:
            process, self._process = self._process, None
        return process

    def end(self) -> None:
        process = self.take()
        if process is not None:
            process.end()

    def after_fork(self) -> None:
        """In the child of a fork, whose parent's it is."""
        self._lock = threading.Lock()
        self._process = None


_early = _Early()
atexit.register(_early.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_early.after_fork)


def expect_kernels(store: KernelStore, target: Target) -> None:
    """Kernels may be missing soon: a process gets ready to compile them, see :func:`compiling_beside`."""
    if store.directory is not None:
        _early.start(target)


def expect_no_kernels() -> None:
    """None were missing."""
    _early.end()


@contextmanager
def compiling_beside(store: KernelStore, target: Target, specs: Sequence[KernelSpec]) -> Iterator[None]:
    """A process compiles ``specs`` into ``store`` while the body does, if that pays and can be.

    It ends with the body. There is none where the store keeps nothing, where the interpreter is part of
    another program, and where one processor is all there is: nobody depends on it.
    """
    process = None if store.directory is None else _early.take()
    if process is not None and not process.is_alive:
        process.end()
        process = None
    if process is None and store.directory is not None and len(specs) >= LEAST_KERNELS:
        process = _started(target)
    if process is not None:
        process.compile(store, target, specs)
    try:
        yield
    finally:
        if process is not None:
            process.end()


def _started(target: Target) -> CompileProcess | None:
    if default_threads() < 2 or not _is_python():
        return None
    try:
        return CompileProcess(target)
    except OSError as error:
        logger.debug("no process compiles beside this one: %s", error)
        return None


def _is_python() -> bool:
    """Is ``sys.executable`` an interpreter, and not a program that has one inside?"""
    return not getattr(sys, "frozen", False) and Path(sys.executable or "").name.startswith("python")


def read_job(job: dict[str, Any]) -> tuple[KernelStore, Target, list[KernelSpec]]:
    """The store, the target and the kernels of what the program read."""
    specs = [KernelSpec.from_json(kernel) for kernel in job["kernels"]]
    return KernelStore(Path(job["store"])), Target.from_json(job["target"]), specs
