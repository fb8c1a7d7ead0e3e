"""Memory of a CUDA device: what plans need of it, and the constants that all plans share."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.plan import Binding, ExecutionPlan
from onnxplan.compiler.records import dataclass
from onnxplan.runtime.cuda.context import LEGACY_STREAM, CudaContext, DeviceMemory

HostArray = npt.NDArray[Any]

BLOCK_ALIGNMENT = 256
SMALL_BYTES = 64 << 10
"""Tensors of the host up to this size travel in one copy: a copy of their own takes longer to start than to
carry so much."""


def aligned_size(nbytes: int) -> int:
    return -(-nbytes // BLOCK_ALIGNMENT) * BLOCK_ALIGNMENT


def binding_bytes(binding: Binding) -> int:
    return int(np.prod(binding.shape, dtype=np.int64)) * binding.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts of a slot's block of device memory begin, in bytes: inputs, outputs, arena, workspaces.

    The first ``staged_bytes``, inputs and outputs, have a copy of the same layout in pinned host memory.
    Small inputs adjoin there, and so do small outputs. There is a workspace of ``workspace_bytes`` for each
    stream that steps are captured on.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_sizes: tuple[int, ...]
    output_sizes: tuple[int, ...]
    staged_bytes: int
    arena: int
    workspace: int
    workspace_bytes: int
    total_bytes: int

    @staticmethod
    def of(plan: ExecutionPlan, workspace_bytes: int, branches: int = 1) -> Layout:
        input_sizes = tuple(map(binding_bytes, plan.inputs))
        output_sizes = tuple(map(binding_bytes, plan.outputs))
        inputs, end = _small_first(input_sizes, 0)
        outputs, staged = _small_first(output_sizes, end)
        workspace = staged + aligned_size(plan.arena_bytes)
        workspace_bytes = aligned_size(workspace_bytes)
        return Layout(
            inputs=inputs,
            outputs=outputs,
            input_sizes=input_sizes,
            output_sizes=output_sizes,
            staged_bytes=staged,
            arena=staged,
            workspace=workspace,
            workspace_bytes=workspace_bytes,
            total_bytes=workspace + branches * workspace_bytes,
        )


def _small_first(sizes: Sequence[int], start: int) -> tuple[tuple[int, ...], int]:
    """Where tensors of these sizes lie from ``start`` on, and where they end."""
    starts = [0] * len(sizes)
    for number in sorted(range(len(sizes)), key=lambda number: sizes[number] > SMALL_BYTES):
        starts[number] = start
        start += aligned_size(sizes[number])
    return tuple(starts), start


def peak_bytes(plan: ExecutionPlan, workspace_bytes: int = 0) -> int:
    """Bytes of device memory that the plan needs to be bound and run once.

    Those are its constants and one slot: arena, blocks of inputs and outputs, and the workspace of library
    calls (see :func:`onnxplan.runtime.cuda.matmul.workspace_limit` for the most that can be).
    """
    constants = sum(aligned_size(int(np.prod(c.shape)) * c.dtype.itemsize) for c in plan.constants)
    return constants + Layout.of(plan, workspace_bytes).total_bytes


class Upload:
    """A constant in device memory. Freed when no plan refers to it."""

    __slots__ = ("__weakref__", "memory", "nbytes")

    def __init__(self, memory: DeviceMemory, nbytes: int) -> None:
        self.memory = memory
        self.nbytes = nbytes

    @property
    def address(self) -> int:
        return self.memory.ptr


class Uploads:
    """The constants on a device, each uploaded once for all plans of all sessions.

    A constant is known by the identity of its array on the host.
    """

    def __init__(self, context: CudaContext) -> None:
        self._context = context
        self._known: dict[int, tuple[weakref.ref[HostArray], weakref.ref[Upload]]] = {}
        self._lock = threading.Lock()

    @staticmethod
    def of(context: CudaContext) -> Uploads:
        uploads: Uploads = context.part("uploads", lambda: Uploads(context))
        return uploads

    def get(self, arrays: Sequence[HostArray]) -> tuple[Upload, ...]:
        """The arrays on the device, which is the current one; complete when this returns.

        Raises :class:`~onnxplan.compiler.errors.OutOfMemoryError`.
        """
        with self._lock:
            self._forget()
            found = [self._find(array) for array in arrays]
            fresh = False
            for number, array in enumerate(arrays):
                if found[number] is None:
                    found[number] = self._find(array) or self._upload(array)
                    fresh = True
            if fresh:
                # Copies from pageable memory return when the data has been read, not when it has arrived.
                self._context.api.runtime.streamSynchronize(LEGACY_STREAM)
            return tuple(upload for upload in found if upload is not None)

    def _forget(self) -> None:
        gone = [key for key, (_, upload) in self._known.items() if upload() is None]
        for key in gone:
            del self._known[key]

    def _find(self, array: HostArray) -> Upload | None:
        pair = self._known.get(id(array))
        return pair[1]() if pair is not None and pair[0]() is array else None

    def _upload(self, array: HostArray) -> Upload:
        runtime = self._context.api.runtime
        upload = Upload(self._context.allocate(array.nbytes, "a constant of the model"), array.nbytes)
        if array.nbytes:
            runtime.memcpy(upload.address, array.ctypes.data, array.nbytes, runtime.memcpyHostToDevice)
        self._known[id(array)] = weakref.ref(array), weakref.ref(upload)
        return upload
