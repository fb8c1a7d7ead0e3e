"""How tensors of the host travel to a slot's memory and back, through pinned memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.plan import ExecutionPlan
from onnxplan.compiler.records import dataclass
from onnxplan.runtime.cuda.array import DeviceArray
from onnxplan.runtime.cuda.context import CudaContext
from onnxplan.runtime.cuda.memory import BLOCK_ALIGNMENT, SMALL_BYTES, Layout
from onnxplan.runtime.cuda.staging import CHUNK_BYTES, Staging

Array = npt.NDArray[Any] | DeviceArray

MOST_PARTS = 8
"""Parts that a large output is fetched in at most; each has an event."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Tensor ``number``: ``size`` bytes at ``start`` of the block; ``view`` is its pinned copy."""

    number: int
    start: int
    size: int
    view: npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Part:
    """Elements ``first`` to ``last`` of a large output, which are in pinned memory once ``event`` is done."""

    place: _Place
    first: int
    last: int
    event: int


class Transfers:
    """The copies of one slot, all queued on its stream.

    Small tensors travel in one copy each way. Large inputs go first and in parts, so that the bus works while
    the next part is written to pinned memory; large outputs come last and in parts, so that one is copied to
    the caller while the next arrives. ``event()`` makes an event; what must be freed is added to ``free``.
    """

    def __init__(
        self,
        context: CudaContext,
        plan: ExecutionPlan,
        layout: Layout,
        block: int,
        stream: int,
        event: Callable[[], int],
        free: list[Callable[[], None]],
    ) -> None:
        self._runtime = context.api.runtime
        self._block, self._stream = block, stream
        staging = Staging(context, layout.staged_bytes)
        free.append(staging.close)
        self._staged = staging.address
        inputs = _places(staging.views(plan.inputs, layout.inputs), layout.inputs, layout.input_sizes)
        outputs = _places(staging.views(plan.outputs, layout.outputs), layout.outputs, layout.output_sizes)
        self._inputs, self._large_inputs = _by_size(inputs)
        self._outputs, large_outputs = _by_size(outputs)
        self._large_outputs = [(place, _parts(place, event)) for place in large_outputs]
        self._fetched: list[_Part] = []

    def send(self, inputs: Sequence[Array]) -> None:
        """Copies inputs to where the plan reads them; those of the host are read before this returns."""
        for place in self._large_inputs:
            array = inputs[place.number]
            if isinstance(array, DeviceArray):
                self._move(self._block + place.start, array.pointer, place.size)
            else:
                self._send_in_parts(array, place)
        first = last = 0
        for place in self._inputs:
            array = inputs[place.number]
            if isinstance(array, DeviceArray):
                self._move(self._block + place.start, array.pointer, place.size)
                continue
            if last and place.start >= last + BLOCK_ALIGNMENT:
                self._send_range(first, last)
                last = 0
            np.copyto(place.view, array)
            first, last = first if last else place.start, place.start + place.size
        if last:
            self._send_range(first, last)

    def _send_in_parts(self, array: Array, place: _Place) -> None:
        source, target = np.ascontiguousarray(array).reshape(-1), place.view.reshape(-1)
        count = CHUNK_BYTES // target.itemsize
        for begin in range(0, target.size, count):
            part = target[begin : begin + count]
            np.copyto(part, source[begin : begin + count])
            offset = place.start + begin * target.itemsize
            self._send_range(offset, offset + part.nbytes)

    def _send_range(self, first: int, last: int) -> None:
        runtime = self._runtime
        runtime.memcpyAsync(
            self._block + first, self._staged + first, last - first, runtime.memcpyHostToDevice, self._stream
        )

    def fetch(self, outputs: Sequence[Array]) -> None:
        """Copies outputs to device arrays, and to pinned memory for those of the host."""
        first = last = 0
        for place in self._outputs:
            array = outputs[place.number]
            if isinstance(array, DeviceArray):
                self._move(array.pointer, self._block + place.start, place.size)
                continue
            if last and place.start >= last + BLOCK_ALIGNMENT:
                self._fetch_range(first, last)
                last = 0
            first, last = first if last else place.start, place.start + place.size
        if last:
            self._fetch_range(first, last)
        self._fetched.clear()
        for place, parts in self._large_outputs:
            array = outputs[place.number]
            if isinstance(array, DeviceArray):
                self._move(array.pointer, self._block + place.start, place.size)
                continue
            for part in parts:
                item = place.view.itemsize
                self._fetch_range(place.start + part.first * item, place.start + part.last * item)
                self._runtime.eventRecord(part.event, self._stream)
                self._fetched.append(part)

    def _fetch_range(self, first: int, last: int) -> None:
        runtime = self._runtime
        runtime.memcpyAsync(
            self._staged + first, self._block + first, last - first, runtime.memcpyDeviceToHost, self._stream
        )

    def _move(self, target: int, source: int, size: int) -> None:
        runtime = self._runtime
        runtime.memcpyAsync(target, source, size, runtime.memcpyDeviceToDevice, self._stream)

    def take(self, outputs: Sequence[Array], cancelled: Callable[[], None]) -> None:
        """Fills the large outputs on the host part by part as they arrive; waits for them.

        ``cancelled()`` is called before each part and raises where the run is to end.
        """
        while self._fetched:
            cancelled()
            part = self._fetched[0]
            self._runtime.eventSynchronize(part.event)
            flat = outputs[part.place.number]
            assert isinstance(flat, np.ndarray)
            window = slice(part.first, part.last)
            np.copyto(flat.reshape(-1)[window], part.place.view.reshape(-1)[window])
            del self._fetched[0]

    def finish(self, outputs: Sequence[Array]) -> None:
        """Fills the other outputs on the host, after the run."""
        for place in self._outputs:
            array = outputs[place.number]
            if not isinstance(array, DeviceArray):
                np.copyto(array, place.view)


def _places(views: Sequence[npt.NDArray[Any]], starts: Sequence[int], sizes: Sequence[int]) -> list[_Place]:
    """The tensors that are not empty, in the order in which they lie."""
    rows = enumerate(zip(views, starts, sizes, strict=True))
    places = [_Place(number, start, size, view) for number, (view, start, size) in rows if size]
    return sorted(places, key=lambda place: place.start)


def _by_size(places: Sequence[_Place]) -> tuple[list[_Place], list[_Place]]:
    """The small ones and the large ones."""
    small = [place for place in places if place.size <= SMALL_BYTES]
    return small, [place for place in places if place.size > SMALL_BYTES]


def _parts(place: _Place, event: Callable[[], int]) -> list[_Part]:
    count = max(CHUNK_BYTES // place.view.itemsize, -(-place.view.size // MOST_PARTS))
    return [
        _Part(place, first, min(first + count, place.view.size), event())
        for first in range(0, place.view.size, count)
    ]
