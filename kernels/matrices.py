"""Geometry of matrix products: operands with batch axes, folded and transposed. The same for all devices."""

from __future__ import annotations

from collections.abc import Sequence

from onnxplan.compiler.records import dataclass
from onnxplan.compiler.view import View


@dataclass(frozen=True, slots=True)
class Matrices:
    """Operands of ``batch`` products; all views have the same leading batch axes (stride 0 where shared)."""

    a: View
    b: View
    output: View
    extras: tuple[View, ...]

    @property
    def rows(self) -> int:
        return self.output.shape[-2]

    @property
    def columns(self) -> int:
        return self.output.shape[-1]

    @property
    def depth(self) -> int:
        return self.a.shape[-1]

    @property
    def views(self) -> tuple[View, ...]:
        """A, B, the output, the extras."""
        return (self.a, self.b, self.output, *self.extras)


def fold_batch(matrices: Matrices) -> Matrices:
    """The same products with as few batch axes as strides allow.

    Axes that share B become rows where A, the output and the extras lie as if they were; neighbouring axes
    are merged; axes of extent 1 go.
    """
    shape = matrices.output.shape
    if len(shape) == 2:
        return matrices
    views = matrices.views
    steps = [view.strides for view in views]
    records = [
        (extent, tuple([strides[axis] for strides in steps]))
        for axis, extent in enumerate(shape[:-2])
        if extent != 1
    ]
    row = (shape[-2], tuple([strides[-2] for strides in steps]))
    if row[0] == 1:
        shared = [number for number, (_, strides) in enumerate(records) if strides[1] == 0]
        if shared:
            row = records.pop(shared[-1])
    while records and records[-1][1][1] == 0 and _follows(records[-1], row, skip=1):
        row = (records[-1][0] * row[0], row[1])
        records.pop()
    merged: list[tuple[int, tuple[int, ...]]] = []
    for record in reversed(records):
        if merged and _follows(record, merged[0]):
            merged[0] = (record[0] * merged[0][0], merged[0][1])
        else:
            merged.insert(0, record)
    extents = tuple([extent for extent, _ in merged])
    folded = []
    for number, view in enumerate(views):
        batch = tuple([strides[number] for _, strides in merged])
        rows, step = (view.shape[-2], view.strides[-2]) if number == 1 else (row[0], row[1][number])
        folded.append(
            View(
                view.storage,
                view.offset,
                (*extents, rows, view.shape[-1]),
                (*batch, step, view.strides[-1]),
            )
        )
    return Matrices(folded[0], folded[1], folded[2], tuple(folded[3:]))


def _follows(
    outer: tuple[int, tuple[int, ...]], inner: tuple[int, tuple[int, ...]], skip: int | None = None
) -> bool:
    """Does the outer axis go on where the inner one ends, in all views but number ``skip``?"""
    extent, strides = inner
    for number, stride in enumerate(outer[1]):
        if stride != extent * strides[number] and number != skip:
            return False
    return True


def transposed(matrices: Matrices) -> Matrices:
    """``out^T = b^T a^T``."""

    def swap(view: View) -> View:
        return view.transpose((*range(view.rank - 2), view.rank - 1, view.rank - 2))

    extras = tuple(swap(extra) for extra in matrices.extras)
    return Matrices(swap(matrices.b), swap(matrices.a), swap(matrices.output), extras)


def batch_records(views: Sequence[View], trailing: int = 2) -> tuple[int, list[int]]:
    """The batch axes as a kernel reads them: their number; the extent and each view's step in bytes."""
    words: list[int] = []
    count = views[0].rank - trailing
    for axis in range(count):
        words.append(views[0].shape[axis])
        words += [view.strides[axis] * view.dtype.itemsize for view in views]
    return count, words


def distinct_bytes(view: View) -> int:
    """Bytes of the elements of a view, those of broadcast axes counted once."""
    count = 1
    for extent, stride in zip(view.shape, view.strides, strict=True):
        count *= extent if stride else 1
    return count * view.dtype.itemsize
