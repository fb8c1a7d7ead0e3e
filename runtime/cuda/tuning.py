"""Algorithms of matrix products chosen by timing them, once for each kind of product on a kind of device."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import OutOfMemoryError
from onnxplan.runtime.cuda.context import CudaContext, DeviceMemory
from onnxplan.runtime.cuda.cublaslt import ALGORITHM_BYTES
from onnxplan.runtime.store import KernelStore, StoredCode, content_key

if TYPE_CHECKING:
    from onnxplan.runtime.cuda.matmul import Product

logger = logging.getLogger("onnxplan.cuda")

SYMBOL = "cublaslt algorithm"
ROUNDS, LAUNCHES = 3, 5
"""An algorithm's time is the least of so many rounds of so many launches."""
RANDOM_ELEMENTS = 1 << 16

Launcher = Callable[[Sequence[int], int, int], None]
"""Queues a product: addresses of a, b, bias, d and the workspace, the algorithm's number, the stream."""


class ProductTuner:
    """Times algorithms on the device that is current, and keeps what was fastest in ``store``.

    Products are alike where they differ only in the number of rows, up to the next power of two: the first
    one of a kind is timed, later ones take its algorithm if the heuristic offers it for them as well, else
    the heuristic's first. ``identity`` says what choices depend on beside the product: device and library.
    """

    def __init__(self, context: CudaContext, store: KernelStore, identity: str) -> None:
        self._context = context
        self._store = store
        self._identity = identity
        self._chosen: dict[str, bytes] = {}
        self.timed = 0
        """Products that were timed by this process."""

    def choose(
        self, product: Product, algorithms: Sequence[bytes], workspaces: Sequence[int], launch: Launcher
    ) -> int:
        """The number of the algorithm to use; ``algorithms`` are records as the heuristic ranks them."""
        key = content_key(SYMBOL, self._identity, repr(alike(product)))
        known = self._chosen.get(key) or self._stored(key)
        if known is None:
            known = algorithms[self._fastest(product, workspaces, launch)] if len(algorithms) > 1 else None
            known = known or algorithms[0]
            self._store.put(key, StoredCode(SYMBOL, known), self._identity)
        self._chosen[key] = known
        return list(algorithms).index(known) if known in algorithms else 0

    def _stored(self, key: str) -> bytes | None:
        entry = self._store.get(key)
        if entry is None or entry.symbol != SYMBOL or len(entry.code) != ALGORITHM_BYTES:
            return None
        return entry.code

    def _fastest(self, product: Product, workspaces: Sequence[int], launch: Launcher) -> int:
        try:
            memory = [filled(self._context, size, dtype) for size, dtype in operand_sizes(product)]
            workspace = self._context.allocate(max(workspaces), "timing a product")
        except OutOfMemoryError as error:
            logger.warning("%s: the %s is not timed: %s", self._context.name, product, error)
            return 0
        self.timed += 1
        addresses = [block.ptr for block in (*memory, workspace)]
        times = self._times(len(workspaces), lambda number, stream: launch(addresses, number, stream))
        fastest = min(range(len(times)), key=times.__getitem__)
        logger.info(
            "%s: algorithm %d of %d for the %s takes %.1f us, the first %.1f us",
            self._context.name, fastest + 1, len(times), product, 1e3 * times[fastest], 1e3 * times[0],
        )  # fmt: skip
        return fastest

    def _times(self, count: int, launch: Callable[[int, int], None]) -> list[float]:
        """Milliseconds of ``launch(number, stream)`` for each number, after a round that does not count."""
        runtime: Any = self._context.api.runtime
        times = [float("inf")] * count
        stream = int(runtime.streamCreateWithFlags(runtime.streamNonBlocking))
        events = [int(runtime.eventCreateWithFlags(runtime.eventDefault)) for _ in range(2)]
        try:
            # The operands were written on the default stream, which this one does not wait for.
            runtime.deviceSynchronize()
            for round_ in range(1 + ROUNDS):
                for number in range(count):
                    runtime.eventRecord(events[0], stream)
                    for _ in range(LAUNCHES):
                        launch(number, stream)
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
    memory = context.allocate(nbytes, "timing a product")
    noise = np.random.default_rng(0).uniform(-1, 1, RANDOM_ELEMENTS).astype(dtype.numpy)
    written = min(noise.nbytes, nbytes)
    runtime.memcpy(memory.ptr, noise.ctypes.data, written, runtime.memcpyHostToDevice)
    while written < nbytes:
        part = min(written, nbytes - written)
        runtime.memcpy(memory.ptr + written, memory.ptr, part, runtime.memcpyDeviceToDevice)
        written += part
    return memory


def alike(product: Product) -> tuple[Any, ...]:
    """What products that share an algorithm have in common."""
    p = product
    rows = 1 << (p.m - 1).bit_length()
    return p.types, p.trans_a, p.trans_b, p.epilogue, p.alignments, p.batch, rows, p.n, p.k


def operand_sizes(product: Product) -> list[tuple[int, DType]]:
    """Bytes and element types of a, b, the bias and d."""
    p = product
    a, b, d = (DType.from_label(label) for label in p.types)
    rows = (p.k if p.trans_a else p.m, p.n if p.trans_b else p.k, p.m)
    sizes = [
        (p.batch - 1) * stride + count * distance
        for stride, count, distance in zip(
            (p.stride_a, p.stride_b, p.stride_d), rows, (p.lda, p.ldb, p.ldd), strict=True
        )
    ]
    found = [(sizes[0], a), (sizes[1], b), (p.n, d), (sizes[2], d)]
    return [(max(size, 1) * dtype.itemsize, dtype) for size, dtype in found]
