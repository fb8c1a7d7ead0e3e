"""Runs one execution plan on the CPU, any number of times at once."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.errors import OutOfMemoryError, SessionClosedError
from onnxplan.compiler.plan import ExecutionPlan
from onnxplan.runtime.cancellation import CancelFlag, Cancelled
from onnxplan.runtime.cpu.bound_plan import BoundPlan, Constants
from onnxplan.runtime.cpu.layout import Status
from onnxplan.runtime.cpu.native_executor import Caller
from onnxplan.runtime.cpu.slot import Arrays, Slot, slot_bytes
from onnxplan.runtime.cpu.target import default_threads
from onnxplan.runtime.cpu.team import Team, process_team
from onnxplan.runtime.library import KernelLibrary, Progress

_executors: weakref.WeakSet[CpuExecutor] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes that an executor holds: ``slots`` (one for each run in flight, kept for later ones) times
    ``slot_bytes``, the most it ever had of those, the constants it refers to (which others may share), and
    its tables.
    """

    slots: int
    slot_bytes: int
    peak_slot_bytes: int
    constant_bytes: int
    table_bytes: int


_NEVER = CancelFlag()


class CpuExecutor:
    """An execution plan bound to kernels, constants and memory.

    ``constants`` are the plan's constants, in order or by name, aligned as the target says; they are kept,
    not copied. ``library`` gives the kernels (``progress`` as there). ``max_concurrency`` bounds the runs
    in flight, each of which needs a slot; further callers wait. It defaults to the number of cores.
    ``ValueError`` where plan and constants do not fit together.
    """

    def __init__(
        self,
        plan: ExecutionPlan,
        constants: Constants,
        library: KernelLibrary,
        *,
        max_concurrency: int | None = None,
        progress: Progress | None = None,
        team: Team | None = None,
    ) -> None:
        if max_concurrency is not None and max_concurrency < 1:
            raise ValueError(f"max_concurrency must be at least 1, not {max_concurrency}")
        self.plan = plan
        self._team = team or process_team(library.store)
        kernels = library.addresses(plan.kernels, progress)
        self._bound: BoundPlan | None = BoundPlan(plan, constants, kernels, self._team)
        self._limit = max_concurrency or default_threads()
        self._slots: dict[Caller, Slot] = {}
        self._slot_bytes = slot_bytes(self._bound)
        self._peak_slots = 0
        self._idle: deque[Caller] = deque()
        self._spare: list[Caller] = []
        self._take: Callable[[], Caller] = self._idle.pop
        self._give = self._idle.append
        self._condition = threading.Condition(threading.Lock())
        self._waiting = 0
        self._closed = False
        _executors.add(self)

    def try_run(self, inputs: Arrays, outputs: Arrays) -> bool:
        """:meth:`run` if the arrays are just what the plan expects, which is checked in no time; else False.

        Both must be tuples. False too where this interpreter does not let native code look into arrays.
        """
        try:
            call = self._take()
        except IndexError:
            call = self._acquire()
        try:
            status = call(inputs, outputs)
        finally:
            self._give(call)
            if self._waiting:
                self._notify()
        if status == Status.CANCELLED:
            raise Cancelled("the interpreter exits")
        return not status

    def run(self, inputs: Arrays, outputs: Arrays, cancel: CancelFlag | None = None) -> None:
        """One run: reads ``inputs`` and fills ``outputs``, NumPy arrays in the order of the plan's.

        Each must be C-contiguous and have the binding's type and shape, which the caller has checked: only
        that they are arrays, and as many as there should be, is checked here. Tuples are fastest. Safe from
        any number of threads; waits where ``max_concurrency`` runs are in flight. Raises ``Cancelled``,
        ``SessionClosedError`` after :meth:`close`, ``TypeError`` and ``ValueError`` for arguments that are
        no arrays or too few or many, and ``OutOfMemoryError``.
        """
        try:
            call = self._take()
        except IndexError:
            call = self._acquire()
        try:
            status = call(inputs, outputs, (cancel or _NEVER).address)
            if status:
                self._finish_unusual(status, call, inputs, outputs, cancel)
        finally:
            self._give(call)
            if self._waiting:
                self._notify()

    def memory(self) -> MemoryUse:
        with self._condition:
            bound = self._bound
            return MemoryUse(
                slots=len(self._slots),
                slot_bytes=self._slot_bytes,
                peak_slot_bytes=self._peak_slots * self._slot_bytes,
                constant_bytes=sum(array.nbytes for array in bound.constants) if bound else 0,
                table_bytes=bound.table_bytes if bound else 0,
            )

    def trim(self) -> int:
        """Gives up the memory of slots that no run uses; the number of bytes."""
        with self._condition:
            return self._drop_idle() * self._slot_bytes

    def close(self, *, wait: bool = True) -> None:
        """Releases memory, constants and tables; later runs raise ``SessionClosedError``.

        Waits for the runs in flight, or with ``wait=False`` raises ``RuntimeError`` and stays open if there
        are any. Callers that wait for a slot get ``SessionClosedError``.
        """
        with self._condition:
            if self._closed:
                return
            take, self._take = self._take, self._refuse
            self._drop_idle()
            if self._slots and not wait:
                self._take = take
                raise RuntimeError(f"cannot close: {len(self._slots)} runs are in flight")
            self._closed = True
            self._condition.notify_all()
            self._waiting += 1
            while self._slots:
                self._condition.wait()
                self._drop_idle()
            self._waiting -= 1
            self._bound = None

    def _drop_idle(self) -> int:
        dropped = 0
        for source in (self._idle, self._spare):
            while True:
                try:
                    call = source.pop()
                except IndexError:
                    break
                del self._slots[call]
                dropped += 1
        return dropped

    def _refuse(self) -> Caller:
        raise IndexError

    def _acquire(self) -> Caller:
        """A slot where none is idle: a new one, or after waiting for one that another run gives back."""
        with self._condition:
            self._waiting += 1
            try:
                while True:
                    if self._bound is None or self._closed:
                        raise SessionClosedError("the session is closed")
                    if self._spare:
                        self._team.ensure(self._bound.helpers)
                        return self._spare.pop()
                    if len(self._slots) < self._limit:
                        return self._new_slot(self._bound)
                    try:
                        return self._take()
                    except IndexError:
                        self._condition.wait()
            finally:
                self._waiting -= 1

    def _new_slot(self, bound: BoundPlan) -> Caller:
        self._team.ensure(bound.helpers)
        try:
            slot = Slot(bound, self._team.native)
        except MemoryError as error:
            raise OutOfMemoryError(
                f"a run needs {self._slot_bytes:,} bytes of memory, {_available_bytes()} are available"
            ) from error
        self._slots[slot.call] = slot
        self._peak_slots = max(self._peak_slots, len(self._slots))
        return slot.call

    def _notify(self) -> None:
        with self._condition:
            self._condition.notify()

    def _finish_unusual(
        self, status: int, call: Caller, inputs: Arrays, outputs: Arrays, cancel: CancelFlag | None
    ) -> None:
        if status == Status.BAD_ARGUMENTS:
            flag = cancel or CancelFlag()
            inputs = _plain_arrays("inputs", inputs, len(self.plan.inputs))
            outputs = _plain_arrays("outputs", outputs, len(self.plan.outputs))
            status = call(inputs, outputs, flag.address)
        if status == Status.CANCELLED:
            raise Cancelled("the run was cancelled")
        assert status == Status.DONE

    def after_fork(self) -> None:
        """In the child of a fork: the parent's runs in flight do not exist, nor do the team's threads.

        Idle slots are set aside, so that the next run comes by :meth:`_acquire`, which starts the team.
        """
        self._condition = threading.Condition(threading.Lock())
        self._waiting = 0
        idle = set(self._idle) | set(self._spare)
        self._idle.clear()
        self._spare = list(idle)
        self._slots = {call: slot for call, slot in self._slots.items() if call in idle}


def _plain_arrays(name: str, arrays: Sequence[Any], count: int) -> tuple[npt.NDArray[Any], ...]:
    if len(arrays) != count:
        raise ValueError(f"the plan has {count} {name}, not {len(arrays)}")
    for array in arrays:
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{name} must be NumPy arrays, not {type(array).__name__}")
    return tuple(np.asarray(array) for array in arrays)


def _available_bytes() -> str:
    try:
        return f"{os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE'):,}"
    except (AttributeError, OSError, ValueError):
        return "fewer"


def _after_fork_in_child() -> None:
    for executor in tuple(_executors):
        executor.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
