"""A line in scratch memory that windows slide along, its positions in one or two phases."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass
from onnxplan.kernels.cpu.columns import Group, for_groups
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.llvm_types import I32

# The values of neighbouring vectors from a position on, those in the masks only.
Columns = Callable[[ir.Value, Sequence[Mask | None]], list[ir.Value]]


@dataclass(frozen=True, slots=True)
class Line:
    """Where a line begins. With ``phases`` 2 its odd positions stand ``pitch`` bytes behind its even ones."""

    pointer: ir.Value
    dtype: DType
    phases: int
    pitch: ir.Value

    def offset(self, emitter: Emitter, position: ir.Value) -> ir.Value:
        """Bytes from the line's start to a position."""
        size = self.dtype.itemsize
        if self.phases == 1:
            return emitter.mul(position, size)
        phase = emitter.mul(emitter.modulo(position, 2), self.pitch)
        return emitter.add(phase, emitter.mul(emitter.divide(position, 2), size))

    def write(
        self, emitter: Emitter, first: ir.Value, begin: ir.Value, end: ir.Value, columns: Columns
    ) -> None:
        """Writes the columns from ``begin`` up to ``end``, excluded, to the positions from ``first`` on."""
        if self.phases == 1:
            target = emitter.offset(self.pointer, self.offset(emitter, first))

            def group(part: Group) -> None:
                for number, value in enumerate(columns(part.start, [part.mask] * part.count)):
                    place = emitter.add(emitter.sub(part.start, begin), number * emitter.lanes)
                    emitter.store(value, emitter.element(target, place, self.dtype), self.dtype, part.mask)

            for_groups(emitter, begin, end, group)
            return
        at = begin
        for vectors in (4, 2):
            step = vectors * emitter.lanes
            steps = emitter.divide(emitter.sub(end, at), step)
            stop = emitter.add(at, emitter.mul(steps, step))
            with emitter.loop(at, stop, step) as start:
                self._write_pairs(emitter, first, begin, start, columns, [None] * vectors)
            at = stop
        with emitter.when(emitter.less(at, end)):
            left = emitter.sub(end, at)
            masks = [emitter.mask(left), emitter.mask(emitter.sub(left, emitter.lanes))]
            self._write_pairs(emitter, first, begin, at, columns, masks)

    def _write_pairs(
        self,
        emitter: Emitter,
        first: ir.Value,
        begin: ir.Value,
        start: ir.Value,
        columns: Columns,
        masks: Sequence[Mask | None],
    ) -> None:
        """Of every two vectors, every second column goes to one phase and the others to the other."""
        lanes, builder = emitter.lanes, emitter.builder
        values = columns(start, masks)
        place = emitter.divide(emitter.sub(start, begin), 2)
        for pair in range(0, len(values), 2):
            for parity in range(2):
                order = [I32(2 * lane + parity) for lane in range(lanes)]
                value = builder.shuffle_vector(
                    values[pair], values[pair + 1], ir.Constant(ir.VectorType(I32, lanes), order)
                )
                target = emitter.offset(self.pointer, self.offset(emitter, emitter.add(first, parity)))
                mask = masks[pair]
                if mask is not None:
                    mask = emitter.mask(emitter.divide(emitter.add(mask.count, 1 - parity), 2))
                pointer = emitter.element(target, emitter.add(place, pair // 2 * lanes), self.dtype)
                emitter.store(value, pointer, self.dtype, mask)
