"""The process's team of helper threads: shared by all sessions, made lazily, asleep when there is no work."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
import time
import weakref

import numpy as np
import numpy.typing as npt

from onnxplan.runtime.cpu.layout import (
    CLOSED,
    LINE,
    SEATS,
    TEAM_WORDS,
    RangeWord,
    SeatWord,
    TeamWord,
)
from onnxplan.runtime.cpu.native_executor import NativeExecutor, Supplied, keep_for_ever, load_executor
from onnxplan.runtime.cpu.object_layout import object_layout
from onnxplan.runtime.cpu.processor import processor_functions
from onnxplan.runtime.cpu.semaphore import NativeSemaphore, yield_address
from onnxplan.runtime.cpu.target import default_threads
from onnxplan.runtime.store import KernelStore

logger = logging.getLogger("onnxplan.team")

SPIN_SECONDS = 100e-6
"""How long a helper looks for work before it sleeps: about what waking it costs."""
RUN_SPINS = 10
"""How many times as long it waits for the next shared step of a run that has one ahead."""
CALIBRATION_POLLS = 500
STOP_SECONDS = 5.0

_teams: weakref.WeakSet[Team] = weakref.WeakSet()


def aligned_words(count: int) -> npt.NDArray[np.int64]:
    """``count`` zeroed words that begin on a pair of cache lines."""
    raw = np.zeros(count + LINE, np.int64)
    start = -(raw.ctypes.data // 8) % LINE
    return raw[start : start + count]


class Team:
    """Up to ``cores - 1`` helper threads; callers and helpers at work are never more than ``cores``,
    unless callers alone are.
    """

    def __init__(self, native: NativeExecutor, cores: int) -> None:
        self.native = native
        self.cores = cores
        self._words = aligned_words(TEAM_WORDS)
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._stopped = False
        self._reset()
        # A helper may poll these words until the very end of the process.
        keep_for_ever(self._words)
        _teams.add(self)

    @property
    def address(self) -> int:
        return int(self._words.ctypes.data)

    @property
    def helpers(self) -> int:
        """Helper threads that were started."""
        return len(self._threads)

    @property
    def sleepers(self) -> int:
        """Helpers that are asleep, or about to be, and that nobody has woken."""
        return int(self._words[TeamWord.SLEEPERS])

    @property
    def busy(self) -> int:
        """Callers in runs long enough to be counted, and helpers at work."""
        return int(self._words[TeamWord.BUSY])

    @property
    def wakes(self) -> int:
        """How often a sleeping helper was woken."""
        return int(self._words[TeamWord.WAKES])

    def expect(self, callers: int) -> None:
        """Helpers stay away while ``callers``, which are in runs or about to be, fill the cores."""
        self._words[TeamWord.EXPECTED] = callers

    def ensure(self, helpers: int) -> None:
        """Starts threads until there are ``helpers`` of them, or one less than cores."""
        wanted = min(helpers, self.cores - 1)
        if len(self._threads) >= wanted or self._stopped:
            return
        with self._lock:
            if not self._threads:
                limit = self._spin_limit()
                self._words[TeamWord.SPIN_LIMIT] = limit
                self._words[TeamWord.RUN_SPIN_LIMIT] = RUN_SPINS * limit
            while len(self._threads) < wanted and not self._stopped:
                thread = threading.Thread(
                    target=self._help, name=f"onnxplan-helper-{len(self._threads) + 1}", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError as error:
                    logger.warning("cannot start a helper thread, runs use fewer threads: %s", error)
                    return
                self._threads.append(thread)

    def stop(self) -> None:
        """Cancels the runs in flight and ends the helpers; later runs do without them.

        Called when the interpreter exits: by then only daemon threads are in a run, and their memory is
        about to be freed.
        """
        with self._lock:
            self._stopped = True
            self.native.stop(self.address)
            deadline = time.monotonic() + STOP_SECONDS
            for thread in self._threads:
                thread.join(max(0.0, deadline - time.monotonic()))
            while self.busy and time.monotonic() < deadline:
                time.sleep(1e-4)
            if not self.busy:
                self._threads.clear()
                self._words[TeamWord.STOP] = 0

    def _help(self) -> None:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self.native.help_runs(self.address)

    def _spin_limit(self) -> int:
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            self.native.spin(self.address, CALIBRATION_POLLS)
            best = min(best, time.perf_counter() - start)
        return max(100, min(20_000, round(SPIN_SECONDS * CALIBRATION_POLLS / best)))

    def _reset(self) -> None:
        words = self._words
        words[:] = 0
        semaphore = NativeSemaphore()
        keep_for_ever(semaphore)
        words[TeamWord.CORES] = self.cores
        words[TeamWord.SEMAPHORE] = semaphore.handle
        words[TeamWord.WAIT] = semaphore.wait
        words[TeamWord.POST] = semaphore.post
        words[TeamWord.YIELD] = yield_address()
        for word, address in processor_functions().items():
            words[word] = address
        if layout := object_layout():
            words[TeamWord.TUPLE_TYPE] = id(tuple)
            words[TeamWord.ARRAY_TYPE] = id(np.ndarray)
            words[TeamWord.TYPE_OFFSET] = layout.type_offset
            words[TeamWord.SIZE_OFFSET] = layout.size_offset
            words[TeamWord.ITEMS_OFFSET] = layout.items_offset
            words[TeamWord.DATA_OFFSET] = layout.data_offset
            words[TeamWord.RANK_OFFSET] = layout.rank_offset
            words[TeamWord.SHAPE_OFFSET] = layout.shape_offset
            words[TeamWord.DTYPE_OFFSET] = layout.dtype_offset
            words[TeamWord.FLAGS_OFFSET] = layout.flags_offset
        seats = words[TeamWord.SEATS :].reshape(SEATS, SeatWord.WORDS)
        seats[:, SeatWord.PLACES] = CLOSED
        seats[:, SeatWord.RANGES :: LINE] = RangeWord.EMPTY
        seats[:, SeatWord.BIT] = np.left_shift(np.uint64(1), np.arange(SEATS, dtype=np.uint64)).view(np.int64)

    def after_fork(self) -> None:
        """In the child of a fork, where none of the parent's threads exist."""
        self._lock = threading.Lock()
        self._threads = []
        self._stopped = False
        self._reset()


_process_team: Team | None = None
_process_lock = threading.Lock()


def process_team(store: KernelStore, supplied: Supplied | None = None) -> Team:
    """The team that all sessions share; its executor is ``supplied`` or kept in ``store``."""
    global _process_team
    if _process_team is None:
        with _process_lock:
            if _process_team is None:
                team = Team(load_executor(store, supplied), default_threads())
                atexit.register(team.stop)
                _process_team = team
    return _process_team


def expect_callers(callers: int) -> None:
    """:meth:`Team.expect` of the process's team, where there is one."""
    if _process_team is not None:
        _process_team.expect(callers)


def _after_fork_in_child() -> None:
    global _process_lock
    _process_lock = threading.Lock()
    for team in tuple(_teams):
        team.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
