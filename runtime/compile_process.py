"""A second process that compiles kernels into the store while this one does.

LLVM lets one thread of a process in at a time, but processes on one store share the work
(:mod:`onnxplan.runtime.shared_build`). The second begins with kernels as soon as they are chosen
(:mod:`onnxplan.runtime.compile_requests`): it is started before anybody knows whether kernels are missing
where that is likely, when a process plans its first model.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING, Any

from onnxplan.compiler.target import Target
from onnxplan.runtime.cpu.target import default_threads

if TYPE_CHECKING:
    import subprocess

    from onnxplan.runtime.compile_requests import Request
    from onnxplan.runtime.forked_process import ForkedProcess

logger = logging.getLogger("onnxplan.store")

LEAST_KERNELS = 3
"""Fewer are compiled by the time that a process has started."""
IDLE_SECONDS = 10
"""So long a process waits for kernels to compile."""

PROGRAM = """
import json, os, signal, sys
# An interrupt from the keyboard reaches both, and is the other process's to answer.
signal.signal(signal.SIGINT, signal.SIG_IGN)
start = json.loads(sys.stdin.buffer.readline())
sys.path[:] = start["path"]
from onnxplan.runtime.devices import compile_requests
try:
    compile_requests(start["target"], sys.stdin.buffer, start["idle"])
except BaseException:
    os._exit(1)
# A thread may still be reading.
os._exit(0)
"""


class CompileProcess:
    """A process that compiles what it is asked for, until it is ended, or this one ends."""

    def __init__(self, target: Target) -> None:
        """Raises ``OSError`` where none can be started."""
        self._process = _fork(target) or _spawn(target)
        self._requests: SimpleQueue[Request | None] = SimpleQueue()
        self._sender: threading.Thread | None = None

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: Request) -> None:
        """Asks for a kernel; does not wait until the process listens."""
        self._requests.put(request)
        if self._sender is None:
            sender = threading.Thread(target=self._send, name="onnxplan-requests", daemon=True)
            try:
                sender.start()
            except RuntimeError as error:
                logger.debug("all kernels are compiled here: %s", error)
                return
            self._sender = sender

    def _send(self) -> None:
        assert self._process.stdin is not None
        with _reader_may_have_ended():
            while (request := self._requests.get()) is not None:
                _write_line(self._process.stdin, request.to_json())

    def end(self) -> None:
        """Ends it. What it holds is given back by the system, as for any builder that died."""
        code = self._process.poll()
        if code:
            logger.warning("the process that compiles beside this one failed with status %d", code)
        self._process.kill()
        self._process.wait()
        if self._sender is not None:
            self._requests.put(None)
            self._sender.join()
        assert self._process.stdin is not None
        with _reader_may_have_ended():
            self._process.stdin.close()


def _fork(target: Target) -> ForkedProcess | None:
    # Neither is needed by a warm start.
    from onnxplan.runtime.forked_process import ForkedProcess, can_fork

    def work(stream: IO[bytes]) -> None:
        from onnxplan.runtime.devices import compile_requests

        compile_requests(target.to_json(), stream, IDLE_SECONDS)

    return ForkedProcess(work) if can_fork() else None


def _spawn(target: Target) -> subprocess.Popen[bytes]:
    import subprocess

    process = subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    with _reader_may_have_ended():
        _write_line(process.stdin, {"path": sys.path, "target": target.to_json(), "idle": IDLE_SECONDS})
    return process


@contextmanager
def _reader_may_have_ended() -> Iterator[None]:
    """Ends what is written to a process that has ended, which is found out later.

    No signal is left of it either, for programs that SIGPIPE ends.
    """
    if not hasattr(signal, "SIGPIPE"):
        with contextlib.suppress(OSError):
            yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
    try:
        with contextlib.suppress(OSError):
            yield
    finally:
        if signal.SIGPIPE not in before:
            if signal.SIGPIPE in signal.sigpending():
                signal.sigwait([signal.SIGPIPE])
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _write_line(stream: IO[bytes], message: dict[str, Any]) -> None:
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


class _Early:
    """The process that was started before kernels were known to be missing, if there is one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = False
        self.process: CompileProcess | None = None

    def start(self, target: Target) -> None:
        """Starts it, if that can be; only the first call in a process does."""
        with self._lock:
            if not self._begun:
                self._begun = True
                self.process = _started(target)

    def take(self) -> CompileProcess | None:
        """The process, which is the caller's then."""
        with self._lock:
            process, self.process = self.process, None
        return process

    def ask(self, request: Request) -> None:
        with self._lock:
            if self.process is not None:
                self.process.ask(request)

    def end(self) -> None:
        process = self.take()
        if process is not None:
            process.end()

    def after_fork(self) -> None:
        """In the child of a fork, whose parent's it is."""
        self._lock = threading.Lock()
        self.process = None


_early = _Early()
atexit.register(_early.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_early.after_fork)


def expect_kernels(target: Target) -> None:
    """Kernels may be missing soon: a process gets ready to compile them, see :func:`compiling_beside`."""
    _early.start(target)


def expects_kernels() -> bool:
    """Is there a process that :func:`ask_early` asks?"""
    return _early.process is not None


def ask_early(request: Request) -> None:
    """A kernel is missing: the process that was started for that begins with it."""
    _early.ask(request)


def expect_no_kernels() -> None:
    """None were missing."""
    _early.end()


@contextmanager
def compiling_beside(target: Target, requests: Sequence[Request]) -> Iterator[None]:
    """A process compiles ``requests`` while the body does, if that pays and can be.

    It ends with the body. There is none where there is nothing to ask for, where the interpreter is part of
    another program, and where one processor is all there is: nobody depends on it.
    """
    process = _early.take() if requests else None
    if process is not None and not process.is_alive:
        process.end()
        process = None
    if process is None and len(requests) >= LEAST_KERNELS:
        process = _started(target)
    if process is not None:
        for request in requests:
            process.ask(request)
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
