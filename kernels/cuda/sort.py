"""Sorting and the first elements in order: selection. The code is in ``sort_code``."""

from __future__ import annotations

import math

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import Sort
from onnxplan.compiler.program import Operation
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.cuda.indexing import BLOCK_THREADS, axis_words, index_type
from onnxplan.kernels.cuda.sort_code import CHUNK, build_sort, entry_words
from onnxplan.kernels.cuda.source import check_words
from onnxplan.kernels.geometry import Axis, axes_of, carrier, ceil_div, collapse, pad_axes

__all__ = ["build_sort", "select_sort"]

# Positions are kept in 32 bits next to keys of up to 32.
LONGEST = (1 << 32) - 2


def select_sort(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the steps of a Sort of any type but strings and complex numbers.

    Lines that fit are sorted in shared memory. Of longer ones chunks are: if few elements are wanted, only
    the first of each chunk go on, as a shorter line; otherwise sorted runs are merged, two at a time.
    """
    primitive = operation.primitive
    assert isinstance(primitive, Sort)
    x, values, positions = operation.inputs[0], *operation.outputs
    extent, kept = x.shape[primitive.axis], values.shape[primitive.axis]
    if x.dtype.kind not in "fiub" or extent > LONGEST:
        raise NotImplementedError(f"no CUDA kernel for sort of {extent} elements of {x.dtype}")
    if values.size == 0:
        return
    lines = _Lines.of(primitive, x, values, positions, emit)
    if 2 * kept <= CHUNK:
        source, length = None, extent
        while length > CHUNK:
            chunks = ceil_div(length, CHUNK)
            result = lines.entries(chunks * kept)
            lines.sort_chunks(source, length, result, kept, chunks * kept)
            source, length = result, chunks * kept
        lines.sort_chunks(source, length, None, kept, 0)
        return
    if extent <= CHUNK:
        lines.sort_chunks(None, extent, None, kept, 0)
        return
    runs, run = lines.entries(extent), CHUNK
    lines.sort_chunks(None, extent, runs, CHUNK, extent)
    while 2 * run < extent:
        merged = lines.entries(extent)
        lines.merge(runs, extent, run, merged, kept)
        runs, run = merged, 2 * run
    lines.merge(runs, extent, run, None, kept)


@dataclass(frozen=True, slots=True)
class _Lines:
    """The lines of a Sort: ``steps`` are the distances along one in x, values and positions."""

    primitive: Sort
    views: tuple[View, View, View]
    count: int
    axes: tuple[Axis, ...]
    steps: tuple[int, int, int]
    index: str
    emit: StepEmitter

    @staticmethod
    def of(primitive: Sort, x: View, values: View, positions: View, emit: StepEmitter) -> _Lines:
        views, axis = (x, values, positions), primitive.axis
        others = [other for other in range(x.rank) if other != axis]
        shape = [x.shape[other] for other in others]
        axes = axes_of(shape, [[view.strides[other] for other in others] for view in views])
        padded = tuple(pad_axes(collapse(axes, range(3)), 3))
        steps = (x.strides[axis], values.strides[axis], positions.strides[axis])
        reach = Axis(x.shape[axis], steps)
        # Sentinels and the last chunk may be beyond the elements.
        points = 2 * (math.prod(shape) * x.shape[axis] + CHUNK)
        return _Lines(
            primitive, views, math.prod(shape), padded, steps, index_type(points, [*padded, reach]), emit
        )

    @property
    def dtype(self) -> DType:
        return self.views[0].dtype

    def entries(self, length: int) -> View:
        """A temporary for ``length`` entries of each line."""
        size = self.count * length * entry_words(self.dtype)
        return View.dense(self.emit.temporary(DType.UINT64, size, "entries"), (size,))

    def sort_chunks(
        self, source: View | None, length: int, result: View | None, kept: int, stride: int
    ) -> None:
        """Emits the step that sorts chunks of lines of ``length`` (of x, or of entries in ``source``).

        The first ``kept`` of each go to ``result``, where lines are ``stride`` long, or to the outputs.
        """
        padded = min(CHUNK, 1 << max(length - 1, 1).bit_length())
        chunks = ceil_div(length, padded)
        together = max(1, 2 * BLOCK_THREADS // padded)
        parameters = (
            self.count * chunks,
            chunks,
            length,
            padded.bit_length() - 1,
            together * padded,
            kept,
            stride,
        )
        self._step(
            "chunks", source, result, parameters,
            tiles=ceil_div(self.count * chunks, together),
            scratch=together * padded * 8 * entry_words(self.dtype),
            elements=self.count * length,
        )  # fmt: skip

    def merge(self, source: View, length: int, run: int, result: View | None, kept: int) -> None:
        """Emits the step that merges neighbouring runs of ``run`` entries; ``kept`` of each pair matter."""
        tiles = ceil_div(length, CHUNK)
        self._step(
            "merge", source, result, (tiles, length, run, kept),
            tiles=self.count * tiles,
            scratch=CHUNK * 8 * entry_words(self.dtype),
            elements=self.count * length,
        )  # fmt: skip

    def _step(
        self,
        stage: str,
        source: View | None,
        result: View | None,
        parameters: tuple[int, ...],
        *,
        tiles: int,
        scratch: int,
        elements: int,
    ) -> None:
        x, values, positions = self.views
        wanted = (x if source is None or result is None else None, source)
        inputs = tuple(view for view in wanted if view is not None)
        outputs = (values, positions) if result is None else (result,)
        label, largest = self.dtype.label, self.primitive.largest
        if source is not None:
            # Entries of all types are alike, and values are only copied.
            word = DType.UINT64 if entry_words(self.dtype) == 2 else DType.UINT32
            label, largest = (carrier(self.dtype)[0] if result is None else word).label, False
        variant = (
            BLOCK_THREADS, stage, label, largest, source is not None, result is None, len(self.axes),
            self.index,
        )  # fmt: skip
        parameters = (*parameters, *self.steps, *axis_words(self.axes))
        check_words(4, len(parameters))
        effort = (CHUNK.bit_length() ** 2) // 2 if stage == "chunks" else 16
        self.emit.step(
            KernelSpec("sort", variant),
            (*inputs, *outputs),
            tuple(range(len(inputs), len(inputs) + len(outputs))),
            parameters,
            tiles=tiles,
            flops=elements * effort,
            bytes_moved=elements * (self.dtype.itemsize + 8 * entry_words(self.dtype)),
            scratch=scratch,
        )
