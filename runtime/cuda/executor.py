"""Runs one execution plan on a CUDA device, a few times at once."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from onnxplan.compiler.plan import CompiledPlan, ExecutionPlan, KernelSpec
from onnxplan.compiler.records import dataclass
from onnxplan.runtime.budget import Budget
from onnxplan.runtime.cancellation import CancelFlag, Cancelled
from onnxplan.runtime.cuda.array import DeviceArray
from onnxplan.runtime.cuda.bound_plan import BoundPlan
from onnxplan.runtime.cuda.completion import RUNNING, Completion
from onnxplan.runtime.cuda.context import CudaContext
from onnxplan.runtime.cuda.cublaslt import CublasLt
from onnxplan.runtime.cuda.cudnn_library import bind_cudnn_graphs, close_all, own_kernel
from onnxplan.runtime.cuda.graph_cache import GraphCache
from onnxplan.runtime.cuda.lane import Lane, lane_count
from onnxplan.runtime.cuda.matmul import FAMILY
from onnxplan.runtime.cuda.memory import Upload, Uploads, peak_bytes
from onnxplan.runtime.cuda.modules import Modules
from onnxplan.runtime.cuda.operation_graph import CudnnGraph
from onnxplan.runtime.cuda.slot import Slot
from onnxplan.runtime.cuda.transfers import Array
from onnxplan.runtime.cuda.tuning import Tuner
from onnxplan.runtime.cuda.turns import Turns
from onnxplan.runtime.device import AnyArray
from onnxplan.runtime.slots import SlotPool

START_SECONDS = 2e-3
"""Plans estimated under this may be started by an event loop and awaited one after the other."""
START_BYTES = 1 << 20
"""Inputs and outputs of such plans: copying them takes the event loop's time."""
Functions = Callable[[Sequence[KernelSpec]], Sequence[int]]


@dataclass(frozen=True, slots=True)
class CudaMemoryUse:
    """Bytes that an executor holds: ``slots`` (of one or two runs in flight, kept for later ones) times
    ``slot_bytes`` of device memory, the most it ever had of those, pinned memory of the host, constants on
    the device (which others may share), and tables on the host.
    """

    slots: int
    slot_bytes: int
    peak_slot_bytes: int
    pinned_bytes: int
    constant_bytes: int
    table_bytes: int


class Plan:
    """What an executor and its runs share, and what is freed when the executor goes."""

    def __init__(
        self,
        context: CudaContext,
        compiled: CompiledPlan,
        functions: Functions,
        budget: Budget,
        concurrency: int,
        tuner: Tuner | None,
    ) -> None:
        self.context = context
        self._graphs: GraphCache = context.part("graphs", GraphCache)
        plan = compiled.plan
        with context.active("binding a plan"):
            cudnn_graphs = bind_cudnn_graphs(context, plan, tuner)
            try:
                self._bind(compiled, functions, tuner, cudnn_graphs)
            except BaseException:
                close_all(cudnn_graphs)
                raise
        nbytes = self.bound.layout.total_bytes
        self._abandoned = False
        self._released = False
        self.slots: SlotPool[Slot] = SlotPool(self._make, self._drop, nbytes, concurrency, budget)
        # Who bounds the runs in flight gets a slot for each.
        self.lanes = 1 if budget.runs else lane_count(self.bound.layout)
        self.turns = Turns(self.slots)

    def _bind(
        self,
        compiled: CompiledPlan,
        functions: Functions,
        tuner: Tuner | None,
        cudnn_graphs: Mapping[int, CudnnGraph],
    ) -> None:
        context, plan = self.context, compiled.plan
        ours = [
            (own_kernel(step.kernel), step.scratch)
            for number, step in enumerate(plan.steps)
            if step.kernel.family != FAMILY and number not in cudnn_graphs
        ]
        specs = list(dict.fromkeys(spec for spec, _ in ours))
        handles = dict(zip(specs, functions(specs), strict=True))
        modules = Modules.of(context)
        for spec, shared in ours:
            modules.allow_shared(handles[spec], shared)
        self.constants: tuple[Upload, ...] = Uploads.of(context).get(compiled.constants)
        products = any(spec.family == FAMILY for spec in plan.kernels)
        library, handle = _cublaslt(context) if products else (None, 0)
        addresses = [upload.address for upload in self.constants]
        self.bound = BoundPlan(plan, handles, addresses, library, handle, tuner, cudnn_graphs)

    def _make(self) -> Slot:
        with self.context.active("making room for a run"):
            return Slot(self.context, self.bound, self._graphs, self.lanes)

    def _drop(self, slot: Slot) -> None:
        def free() -> None:
            slot.close()
            # What is given up is not kept for later by the allocator either.
            self.context.api.release()

        self.context.dispose(free)

    def give(self, slot: Slot, lane: Lane) -> None:
        """See :meth:`Turns.give`."""
        self.turns.give(slot, lane)
        if self._abandoned and not self.slots.count:
            self._release()

    def close(self, *, wait: bool = True) -> None:
        """Frees everything once no run uses it; in the child of a fork, where no run ends, nothing."""
        if not self.context.forked:
            self.slots.close(wait=wait)
            self._release()

    def abandon(self) -> None:
        """As :meth:`close` for a finalizer, which must not wait: the last run in flight frees the rest."""
        if self.context.forked:
            return
        self._abandoned = True
        self.slots.abandon()
        if not self.slots.count:
            self._release()

    def _release(self) -> None:
        with self.context.lock:
            released, self._released = self._released, True
        if released:
            return

        def free() -> None:
            self.constants = ()
            self.bound.close()
            self.context.api.release()

        self.context.dispose(free)


class CudaExecutor:
    """An execution plan bound to a device. Safe from any number of threads.

    ``functions`` gives the handles of generated kernels, ``tuner`` times algorithms of libraries.
    ``concurrency`` bounds the runs in flight, each of which needs a slot of memory out of ``budget``; further
    callers wait. Raises :class:`~onnxplan.compiler.errors.OutOfMemoryError` where the constants do not fit on
    the device.
    """

    def __init__(
        self,
        context: CudaContext,
        compiled: CompiledPlan,
        functions: Functions,
        *,
        budget: Budget,
        concurrency: int,
        tuner: Tuner | None = None,
    ) -> None:
        self.plan: ExecutionPlan = compiled.plan
        self.context = context
        self._shared = Plan(context, compiled, functions, budget, concurrency, tuner)
        bindings = (*self.plan.inputs, *self.plan.outputs)
        self._expected = tuple((binding.dtype.numpy, binding.shape) for binding in bindings)
        self.peak_bytes = peak_bytes(self.plan, self._shared.bound.layout.workspace_bytes)
        """Bytes of device memory that binding and one run need."""
        staged = self._shared.bound.layout.staged_bytes
        self.starts = self.plan.seconds < START_SECONDS and staged <= START_BYTES
        """Whether the thread of an event loop may start runs, as that takes little of it."""
        self._finalizer = weakref.finalize(self, self._shared.abandon)
        # At the end of the process the driver frees everything.
        self._finalizer.atexit = False
        context.reclaimers.add(self)

    @property
    def launched_steps(self) -> tuple[int, ...]:
        """The numbers of the steps that launch anything, in order."""
        return self._shared.bound.launched_steps

    def launch(
        self,
        inputs: Sequence[AnyArray],
        outputs: Sequence[AnyArray],
        cancel: CancelFlag | None = None,
        *,
        stamps: Sequence[int] = (),
    ) -> Completion:
        """Starts a run; waits only for a slot. Arguments and errors are those of :meth:`run`.

        ``stamps`` are events to record between its launches, see :meth:`Slot.queue`.

        Arrays on the host are read before this returns; arrays on the device must stay as they are until
        the run is over, and are kept alive until then.
        """
        context, shared = self.context, self._shared
        context.check()
        if len(inputs) != len(self.plan.inputs) or len(outputs) != len(self.plan.outputs):
            raise ValueError(
                f"the plan has {len(self.plan.inputs)} inputs and {len(self.plan.outputs)} outputs, "
                f"not {len(inputs)} and {len(outputs)}"
            )
        own_inputs, own_outputs = _checked(inputs, context), _checked(outputs, context)
        if cancel is not None and cancel.is_set:
            raise Cancelled("the run was cancelled before it began")
        slot, lane = shared.turns.take(cancel)
        self._queue(slot, lane, own_inputs, own_outputs, stamps)
        return Completion(self, shared, slot, lane, own_outputs)

    def _queue(
        self,
        slot: Slot,
        lane: Lane,
        inputs: Sequence[Array],
        outputs: Sequence[Array],
        stamps: Sequence[int] = (),
    ) -> None:
        shared = self._shared
        try:
            with self.context.active(RUNNING):
                slot.queue(lane, inputs, outputs, stamps)
        except BaseException:
            shared.turns.queued(slot)
            shared.give(slot, lane)
            raise
        shared.turns.queued(slot)

    def run(
        self, inputs: Sequence[AnyArray], outputs: Sequence[AnyArray], cancel: CancelFlag | None = None
    ) -> None:
        """One run: reads ``inputs`` and fills ``outputs``, NumPy or device arrays in the plan's order.

        Each must be C-contiguous and have the binding's type and shape, which the caller has checked. Waits
        where as many runs are in flight as there may be. Raises ``Cancelled``, ``SessionClosedError`` after
        :meth:`close`, ``TypeError`` and ``ValueError`` for arguments that are no arrays, on another device,
        or too few or many, :class:`OutOfMemoryError`, :class:`DeviceUnavailableError` once the device failed,
        and ``DeviceError`` for errors that only end this run.
        """
        self.launch(inputs, outputs, cancel).wait(cancel)

    def try_run(self, inputs: tuple[AnyArray, ...], outputs: tuple[AnyArray, ...]) -> bool:
        """:meth:`run` if the arrays are what the plan expects, which is checked here; else False."""
        if not self._fit(inputs, outputs):
            return False
        self.launch(inputs, outputs).wait()
        return True

    def try_start(
        self, inputs: tuple[Any, ...], outputs: tuple[Any, ...], over: Callable[[], None]
    ) -> Completion | None:
        """:meth:`launch` on the thread of an event loop: None where that would take long.

        Which it does where no slot with a graph is idle or takes a run behind another, for plans of
        :data:`START_SECONDS` or more or with much to copy, and for arrays that are not what the plan expects.
        ``over()`` is called once the run is over, on any thread, if one was started.
        """
        if not self.starts or not self._fit(inputs, outputs):
            return None
        context, shared = self.context, self._shared
        context.check()
        taken = shared.turns.take_ready()
        if taken is None:
            return None
        self._queue(*taken, inputs, outputs)
        return Completion(self, shared, *taken, outputs, over)

    def _fit(self, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> bool:
        """Are the arrays what the plan expects?"""
        arrays = (*inputs, *outputs)
        if len(arrays) != len(self._expected) or len(inputs) != len(self.plan.inputs):
            return False
        for array, (dtype, shape) in zip(arrays, self._expected, strict=True):
            if isinstance(array, DeviceArray):
                fits = array.device is self.context
            else:
                fits = type(array) is np.ndarray and array.flags.c_contiguous
            # Only then: callers may hand in anything, lists for example.
            if not fits or array.dtype != dtype or array.shape != shape:
                return False
        return True

    def memory(self) -> CudaMemoryUse:
        shared = self._shared
        slots = shared.slots
        return CudaMemoryUse(
            slots=slots.count,
            slot_bytes=slots.nbytes,
            peak_slot_bytes=slots.peak * slots.nbytes,
            pinned_bytes=slots.count * shared.lanes * shared.bound.layout.staged_bytes,
            constant_bytes=sum(upload.nbytes for upload in shared.constants),
            table_bytes=shared.bound.table_bytes,
        )

    def trim(self) -> int:
        """Gives up the memory of slots that no run uses; bytes of device memory."""
        return self._shared.slots.trim()

    def close(self, *, wait: bool = True) -> None:
        """Releases memory and constants; later runs raise ``SessionClosedError``.

        Waits for the runs in flight, or with ``wait=False`` raises ``RuntimeError`` and stays open if there
        are any. Callers that wait for a slot get ``SessionClosedError``.
        """
        self._shared.close(wait=wait)
        self._finalizer.detach()


def _checked(arrays: Sequence[AnyArray], context: CudaContext) -> tuple[Array, ...]:
    checked: list[Array] = []
    for array in arrays:
        if isinstance(array, DeviceArray):
            if array.device is not context:
                array.device.check()
                raise ValueError(f"{array} is not on {context.name}")
            checked.append(array)
        elif isinstance(array, np.ndarray):
            checked.append(array)
        else:
            kind = type(array).__name__
            raise TypeError(f"inputs and outputs must be NumPy or device arrays, not {kind}")
    return tuple(checked)


def _cublaslt(context: CudaContext) -> tuple[CublasLt, int]:
    """cuBLASLt and its handle, made once for each device, which is current."""

    def make() -> tuple[CublasLt, int]:
        library = CublasLt(context.api.cublaslt)
        return library, library.create_handle()

    made: tuple[CublasLt, int] = context.part("cublaslt", make)
    return made
