"""Algorithms and engines of libraries chosen by timing them, once for each problem on a kind of device."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import DeviceError, OutOfMemoryError, UnsupportedOperatorError
from onnxplan.compiler.records import dataclass
from onnxplan.runtime.cuda.context import CudaContext, DeviceMemory
from onnxplan.runtime.store import KernelStore, StoredCode, content_key

logger = logging.getLogger("onnxplan.cuda")

PURPOSE = "timing candidates"
ROUNDS, LAUNCHES = 3, 5
"""An algorithm's time is the least of so many rounds of so many launches."""
RANDOM_ELEMENTS = 1 << 16

Launcher = Callable[[Sequence[int], int, int], None]
"""Queues a candidate: addresses of operands and of the workspace, the candidate's number, the stream."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Ways in which a library computes something, in the order of its heuristic.

    ``symbol`` and ``key`` say what a choice is kept for, ``text`` what is computed. ``operands`` are bytes
    and element types of what ``launch`` is given the addresses of; ``records`` are what makes each candidate
    known again, ``workspaces`` the bytes that each needs.
    """

    symbol: str
    key: str
    text: str
    operands: Sequence[tuple[int, DType]]
    records: Sequence[bytes]
    workspaces: Sequence[int]
    launch: Launcher


class Tuner:
    """Times candidates on the device that is current, and keeps what was fastest in ``store``.

    ``identity`` says what all choices depend on: the device, its driver, cuBLASLt.
    """

    def __init__(self, context: CudaContext, store: KernelStore, identity: str) -> None:
        self._context = context
        self._store = store
        self._identity = identity
        self._chosen: dict[str, bytes] = {}
        self.timed = 0
        """How often this process timed candidates."""

    def known(self, symbol: str, key: str) -> bytes | None:
        """The record that was chosen for a key, if any was."""
        stored = self._key(symbol, key)
        if stored not in self._chosen:
            entry = self._store.get(stored)
            if entry is None or entry.symbol != symbol:
                return None
            self._chosen[stored] = entry.code
        return self._chosen[stored]

    def choose(self, candidates: Candidates) -> int:
        """The number of the candidate to use: that of the known record, else the fastest.

        Where the known one is not offered it is the first. Raises :class:`UnsupportedOperatorError` where
        none can be launched.
        """
        records = list(candidates.records)
        known = self.known(candidates.symbol, candidates.key)
        if known is not None:
            return records.index(known) if known in records else 0
        number = self._fastest(candidates) if len(records) > 1 else 0
        stored = self._key(candidates.symbol, candidates.key)
        self._store.put(stored, StoredCode(candidates.symbol, records[number]), self._identity)
        self._chosen[stored] = records[number]
        return number

    def _key(self, symbol: str, key: str) -> str:
        return content_key(symbol, self._identity, key)

    def _fastest(self, candidates: Candidates) -> int:
        try:
            memory = [filled(self._context, size, dtype) for size, dtype in candidates.operands]
            workspace = self._context.allocate(max(1, *candidates.workspaces), PURPOSE)
        except OutOfMemoryError as error:
            logger.warning("%s: the %s is not timed: %s", self._context.name, candidates.text, error)
            return 0
        self.timed += 1
        addresses = [block.ptr for block in (*memory, workspace)]
        times = self._times(candidates, addresses)
        fastest = min(range(len(times)), key=times.__getitem__)
        if times[fastest] == float("inf"):
            raise UnsupportedOperatorError(f"none of {len(times)} candidates computes the {candidates.text}")
        logger.info(
            "%s: algorithm %d of %d for the %s takes %.1f us, the first %.1f us",
            self._context.name, fastest + 1, len(times), candidates.text,
            1e3 * times[fastest], 1e3 * times[0],
        )  # fmt: skip
        return fastest

    def _times(self, candidates: Candidates, addresses: Sequence[int]) -> list[float]:
        """Milliseconds of each candidate, after a round that does not count; infinite for one that fails."""
        runtime: Any = self._context.api.runtime
        times = [float("inf")] * len(candidates.records)
        left = list(range(len(times)))
        stream = int(runtime.streamCreateWithFlags(runtime.streamNonBlocking))
        events = [int(runtime.eventCreateWithFlags(runtime.eventDefault)) for _ in range(2)]
        try:
            # The operands were written on the default stream, which this one does not wait for.
            runtime.deviceSynchronize()
            for round_ in range(1 + ROUNDS):
                for number in tuple(left):
                    runtime.eventRecord(events[0], stream)
                    try:
                        for _ in range(LAUNCHES):
                            candidates.launch(addresses, number, stream)
                    except DeviceError as error:
                        logger.warning(
                            "%s: algorithm %d of %d for the %s is left out: %s",
                            self._context.name, number + 1, len(times), candidates.text, error,
                        )  # fmt: skip
                        times[number] = float("inf")
                        left.remove(number)
                        continue
                    runtime.eventRecord(events[1], stream)
                    runtime.eventSynchronize(events[1])
                    if round_:
                        elapsed = float(runtime.eventElapsedTime(*events)) / LAUNCHES
                        times[number] = min(times[number], elapsed)
        finally:
            runtime.streamSynchronize(stream)
            for event in events:
                runtime.eventDestroy(event)
            runtime.streamDestroy(stream)
        return times


def filled(context: CudaContext, nbytes: int, dtype: DType) -> DeviceMemory:
    """Memory full of random numbers: products of zeros take less power, and so less time."""
    runtime: Any = context.api.runtime
    memory = context.allocate(nbytes, PURPOSE)
    noise = np.random.default_rng(0).uniform(-1, 1, RANDOM_ELEMENTS).astype(dtype.numpy)
    written = min(noise.nbytes, nbytes)
    runtime.memcpy(memory.ptr, noise.ctypes.data, written, runtime.memcpyHostToDevice)
    while written < nbytes:
        part = min(written, nbytes - written)
        runtime.memcpy(memory.ptr + written, memory.ptr, part, runtime.memcpyDeviceToDevice)
        written += part
    return memory
