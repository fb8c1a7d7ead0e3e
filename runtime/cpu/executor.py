"""Runs one execution plan on the CPU, any number of times at once."""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.errors import OutOfMemoryError, SessionClosedError
from onnxplan.compiler.plan import ExecutionPlan, Kernels
from onnxplan.compiler.records import dataclass
from onnxplan.runtime.budget import Budget
from onnxplan.runtime.cancellation import CancelFlag, Cancelled
from onnxplan.runtime.cpu.bound_plan import BoundPlan, Constants
from onnxplan.runtime.cpu.layout import Status
from onnxplan.runtime.cpu.native_executor import Caller, NativeExecutor
from onnxplan.runtime.cpu.slot import Arrays, Slot, slot_bytes
from onnxplan.runtime.cpu.target import default_threads
from onnxplan.runtime.cpu.team import Team, process_team
from onnxplan.runtime.library import KernelLibrary, Progress
from onnxplan.runtime.slots import SlotPool
from onnxplan.runtime.store import KernelStore, store_directory

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
    not copied. ``kernels`` gives the kernels (``progress`` as there). ``max_concurrency`` bounds the runs
    in flight, each of which needs a slot; further callers wait. It defaults to the number of cores.
    ``budget`` is where slots take their memory from. ``ValueError`` where plan and constants do not fit
    together.
    """

    def __init__(
        self,
        plan: ExecutionPlan,
        constants: Constants,
        kernels: Kernels,
        *,
        max_concurrency: int | None = None,
        progress: Progress | None = None,
        team: Team | None = None,
        budget: Budget | None = None,
    ) -> None:
        if max_concurrency is not None and max_concurrency < 1:
            raise ValueError(f"max_concurrency must be at least 1, not {max_concurrency}")
        self.plan = plan
        self.store = _store_of(kernels)
        self._team = team or process_team(self.store)
        bound = BoundPlan(plan, constants, kernels.addresses(plan.kernels, progress), self._team)
        self._bound: BoundPlan | None = bound
        self._slots: dict[Caller, Slot] = {}
        self._pool = SlotPool(
            # Not a method: plans that fall out of the cache go with their last reference.
            functools.partial(_new_slot, bound, self._team.native, self._slots),
            self._slots.pop,
            slot_bytes(bound),
            max_concurrency or default_concurrency(),
            budget or Budget(),
        )
        self._take: Callable[[], Caller] = self._pool.take
        self._give = self._pool.give
        self._waiting = self._pool.waiting
        _executors.add(self)

    def try_run(self, inputs: Arrays, outputs: Arrays) -> bool:
        """:meth:`run` if the arrays are just what the plan expects, which is checked in no time; else False.

        Both must be tuples. False too where no slot is idle (none is made for arrays that may not fit), and
        where this interpreter does not let native code look into arrays.
        """
        try:
            call = self._take()
        except IndexError:
            return False
        try:
            status = call(inputs, outputs)
        finally:
            self._give(call)
            if self._waiting:
                self._pool.notify()
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
            call = self._acquire(cancel)
        try:
            status = call(inputs, outputs, (cancel or _NEVER).address)
            if status:
                self._finish_unusual(status, call, inputs, outputs, cancel)
        finally:
            self._give(call)
            if self._waiting:
                self._pool.notify()

    def run_slot(self, slot: Slot, inputs: Arrays, outputs: Arrays, cancel: CancelFlag | None = None) -> None:
        """:meth:`run` in a slot of the caller's, made for the same inputs and outputs."""
        self._team.ensure(self.bound.helpers)
        status = slot.call(inputs, outputs, (cancel or _NEVER).address)
        if status:
            self._finish_unusual(status, slot.call, inputs, outputs, cancel)

    @property
    def team(self) -> Team:
        return self._team

    @property
    def bound(self) -> BoundPlan:
        """The plan's tables; raises ``SessionClosedError`` after :meth:`close`."""
        if self._bound is None:
            raise SessionClosedError("the session was closed")
        return self._bound

    def memory(self) -> MemoryUse:
        bound, pool = self._bound, self._pool
        return MemoryUse(
            slots=pool.count,
            slot_bytes=pool.nbytes,
            peak_slot_bytes=pool.peak * pool.nbytes,
            constant_bytes=_constant_bytes(bound) if bound else 0,
            table_bytes=bound.table_bytes if bound else 0,
        )

    @property
    def peak_bytes(self) -> int:
        """Memory that one run needs: constants and a slot."""
        return (_constant_bytes(self._bound) if self._bound else 0) + self._pool.nbytes

    def trim(self) -> int:
        """Gives up the memory of slots that no run uses; the number of bytes."""
        return self._pool.trim()

    def close(self, *, wait: bool = True) -> None:
        """Releases memory, constants and tables; later runs raise ``SessionClosedError``.

        Waits for the runs in flight, or with ``wait=False`` raises ``RuntimeError`` and stays open if there
        are any. Callers that wait for a slot get ``SessionClosedError``.
        """
        take, self._take = self._take, _refuse
        try:
            self._pool.close(wait=wait)
        except RuntimeError:
            self._take = take
            raise
        self._bound = None

    def _acquire(self, cancel: CancelFlag | None = None) -> Caller:
        """A slot where none is idle. In the child of a fork the team's threads must be started anew."""
        call = self._pool.acquire(cancel)
        bound = self._bound
        if bound is not None:
            self._team.ensure(bound.helpers)
        return call

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

        The next run comes by :meth:`_acquire`, which starts the team.
        """
        self._pool.after_fork()
        kept = set(self._pool.set_aside)
        for call in [call for call in self._slots if call not in kept]:
            del self._slots[call]


@functools.cache
def default_concurrency() -> int:
    """:func:`default_threads` when the first plan was bound: finding out takes longer than a small plan."""
    return default_threads()


def _new_slot(bound: BoundPlan, native: NativeExecutor, slots: dict[Caller, Slot]) -> Caller:
    try:
        slot = Slot(bound, native)
    except MemoryError as error:
        raise OutOfMemoryError(
            f"a run needs {slot_bytes(bound):,} bytes of memory, {_available_bytes()} are available"
        ) from error
    slots[slot.call] = slot
    return slot.call


def _store_of(kernels: Kernels) -> KernelStore:
    return kernels.store if isinstance(kernels, KernelLibrary) else KernelStore(store_directory())


def _refuse() -> Caller:
    raise IndexError


def _constant_bytes(bound: BoundPlan) -> int:
    return sum(array.nbytes for array in bound.constants)


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
