"""Code of an epilogue: from a vector of sums to a vector of the output in memory."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir
from onnxplan.kernels.cpu import convert
from onnxplan.kernels.cpu.emitter import Emitter, Mask, emit_expression
from onnxplan.kernels.cpu.epilogue import Epilogue
from onnxplan.kernels.cpu.tiling import sum_dtype


@dataclass(frozen=True, slots=True)
class Place:
    """Where an operand's element of row 0 and column 0 stands; bytes from a row and a column to the next."""

    pointer: ir.Value
    row_step: ir.Value
    column_step: ir.Value

    def row(self, emitter: Emitter, row: ir.Value) -> Place:
        """The same, ``row`` rows further down."""
        pointer = emitter.offset(self.pointer, emitter.mul(row, self.row_step))
        return Place(pointer, self.row_step, self.column_step)

    def column(self, emitter: Emitter, column: ir.Value) -> Place:
        """The same, ``column`` columns further on."""
        pointer = emitter.offset(self.pointer, emitter.mul(column, self.column_step))
        return Place(pointer, self.row_step, self.column_step)


def emit_epilogue(
    emitter: Emitter,
    epilogue: Epilogue,
    value: ir.Value,
    places: list[Place],
    column: ir.Value,
    mask: Mask | None,
) -> None:
    """Finishes the sums ``value`` of consecutive columns from ``column`` on and stores the result.

    ``places`` are those of the output and the extras in the row at hand.
    """
    sums = sum_dtype(epilogue.accumulator)
    inputs = [convert.cast(emitter, sums, epilogue.accumulator, value)]
    for dtype, access, place in zip(epilogue.dtypes[1:], epilogue.accesses[1:], places[1:], strict=True):
        if access == "unit":
            pointer = emitter.element(place.pointer, column, dtype)
            inputs.append(emitter.load(pointer, dtype, mask))
        elif access == "same":
            inputs.append(emitter.load_broadcast(place.pointer, dtype))
        else:
            pointer = emitter.offset(place.pointer, emitter.mul(column, place.column_step))
            inputs.append(emitter.load_strided(pointer, place.column_step, dtype, mask))
    (result,) = emit_expression(emitter, epilogue.expression, inputs)
    dtype, place = epilogue.dtypes[0], places[0]
    if epilogue.accesses[0] == "unit":
        emitter.store(result, emitter.element(place.pointer, column, dtype), dtype, mask)
    else:
        pointer = emitter.offset(place.pointer, emitter.mul(column, place.column_step))
        emitter.store_strided(result, pointer, place.column_step, dtype, mask)
