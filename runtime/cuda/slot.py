"""A slot: what runs in flight need for themselves, all allocated when the slot is made."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onnxplan.runtime.cuda.array import DeviceArray
from onnxplan.runtime.cuda.bound_plan import BoundPlan, CudnnLaunch, KernelLaunch, ProductLaunch
from onnxplan.runtime.cuda.context import CudaContext
from onnxplan.runtime.cuda.cublaslt import Descriptor
from onnxplan.runtime.cuda.errors import CAPTURE, MEMORY_ALLOCATION
from onnxplan.runtime.cuda.graph_cache import GraphCache
from onnxplan.runtime.cuda.lane import Lane
from onnxplan.runtime.cuda.streams import CaptureStreams, Queue
from onnxplan.runtime.cuda.transfers import Array

logger = logging.getLogger("onnxplan.cuda")

MOST_CAPTURES = 3
"""Attempts to capture a slot's graph that may fail before its runs stay without one."""


class Slot:
    """Device memory, a stream, argument words, lanes, and later a CUDA graph.

    Made and used with the device current. Each run in flight has a lane; the next one is queued behind it, so
    that the device goes from one to the other without the host. ``lock`` is held while there is any. One
    thread at a time queues (:class:`~onnxplan.runtime.cuda.turns.Turns` sees to it). Raises
    :class:`~onnxplan.compiler.errors.OutOfMemoryError`.
    """

    def __init__(self, context: CudaContext, bound: BoundPlan, graphs: GraphCache, lanes: int) -> None:
        self._context = context
        self._runtime = runtime = context.api.runtime
        self._graphs = graphs
        self.layout = layout = bound.layout
        self.lock = threading.Lock()
        self.graph = 0
        """Handle of the executable graph, or 0."""
        self._branches = bound.branches
        self._warm = False
        self._failed_captures = 0
        self._queued = 0
        self.queues = False
        """Whether a thread queues a run."""
        self.offered = False
        """Whether the pool may hand the slot to another run beside those in flight."""
        self._free: list[Callable[[], None]] = []
        try:
            self._memory: Any = context.allocate(layout.total_bytes, _purpose(bound))
            self.block = int(self._memory.ptr)
            self.stream = int(runtime.streamCreateWithFlags(runtime.streamNonBlocking))
            self._free.append(lambda: runtime.streamDestroy(self.stream))
            self._fence = self._event(runtime.eventDisableTiming)
            self.lanes = tuple(
                Lane(context, bound.plan, layout, self.block, self.stream, self._event, self._free)
                for _ in range(lanes)
            )
            self._steps = self._bind(bound)
        except BaseException:
            self._close()
            raise

    @property
    def pending(self) -> bool:
        """Whether work was queued of which nobody has seen the end."""
        return any(lane.pending for lane in self.lanes)

    @property
    def runs(self) -> int:
        """Runs that have a lane."""
        return sum(lane.taken for lane in self.lanes)

    def take_lane(self) -> Lane:
        """A lane that no run has, rather one without work that is left of a cancelled run."""
        lane = min((lane for lane in self.lanes if not lane.taken), key=lambda lane: lane.pending)
        lane.taken = True
        return lane

    def _event(self, flags: int) -> int:
        runtime = self._runtime
        event = int(runtime.eventCreateWithFlags(flags))
        self._free.append(lambda: runtime.eventDestroy(event))
        return event

    def _bind(self, bound: BoundPlan) -> tuple[Queue, ...]:
        """For each launch what queues it on a stream."""
        self._words = bound.table(self.block)
        starts = [launch.first_word for launch in bound.launches]
        self._pointers = int(self._words.ctypes.data) + 8 * np.array(starts, np.int64)
        launch_kernel = self._context.api.driver.launchKernel
        steps: list[Queue] = []
        for number, launch in enumerate(bound.launches):
            if isinstance(launch, KernelLaunch):
                parameters = int(self._pointers.ctypes.data) + 8 * number
                steps.append(_kernel_step(launch_kernel, launch, parameters))
            elif isinstance(launch, ProductLaunch):
                steps.append(self._product_step(launch, self._workspace(bound, number)))
            else:
                steps.append(self._cudnn_step(launch, self._workspace(bound, number)))
        return tuple(steps)

    def _workspace(self, bound: BoundPlan, number: int) -> int:
        """Where the workspace of a launch's stream begins."""
        return (
            self.block + self.layout.workspace + bound.branches.streams[number] * self.layout.workspace_bytes
        )

    def _cudnn_step(self, launch: CudnnLaunch, workspace: int) -> Queue:
        words = self._words[launch.first_word :]
        pack = launch.graph.pack([int(words[place]) for place in launch.order], workspace)
        self._free.append(pack.close)
        return launch.graph.launcher(pack)

    def _product_step(self, launch: ProductLaunch, workspace: int) -> Queue:
        operands = [int(word) for word in self._words[launch.first_word :][: launch.operands]]
        product = launch.product
        descriptor: Descriptor = product.descriptor(operands[2])
        self._free.append(descriptor.close)
        return product.launcher(operands[0], operands[1], operands[-1], descriptor, workspace)

    def queue(
        self, lane: Lane, inputs: Sequence[Array], outputs: Sequence[Array], stamps: Sequence[int] = ()
    ) -> None:
        """Queues a whole run, behind those in flight and what the streams of device arrays have been given
        so far.

        With ``stamps``, events that are recorded before its copies, before each launch and after the last
        one, there is no graph.
        """
        if lane.pending:
            # Its pinned memory may be in use for a run that nobody waited for.
            self._runtime.streamSynchronize(self.stream)
        self._queued += 1
        lane.begin(self._queued, inputs, outputs)
        streams = {
            a.stream for a in (*inputs, *outputs) if isinstance(a, DeviceArray) and a.stream is not None
        }
        for stream in streams:
            self._runtime.eventRecord(self._fence, stream)
            self._runtime.streamWaitEvent(self.stream, self._fence)
        if stamps:
            self._runtime.eventRecord(stamps[0], self.stream)
        lane.transfers.send(inputs)
        if stamps:
            self._execute_stamped(stamps[1:])
        else:
            self._execute()
        lane.transfers.fetch(outputs)
        self._runtime.eventRecord(lane.done, self.stream)

    def _execute(self) -> None:
        """Queues the steps: one by one in the first run, which loads what libraries load late; as a graph
        from the second one on."""
        if self.graph:
            self._graphs.touch(self)
        elif self._warm and self._steps and self._failed_captures < MOST_CAPTURES:
            self._capture()
        if self.graph:
            self._runtime.graphLaunch(self.graph, self.stream)
        else:
            for step in self._steps:
                step(self.stream)
            self._warm = True

    def _execute_stamped(self, stamps: Sequence[int]) -> None:
        self._runtime.eventRecord(stamps[0], self.stream)
        for step, stamp in zip(self._steps, stamps[1:], strict=True):
            step(self.stream)
            self._runtime.eventRecord(stamp, self.stream)
        self._warm = True

    def _capture(self) -> None:
        """Makes the graph; where only that fails, the run goes on without one."""
        runtime = self._runtime
        self._graphs.make_room()
        try:
            graph = self._record()
            try:
                self.graph = int(runtime.graphInstantiate(graph))
            finally:
                runtime.graphDestroy(graph)
        except self._context.api.errors as error:
            status = getattr(error, "status", 0)
            if status not in CAPTURE and status != MEMORY_ALLOCATION:
                raise
            self._failed_captures += 1
            logger.warning("%s: no CUDA graph could be captured: %s", self._context.name, error)
        else:
            self._graphs.add(self)

    def _record(self) -> int:
        runtime = self._runtime
        self._context.capturing(True)
        try:
            with CaptureStreams(runtime, self.stream, self._branches) as streams:
                try:
                    runtime.streamBeginCapture(self.stream, runtime.streamCaptureModeThreadLocal)
                    streams.queue(self._steps)
                    return int(runtime.streamEndCapture(self.stream))
                except BaseException:
                    self._abandon_capture()
                    raise
        finally:
            self._context.capturing(False)

    def _abandon_capture(self) -> None:
        """Ends a capture whose graph is of no use, so that the stream can be used again."""
        runtime = self._runtime
        try:
            capturing = bool(runtime.streamIsCapturing(self.stream))
        except RuntimeError:
            # What CuPy says of a capture that an error has spoilt; CUDA's own errors are of this kind too.
            capturing = True
        try:
            graph = int(runtime.streamEndCapture(self.stream)) if capturing else 0
        except self._context.api.errors as error:
            logger.debug("%s: a capture ended with %s", self._context.name, error)
            return
        if graph:
            runtime.graphDestroy(graph)

    def drop_graph(self) -> None:
        """Destroys the graph, which must not be in flight; the next run captures it again."""
        graph, self.graph = self.graph, 0
        if graph:
            self._runtime.graphExecDestroy(graph)

    def settle_before(self, lane: Lane) -> None:
        """The run of a lane is over, and so are those before it: their arrays are let go of."""
        for other in self.lanes:
            if other.pending and not other.taken and other.number < lane.number:
                other.settle()

    def drain(self) -> None:
        """Waits for work of which nobody has seen the end; for when no run is in flight."""
        if self.pending:
            self._runtime.streamSynchronize(self.stream)
            for lane in self.lanes:
                lane.settle()

    def close(self) -> None:
        """Frees everything, after the work in flight."""
        with self.lock:
            self.drain()
            self._graphs.remove(self)
            self.drop_graph()
            self._close()

    def _close(self) -> None:
        while self._free:
            self._free.pop()()
        self._memory = None


def _kernel_step(launch_kernel: Callable[..., None], launch: KernelLaunch, parameters: int) -> Queue:
    shape = launch.function, launch.blocks, 1, 1, launch.threads, 1, 1, launch.shared_bytes
    return lambda stream: launch_kernel(*shape, stream, parameters, 0)


def _purpose(bound: BoundPlan) -> str:
    layout, arena = bound.layout, bound.plan.arena_bytes
    return (
        f"a run of the plan ({arena:,} bytes for temporaries, {layout.staged_bytes:,} for its tensors, "
        f"{layout.workspace_bytes:,} for workspace)"
    )
