"""A slot: what one run in flight needs for itself, all allocated when the slot is made."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.runtime.cuda.array import DeviceArray
from onnxplan.runtime.cuda.bound_plan import BoundPlan, KernelLaunch, ProductLaunch
from onnxplan.runtime.cuda.context import CudaContext
from onnxplan.runtime.cuda.cublaslt import Descriptor
from onnxplan.runtime.cuda.errors import CAPTURE, MEMORY_ALLOCATION
from onnxplan.runtime.cuda.graph_cache import GraphCache
from onnxplan.runtime.cuda.staging import CHUNK_BYTES, Staging

logger = logging.getLogger("onnxplan.cuda")

Array = npt.NDArray[Any] | DeviceArray

MOST_CAPTURES = 3
"""Attempts to capture a slot's graph that may fail before its runs stay without one."""


class Slot:
    """Device memory, pinned memory, a stream, events, argument words, and later a CUDA graph.

    Made and used with the device current, by one run at a time, which holds ``lock`` meanwhile. Raises
    :class:`~onnxplan.compiler.errors.OutOfMemoryError`.
    """

    def __init__(self, context: CudaContext, bound: BoundPlan, graphs: GraphCache) -> None:
        self._context = context
        self._runtime = runtime = context.api.runtime
        self._graphs = graphs
        self.layout = layout = bound.layout
        self.lock = threading.Lock()
        self.graph = 0
        """Handle of the executable graph, or 0."""
        self._warm = False
        self.pending = False
        """Whether work was queued of which nobody has seen the end."""
        self._kept: Any = None
        self._failed_captures = 0
        self._free: list[Callable[[], None]] = []
        try:
            self._memory: Any = context.allocate(layout.total_bytes, _purpose(bound))
            self.block = int(self._memory.ptr)
            staging = Staging(context, layout.staged_bytes)
            self._free.append(staging.close)
            self._staged = staging.address
            self._input_views = staging.views(bound.plan.inputs, layout.inputs)
            self._output_views = staging.views(bound.plan.outputs, layout.outputs)
            self.stream = int(runtime.streamCreateWithFlags(runtime.streamNonBlocking))
            self._free.append(lambda: runtime.streamDestroy(self.stream))
            self.done = self._event(runtime.eventDisableTiming | runtime.eventBlockingSync)
            self._fence = self._event(runtime.eventDisableTiming)
            self._steps = self._bind(bound)
        except BaseException:
            self._close()
            raise

    def _event(self, flags: int) -> int:
        runtime = self._runtime
        event = int(runtime.eventCreateWithFlags(flags))
        self._free.append(lambda: runtime.eventDestroy(event))
        return event

    def _bind(self, bound: BoundPlan) -> tuple[Callable[[], None], ...]:
        """For each step what queues it on the stream."""
        self._words = bound.table(self.block)
        starts = [launch.first_word for launch in bound.launches]
        self._pointers = int(self._words.ctypes.data) + 8 * np.array(starts, np.int64)
        launch_kernel, stream = self._context.api.driver.launchKernel, self.stream
        steps: list[Callable[[], None]] = []
        for number, launch in enumerate(bound.launches):
            if isinstance(launch, KernelLaunch):
                parameters = int(self._pointers.ctypes.data) + 8 * number
                steps.append(_kernel_step(launch_kernel, launch, stream, parameters))
            else:
                steps.append(self._product_step(launch))
        return tuple(steps)

    def _product_step(self, launch: ProductLaunch) -> Callable[[], None]:
        operands = [int(word) for word in self._words[launch.first_word :][: launch.operands]]
        product = launch.product
        descriptor: Descriptor = product.descriptor(operands[2])
        self._free.append(descriptor.close)
        workspace = self.block + self.layout.workspace if product.workspace_bytes else 0
        queue = product.launcher(operands[0], operands[1], operands[-1], descriptor, workspace)
        stream = self.stream
        return lambda: queue(stream)

    def queue(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """Queues a whole run, behind what the streams of device arrays have been given so far."""
        self.pending = True
        self._kept = inputs, outputs
        streams = {
            a.stream for a in (*inputs, *outputs) if isinstance(a, DeviceArray) and a.stream is not None
        }
        for stream in streams:
            self._runtime.eventRecord(self._fence, stream)
            self._runtime.streamWaitEvent(self.stream, self._fence)
        self._send(inputs)
        self._execute()
        self._fetch(outputs)
        self._runtime.eventRecord(self.done, self.stream)

    def _send(self, inputs: Sequence[Array]) -> None:
        """Copies inputs to where the plan reads them; neighbours on the host travel together."""
        layout, runtime = self.layout, self._runtime
        first = last = 0
        for array, start, size, view in zip(
            inputs, layout.inputs, layout.input_sizes, self._input_views, strict=True
        ):
            if not size:
                continue
            if isinstance(array, DeviceArray):
                kind = runtime.memcpyDeviceToDevice
                runtime.memcpyAsync(self.block + start, array.pointer, size, kind, self.stream)
            elif size > CHUNK_BYTES:
                self._send_in_parts(array, start, view)
            else:
                if last and (start > last + self._gap(last) or start - first >= CHUNK_BYTES):
                    self._send_range(first, last)
                    last = 0
                np.copyto(view, array)
                first, last = first if last else start, start + size
        if last:
            self._send_range(first, last)

    def _send_in_parts(self, array: Array, start: int, view: npt.NDArray[Any]) -> None:
        source, target = np.ascontiguousarray(array).reshape(-1), view.reshape(-1)
        count = CHUNK_BYTES // target.itemsize
        for begin in range(0, target.size, count):
            part = target[begin : begin + count]
            np.copyto(part, source[begin : begin + count])
            offset = start + begin * target.itemsize
            self._send_range(offset, offset + part.nbytes)

    @staticmethod
    def _gap(end: int) -> int:
        """Bytes from the end of a tensor to where the next one may begin."""
        return -end % 256

    def _send_range(self, first: int, last: int) -> None:
        runtime = self._runtime
        runtime.memcpyAsync(
            self.block + first, self._staged + first, last - first, runtime.memcpyHostToDevice, self.stream
        )

    def _fetch(self, outputs: Sequence[Array]) -> None:
        """Copies outputs to device arrays, and to pinned memory for those of the host."""
        layout, runtime = self.layout, self._runtime
        first = last = 0
        for array, start, size in zip(outputs, layout.outputs, layout.output_sizes, strict=True):
            if not size:
                continue
            if isinstance(array, DeviceArray):
                kind = runtime.memcpyDeviceToDevice
                runtime.memcpyAsync(array.pointer, self.block + start, size, kind, self.stream)
                continue
            if last and start > last + self._gap(last):
                self._fetch_range(first, last)
                last = 0
            first, last = first if last else start, start + size
        if last:
            self._fetch_range(first, last)

    def _fetch_range(self, first: int, last: int) -> None:
        runtime = self._runtime
        runtime.memcpyAsync(
            self._staged + first, self.block + first, last - first, runtime.memcpyDeviceToHost, self.stream
        )

    def finish(self, outputs: Sequence[Array]) -> None:
        """After the run: fills the outputs on the host."""
        self.pending = False
        self._kept = None
        for array, view in zip(outputs, self._output_views, strict=True):
            if not isinstance(array, DeviceArray):
                np.copyto(array, view)

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
                step()
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
            runtime.streamBeginCapture(self.stream, runtime.streamCaptureModeThreadLocal)
            for step in self._steps:
                step()
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
            capturing = runtime.streamIsCapturing(self.stream)
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

    def drain(self) -> None:
        """Waits for work of which nobody has seen the end."""
        if self.pending:
            self._runtime.streamSynchronize(self.stream)
            self.pending = False
            self._kept = None

    def reap(self) -> None:
        """Lets go of the arrays of a run that nobody waited for, once it is over."""
        if self.pending and not int(self._runtime.eventQuery(self.done)):
            self.pending = False
            self._kept = None

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


def _kernel_step(
    launch_kernel: Callable[..., None], launch: KernelLaunch, stream: int, parameters: int
) -> Callable[[], None]:
    arguments = (
        launch.function, launch.blocks, 1, 1, launch.threads, 1, 1, launch.shared_bytes, stream,
        parameters, 0,
    )  # fmt: skip
    return lambda: launch_kernel(*arguments)


def _purpose(bound: BoundPlan) -> str:
    layout, arena = bound.layout, bound.plan.arena_bytes
    return (
        f"a run of the plan ({arena:,} bytes for temporaries, {layout.staged_bytes:,} for its tensors, "
        f"{layout.workspace_bytes:,} for workspace)"
    )
