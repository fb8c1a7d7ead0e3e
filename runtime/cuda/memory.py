"""Memory of a CUDA device: what plans need of it, and the constants that all plans share."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.plan import Binding, ExecutionPlan
from onnxplan.runtime.cuda.context import LEGACY_STREAM, CudaContext, DeviceMemory

HostArray = npt.NDArray[Any]

BLOCK_ALIGNMENT = 256


def aligned_size(nbytes: int) -> int:
    return -(-nbytes // BLOCK_ALIGNMENT) * BLOCK_ALIGNMENT


def binding_bytes(binding: Binding) -> int:
    return int(np.prod(binding.shape, dtype=np.int64)) * binding.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts of a slot's block of device memory begin, in bytes: inputs, outputs, arena, workspace.

    The first ``staged_bytes``, inputs and outputs, have a copy of the same layout in pinned host memory.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_sizes: tuple[int, ...]
    output_sizes: tuple[int, ...]
    staged_bytes: int
    arena: int
    workspace: int
    total_bytes: int

    @property
    def workspace_bytes(self) -> int:
        return self.total_bytes - self.workspace

    @staticmethod
    def of(plan: ExecutionPlan, workspace_bytes: int) -> Layout:
        input_sizes = tuple(map(binding_bytes, plan.inputs))
        output_sizes = tuple(map(binding_bytes, plan.outputs))
        starts = [0]
        for size in (*input_sizes, *output_sizes, plan.arena_bytes, workspace_bytes):
            starts.append(starts[-1] + aligned_size(size))
        count, both = len(input_sizes), len(input_sizes) + len(output_sizes)
        return Layout(
            inputs=tuple(starts[:count]),
            outputs=tuple(starts[count:both]),
            input_sizes=input_sizes,
            output_sizes=output_sizes,
            staged_bytes=starts[both],
            arena=starts[both],
            workspace=starts[both + 1],
            total_bytes=starts[-1],
        )


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
