"""A child of this process that starts in no time, as it has in memory all that was imported here."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO

from onnxplan.compiler.environment import is_on

LARGEST_BYTES = 1 << 30
"""Of more memory, making the tables of a child's pages takes longer than starting an interpreter."""


def can_fork() -> bool:
    """Is a child of this process sure to find no lock held by a thread that it does not have?

    So it is where the interpreter has one thread, whoever has started it. Threads of libraries, such as
    NumPy's, keep no lock for long, or give it up themselves before a fork. ``ONNXPLAN_FORK=0`` says no.
    """
    return (
        sys.platform == "linux"
        and is_on("ONNXPLAN_FORK", default=True)
        and len(sys._current_frames()) == 1
        and threading.current_thread() is threading.main_thread()
        and _resident_bytes() <= LARGEST_BYTES
    )


class ForkedProcess:
    """A process that calls ``work`` with what is written to :attr:`stdin`, and ends.

    It has no other file open, and none of this process's handlers: nothing of what it does is seen here.
    Methods are as those of ``subprocess.Popen``.
    """

    def __init__(self, work: Callable[[IO[bytes]], object]) -> None:
        """Raises ``OSError`` where the system makes no process."""
        reading, writing = os.pipe()
        try:
            with warnings.catch_warnings():
                # Python 3.12 warns of the threads of libraries, too.
                warnings.simplefilter("ignore", DeprecationWarning)
                self.pid = os.fork()
        except BaseException:
            os.close(reading)
            os.close(writing)
            raise
        if self.pid == 0:
            _run(work, reading)
        os.close(reading)
        self.stdin: IO[bytes] = os.fdopen(writing, "wb")
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The status with which it has ended, None while it runs."""
        return self._wait(os.WNOHANG)

    def wait(self) -> int | None:
        return self._wait(0)

    def kill(self) -> None:
        # A handler of this process may wait for it meanwhile.
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, options)
            except ChildProcessError:
                # Somebody has waited for all children of this process.
                self.returncode = 0
            else:
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def _run(work: Callable[[IO[bytes]], object], reading: int) -> None:
    """The child's whole life."""
    status = 1
    with contextlib.suppress(BaseException):
        # Objects of this process's owner must not be finalised here.
        gc.disable()
        sys.settrace(None)
        sys.setprofile(None)
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        # An interrupt from the keyboard reaches both, and is this process's owner's to answer.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        nothing = os.open(os.devnull, os.O_RDWR)
        for handle, wanted in ((reading, 0), (nothing, 1), (nothing, 2)):
            os.dup2(handle, wanted)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        sys.stdout = sys.stderr = os.fdopen(1, "w", closefd=False)
        work(os.fdopen(0, "rb", closefd=False))
        status = 0
    os._exit(status)


def _resident_bytes() -> int:
    """Source: https://docs.kernel.org/filesystems/proc.html (``statm``)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
