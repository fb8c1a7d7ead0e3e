"""A counting semaphore that native code can wait on and post to through a pair of function pointers.

Native code calls ``wait(handle, -1)``, which returns 0 once it has taken a post, and ``post(handle, 1, 0)``.
The surplus arguments mean "for ever" and "one, do not report" to the systems that take them; the calling
conventions of all supported platforms let the others ignore them.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from typing import Any


class NativeSemaphore:
    """Made with count 0; never destroyed, because a thread may sleep on it until the process ends."""

    def __init__(self) -> None:
        self.handle = 0
        self.wait = 0
        self.post = 0
        self._kept: list[Any] = []
        try:
            if sys.platform == "win32":
                self._use_windows()
            elif sys.platform == "darwin":
                self._use_dispatch()
            else:
                self._use_posix()
        except (AttributeError, OSError):
            self._use_python()

    def _use_posix(self) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        memory = (ctypes.c_uint64 * 16)()
        library.sem_init.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint]
        if library.sem_init(ctypes.addressof(memory), 0, 0):
            raise OSError(ctypes.get_errno(), "sem_init")
        self._kept += [library, memory]
        self.handle = ctypes.addressof(memory)
        self.wait, self.post = function_address(library.sem_wait), function_address(library.sem_post)

    def _use_dispatch(self) -> None:
        """macOS has no unnamed POSIX semaphores; its own are in Grand Central Dispatch."""
        library = ctypes.CDLL(None)
        library.dispatch_semaphore_create.argtypes = [ctypes.c_ssize_t]
        library.dispatch_semaphore_create.restype = ctypes.c_void_p
        self.handle = library.dispatch_semaphore_create(0)
        if not self.handle:
            raise OSError("dispatch_semaphore_create")
        self._kept.append(library)
        self.wait = function_address(library.dispatch_semaphore_wait)
        self.post = function_address(library.dispatch_semaphore_signal)

    def _use_windows(self) -> None:
        library = ctypes.CDLL("kernel32")
        library.CreateSemaphoreW.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_long, ctypes.c_void_p]
        library.CreateSemaphoreW.restype = ctypes.c_void_p
        self.handle = library.CreateSemaphoreW(None, 0, 0x7FFFFFFF, None)
        if not self.handle:
            raise OSError("CreateSemaphoreW")
        self._kept.append(library)
        self.wait = function_address(library.WaitForSingleObject)
        self.post = function_address(library.ReleaseSemaphore)

    def _use_python(self) -> None:
        semaphore = threading.Semaphore(0)

        def wait(_handle: int, _timeout: int) -> int:
            semaphore.acquire()
            return 0

        def post(_handle: int, _count: int, _previous: int) -> int:
            semaphore.release()
            return 0

        word = ctypes.c_int64
        callbacks = (
            ctypes.CFUNCTYPE(word, word, word)(wait),
            ctypes.CFUNCTYPE(word, word, word, word)(post),
        )
        self._kept += callbacks
        self.wait, self.post = map(function_address, callbacks)


def function_address(function: Any) -> int:
    """The address of a function of a ctypes library, or of a callback."""
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    return address


def yield_address() -> int:
    """The address of the system's function that lets other threads run."""
    if sys.platform == "win32":
        return function_address(ctypes.CDLL("kernel32").SwitchToThread)
    return function_address(ctypes.CDLL(None).sched_yield)
