"""Code of an epilogue: from a vector of sums to a vector of the output in memory."""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.records import dataclass
from onnxplan.kernels.cpu import convert
from onnxplan.kernels.cpu.emitter import Emitter, Mask, emit_expression
from onnxplan.kernels.cpu.epilogue import Epilogue
from onnxplan.kernels.cpu.llvm_types import I64, POINTER
from onnxplan.kernels.cpu.registers import local_function
from onnxplan.kernels.cpu.tiling import sum_dtype

PLACE_TYPES = [POINTER, I64, I64]


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


def finished_sums(
    emitter: Emitter,
    epilogue: Epilogue,
    value: ir.Value,
    extras: list[Place],
    column: ir.Value,
    mask: Mask | None,
) -> ir.Value:
    """The result of the sums ``value`` of consecutive columns from ``column`` on, in its compute type.

    ``extras`` are those of the extras in the row at hand.
    """
    sums = sum_dtype(epilogue.accumulator)
    inputs = [convert.cast(emitter, sums, epilogue.accumulator, value)]
    for dtype, access, place in zip(epilogue.dtypes[1:], epilogue.accesses[1:], extras, strict=True):
        if access == "unit":
            pointer = emitter.element(place.pointer, column, dtype)
            inputs.append(emitter.load(pointer, dtype, mask))
        elif access == "same":
            inputs.append(emitter.load_broadcast(place.pointer, dtype))
        else:
            pointer = emitter.offset(place.pointer, emitter.mul(column, place.column_step))
            inputs.append(emitter.load_strided(pointer, place.column_step, dtype, mask))
    (result,) = emit_expression(emitter, epilogue.expression, inputs)
    return result


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
    result = finished_sums(emitter, epilogue, value, places[1:], column, mask)
    dtype, place = epilogue.dtypes[0], places[0]
    if epilogue.accesses[0] == "unit":
        emitter.store(result, emitter.element(place.pointer, column, dtype), dtype, mask)
    else:
        pointer = emitter.offset(place.pointer, emitter.mul(column, place.column_step))
        emitter.store_strided(result, pointer, place.column_step, dtype, mask)


def place_values(places: list[Place]) -> list[ir.Value]:
    """Places as arguments of a function, of :data:`PLACE_TYPES` each."""
    return [value for place in places for value in (place.pointer, place.row_step, place.column_step)]


def places_of(values: list[ir.Value]) -> list[Place]:
    """The inverse of :func:`place_values`."""
    return [Place(*values[start : start + 3]) for start in range(0, len(values), 3)]


def tile_finisher(emitter: Emitter, epilogue: Epilogue, lanes: int, row_bytes: int) -> ir.Function:
    """A function ``(tile, rows, columns, *places)`` that runs the epilogue over sums in memory.

    Rows of the tile are ``row_bytes`` apart. Each element of the output is written once, right after the
    extras at the same place are read.
    """
    arguments = [POINTER, I64, I64, *PLACE_TYPES * len(epilogue.dtypes)]
    inner = local_function(emitter, "finish_tile", arguments, lanes)
    tile, rows, columns = inner.function.args[:3]
    places = places_of(list(inner.function.args[3:]))
    sums = sum_dtype(epilogue.accumulator)
    full = inner.builder.and_(columns, I64(-lanes))
    rest = inner.sub(columns, full)
    mask = inner.mask(rest)

    def vector(row: ir.Value, column: ir.Value, limit: Mask | None) -> None:
        at = inner.element(inner.offset(tile, inner.mul(row, row_bytes)), column, sums)
        row_places = [place.row(inner, row) for place in places]
        emit_epilogue(inner, epilogue, inner.load(at, sums), row_places, column, limit)

    with inner.loop(0, rows) as row:
        with inner.loop(0, full, lanes) as column:
            vector(row, column, None)
        with inner.when(inner.less(0, rest)):
            vector(row, full, mask)
    inner.builder.ret_void()
    return inner.function
