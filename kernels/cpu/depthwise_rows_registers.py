"""The register kernels of depthwise convolution along rows: sums of some output lines of one channel.

The taps of one column stay in registers while they go down all lines that a register tile reads, so that a
column loads each value and each weight once. Lines outside of the input are skipped; what lies beside a line
is read, but does not count.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass
from onnxplan.kernels.cpu.depthwise_rows import Tile
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.epilogue import Epilogue
from onnxplan.kernels.cpu.epilogue_code import (
    PLACE_TYPES,
    Place,
    emit_epilogue,
    place_values,
    places_of,
)
from onnxplan.kernels.cpu.llvm_types import I1, I32, I64, POINTER
from onnxplan.kernels.cpu.registers import Grid, local_function, multiply_add, zeros

# Most lines lie inside.
LIKELY = (99, 1)


@dataclass(frozen=True, slots=True)
class Plane:
    """A plane of known extents, of the input and the output, and the padding before it."""

    in_y: int
    in_x: int
    out_y: int
    out_x: int
    pad_y: int
    pad_x: int


@dataclass(frozen=True, slots=True)
class Choices:
    """What is compiled in: taps and strides are those along y and x, ``plane`` the planes if known."""

    dtype: DType
    tile: Tile
    taps_y: int
    taps_x: int
    stride_y: int
    stride_x: int
    plane: Plane | None
    epilogue: Epilogue

    @property
    def vector_bytes(self) -> int:
        return self.tile.lanes * self.dtype.itemsize

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of sums in memory."""
        return self.tile.vectors * self.vector_bytes

    @property
    def input_lines(self) -> int:
        """Lines at which the vectors begin that a register tile reads."""
        return (self.tile.rows - 1) * self.tile.lines * self.stride_y + self.taps_y


@dataclass(frozen=True, slots=True)
class Window:
    """Arguments of a register kernel.

    ``x`` is a plane of ``extent_y`` lines, ``step`` bytes apart, of ``extent_x`` elements; the first tap of
    the first output reads line ``first_y`` and element ``first_x``, which need not exist. ``w`` has the taps.
    """

    x: ir.Value
    step: ir.Value
    extent_y: ir.Value
    extent_x: ir.Value
    first_y: ir.Value
    first_x: ir.Value
    w: ir.Value

    @property
    def values(self) -> list[ir.Value]:
        return [getattr(self, name) for name in self.__slots__]


WINDOW_TYPES = [POINTER, I64, I64, I64, I64, I64, POINTER]


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of taps, or two with a stride of 2.

    ``weights`` stand by tap along y and number of the column; ``lanes``, by vector and number of the column,
    are those of the results that read inside of a line. ``guards`` are of the vectors that are read, if they
    must be.
    """

    weights: Grid
    lanes: Grid
    guards: Grid

    def limited(self, builder: ir.IRBuilder, lanes: ir.Value) -> _Column:
        """The same for some of the lanes."""

        def both(grid: Grid) -> Grid:
            return [[builder.and_(each, lanes) for each in row] for row in grid]

        return _Column(self.weights, both(self.lanes), both(self.guards))


def register_kernel(
    emitter: Emitter, choices: Choices, finish: ir.Function, start: int, vectors: int, *, guarded: bool
) -> ir.Function:
    """``(*window, lines, columns, sums, *places)``; at most ``lines`` lines and ``columns`` are written.

    One that is ``guarded`` reads nothing outside of a line, which takes longer. For a known plane it begins
    at output line ``start``, and knows all of that but the addresses. ``finish`` runs the epilogue in memory.
    """
    arguments = [*WINDOW_TYPES, I64, I64, POINTER, *PLACE_TYPES * len(choices.epilogue.dtypes)]
    name = f"core_{start}_{vectors}{'_guarded' if guarded else ''}"
    inner = local_function(emitter, name, arguments, choices.tile.lanes)
    window = Window(*inner.function.args[: len(WINDOW_TYPES)])
    lines, columns, memory, *rest = inner.function.args[len(WINDOW_TYPES) :]
    plane = choices.plane
    if plane is not None:
        window = replace(
            window,
            step=I64(plane.in_x * choices.dtype.itemsize),
            first_y=I64(start * choices.stride_y - plane.pad_y),
            first_x=I64(-plane.pad_x),
        )
        lines, columns = I64(plane.out_y - start), I64(plane.out_x)
    together = choices.tile.lines
    places = [
        Place(place.pointer, inner.mul(place.row_step, together), place.column_step)
        for place in places_of(rest)
    ]
    kernel = _RegisterKernel(inner, choices, window, start, guarded=guarded)
    sums = kernel.sums(vectors)
    if choices.epilogue.is_cheap:
        kernel.write(sums, lines, columns, places)
    else:
        kernel.finish_in_memory(finish, sums, lines, columns, memory, places)
    inner.builder.ret_void()
    return inner.function


class _RegisterKernel:
    def __init__(
        self, inner: Emitter, choices: Choices, window: Window, start: int, *, guarded: bool
    ) -> None:
        self._inner, self._choices, self._window = inner, choices, window
        self._start, self._guarded = start, guarded

    def sums(self, vectors: int) -> Grid:
        """The sums of a register tile, column of taps by column; with a stride of 2 two columns at a time."""
        choices, inner = self._choices, self._inner
        sums, others = (zeros(inner, choices.dtype, choices.tile.rows, vectors) for _ in range(2))
        for first in range(0, choices.taps_x, choices.stride_x):
            taps = range(first, min(first + choices.stride_x, choices.taps_x))
            weights = [[self._weight(tap_y, tap) for tap in taps] for tap_y in range(choices.taps_y)]
            lanes = [
                [self._lanes(vector, choices.stride_x, tap) for tap in taps] for vector in range(vectors)
            ]
            guards: Grid = []
            if self._guarded:
                parts = range(choices.stride_x)
                guards = [
                    [self._lanes(vector * len(parts) + part, 1, first) for part in parts]
                    for vector in range(vectors)
                ]
            sums = self._add_column(first, _Column(weights, lanes, guards), sums)
            if vectors == 1:
                # So few sums would wait for each other: every second column has its own.
                sums, others = others, sums
        if vectors > 1:
            return sums
        add = inner.builder.fadd if choices.dtype.is_float else inner.builder.add
        return [[add(a, b)] for (a,), (b,) in zip(sums, others, strict=True)]

    def _weight(self, tap_y: int, tap_x: int) -> ir.Value:
        place = (tap_y * self._choices.taps_x + tap_x) * self._choices.dtype.itemsize
        return self._inner.load_broadcast(self._inner.offset(self._window.w, place), self._choices.dtype)

    def _lanes(self, vector: int, stride: int, tap: int) -> ir.Value:
        """The lanes of a vector, elements of a line ``stride`` apart, of which ``tap`` reads inside of it."""
        inner, plane = self._inner, self._choices.plane
        numbers = range(vector * inner.lanes, (vector + 1) * inner.lanes)
        if plane is not None:
            together, extent = self._choices.tile.lines, plane.in_x
            columns = [number if together == 1 else number % extent for number in numbers]
            first = tap - plane.pad_x
            return self._constant(
                [
                    0 <= column * stride + first < extent and (together == 1 or number < together * extent)
                    for number, column in zip(numbers, columns, strict=True)
                ]
            )
        places = ir.Constant(inner.vector(I32), [I32(number * stride) for number in numbers])
        first_x = inner.add(self._window.first_x, tap)
        first_x, extent_x = (
            inner.splat(inner.builder.trunc(value, I32)) for value in (first_x, self._window.extent_x)
        )
        return inner.builder.icmp_unsigned("<", inner.builder.add(places, first_x), extent_x)

    def _constant(self, lanes: list[bool]) -> ir.Value:
        """A mask of which LLVM does not know what it is: it would turn it round, and take sums apart."""
        inner = self._inner
        if inner.target.isa != "avx512":
            return ir.Constant(ir.VectorType(I1, len(lanes)), [I1(int(lane)) for lane in lanes])
        bits = I32(sum(1 << number for number, lane in enumerate(lanes) if lane))
        bits = inner.builder.asm(ir.FunctionType(I32, [I32]), "", "=r,0", [bits], side_effect=False)
        whole = inner.builder.trunc(bits, ir.IntType(len(lanes)))
        return inner.builder.bitcast(whole, ir.VectorType(I1, len(lanes)))

    def _add_column(self, first_tap: int, column: _Column, sums: Grid) -> Grid:
        """``sums`` and the products of all lines by a column of taps."""
        inner, choices, window = self._inner, self._choices, self._window
        line = inner.offset(window.x, inner.mul(window.first_y, window.step))
        line = inner.element(line, inner.add(window.first_x, first_tap), choices.dtype)
        for number in range(choices.input_lines):
            used = [
                (row, tap_y)
                for row, tap_y in product(range(choices.tile.rows), range(choices.taps_y))
                if row * choices.tile.lines * choices.stride_y + tap_y == number
            ]
            if not used:
                pass
            elif choices.plane is not None:
                sums = self._add_known_line(choices.plane, number, line, column, used, sums)
            else:
                sums = self._add_line_if_inside(number, line, column, used, sums)
            line = inner.offset(line, window.step)
        return sums

    def _add_known_line(
        self,
        plane: Plane,
        number: int,
        line: ir.Value,
        column: _Column,
        used: list[tuple[int, int]],
        sums: Grid,
    ) -> Grid:
        """Line ``number`` of those that a register tile reads, and those in the same vector with it."""
        y = self._start * self._choices.stride_y - plane.pad_y + number
        together = self._choices.tile.lines
        inside = [0 <= y + index < plane.in_y for index in range(together)]
        if not any(inside):
            return sums
        if not all(inside):
            lanes = [
                lane < together * plane.in_x and inside[lane // plane.in_x]
                for lane in range(self._inner.lanes)
            ]
            column = column.limited(self._inner.builder, self._constant(lanes))
        return self._add_line(line, column, used, sums)

    def _add_line_if_inside(
        self, number: int, line: ir.Value, column: _Column, used: list[tuple[int, int]], sums: Grid
    ) -> Grid:
        inner, builder = self._inner, self._inner.builder
        y = inner.add(self._window.first_y, number)
        inside = builder.icmp_unsigned("<", y, self._window.extent_y)
        before = builder.block
        read, after = (inner.function.append_basic_block(name) for name in ("line", "line.end"))
        builder.cbranch(inside, read, after).set_weights(LIKELY)
        builder.position_at_end(read)
        found = self._add_line(line, column, used, sums)
        builder.branch(after)
        builder.position_at_end(after)
        merged = [list(totals) for totals in sums]
        for row in {row for row, _ in used}:
            for vector, (old, new) in enumerate(zip(sums[row], found[row], strict=True)):
                merged[row][vector] = phi = builder.phi(old.type)
                phi.add_incoming(old, before)
                phi.add_incoming(new, read)
        return merged

    def _add_line(self, line: ir.Value, column: _Column, used: list[tuple[int, int]], sums: Grid) -> Grid:
        """``sums`` and the products of a line by the taps of the rows ``used``."""
        stride = self._choices.stride_x
        found = [list(totals) for totals in sums]
        for vector, lanes in enumerate(column.lanes):
            guards = column.guards[vector] if column.guards else [None] * stride
            parts = [self._load(line, vector * stride + part, guard) for part, guard in enumerate(guards)]
            for number, counting in enumerate(lanes):
                value = parts[0] if stride == 1 else self._every_second(parts, number)
                for row, tap_y in used:
                    weight, total = column.weights[tap_y][number], found[row][vector]
                    found[row][vector] = self._add_product(value, weight, total, counting)
        return found

    def _load(self, line: ir.Value, number: int, guard: ir.Value | None) -> ir.Value:
        inner = self._inner
        mask = None if guard is None else Mask(I64(inner.lanes), guard)
        return inner.load(inner.offset(line, number * self._choices.vector_bytes), self._choices.dtype, mask)

    def _every_second(self, parts: list[ir.Value], first: int) -> ir.Value:
        lanes = self._inner.lanes
        order = ir.Constant(ir.VectorType(I32, lanes), [I32(2 * lane + first) for lane in range(lanes)])
        return self._inner.builder.shuffle_vector(*parts, order)

    def _add_product(self, value: ir.Value, weight: ir.Value, total: ir.Value, lanes: ir.Value) -> ir.Value:
        """``value * weight + total`` in some lanes, in the others ``total``."""
        inner, dtype = self._inner, self._choices.dtype
        if inner.target.isa == "avx512":
            # The mask becomes a part of the instruction.
            return inner.builder.select(lanes, multiply_add(inner, dtype, value, weight, total), total)
        value = inner.builder.select(lanes, value, inner.constant(0, dtype))
        return multiply_add(inner, dtype, value, weight, total)

    def write(self, sums: Grid, lines: ir.Value, columns: ir.Value, places: list[Place]) -> None:
        """Finishes the sums in registers and stores them."""
        inner, together = self._inner, self._choices.tile.lines
        masks = [inner.mask(inner.sub(columns, vector * inner.lanes)) for vector in range(len(sums[0]))]
        for row, totals in enumerate(sums):
            with inner.when(inner.less(I64(row * together), lines)):
                here = [place.row(inner, I64(row)) for place in places]
                if together > 1:
                    count = inner.minimum(inner.sub(lines, row * together), together)
                    masks = [inner.mask(inner.mul(count, columns))]
                for vector, total in enumerate(totals):
                    column = I64(vector * inner.lanes)
                    emit_epilogue(inner, self._choices.epilogue, total, here, column, masks[vector])

    def finish_in_memory(
        self,
        finish: ir.Function,
        sums: Grid,
        lines: ir.Value,
        columns: ir.Value,
        memory: ir.Value,
        places: list[Place],
    ) -> None:
        """The same where the epilogue takes many registers."""
        inner, choices = self._inner, self._choices
        tile = choices.tile
        for row, totals in enumerate(sums):
            for vector, total in enumerate(totals):
                offset = row * choices.row_bytes + vector * choices.vector_bytes
                inner.store(total, inner.offset(memory, offset), choices.dtype)
        lines = inner.minimum(lines, tile.rows * tile.lines)
        rows = inner.divide(lines, tile.lines)
        width = inner.minimum(inner.mul(columns, tile.lines), len(sums[0]) * tile.lanes)
        inner.builder.call(finish, [memory, rows, width, *place_values(places)])
        if tile.lines > 1:
            rest = inner.mul(inner.modulo(lines, tile.lines), columns)
            with inner.when(inner.less(0, rest)):
                memory = inner.offset(memory, inner.mul(rows, choices.row_bytes))
                last = place_values([place.row(inner, rows) for place in places])
                inner.builder.call(finish, [memory, I64(1), rest, *last])
