"""The register kernels of depthwise convolution: sums of some positions by some channel vectors."""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu import convert
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.epilogue import Epilogue
from onnxplan.kernels.cpu.epilogue_code import PLACE_TYPES, emit_epilogue, places_of
from onnxplan.kernels.cpu.llvm_types import I64, POINTER
from onnxplan.kernels.cpu.quad_code import add_product
from onnxplan.kernels.cpu.registers import Grid, carry_loop, local_function, multiply_add, settled, zeros
from onnxplan.kernels.cpu.tiling import RegisterTile, sum_dtype


@dataclass(frozen=True, slots=True)
class Choices:
    """What is compiled in.

    ``tile.rows`` is the number of positions computed at once; ``taps`` and ``stride`` those along x if they
    are unrolled, else 0.
    """

    x_dtype: DType
    w_dtype: DType
    tile: RegisterTile
    taps: int
    stride: int
    epilogue: Epilogue

    @property
    def sums(self) -> DType:
        return sum_dtype(self.epilogue.accumulator)

    def multiplies_words(self, target: Target) -> bool:
        """Are there faster instructions for numbers as small as these than those for 32-bit integers?"""
        small = self.x_dtype.itemsize == self.w_dtype.itemsize == 1 and self.sums is DType.INT32
        return small and target.isa in ("avx512", "avx2")

    @property
    def row_bytes(self) -> int:
        return self.tile.width * self.sums.itemsize

    @property
    def w_row_bytes(self) -> int:
        """Bytes from a tap's weights to the next tap's."""
        return self.tile.width * self.w_dtype.itemsize


@dataclass(frozen=True, slots=True)
class Window:
    """Arguments of a register kernel.

    ``lines`` points at ``count`` pairs of offsets into ``x`` and ``w``, each the start of a line. Positions
    of ``x`` are ``step`` bytes apart, and there are ``extent`` of them in a line; the first tap of the first
    output position reads number ``first``. Where there are none, ``zeros`` are read. A line of ``w`` is
    ``taps`` rows of a tile's width; what taps and output positions read is ``dilation`` and ``stride``
    positions apart. ``columns`` is how many channels there are, ``tile`` memory for sums.
    """

    lines: ir.Value
    count: ir.Value
    x: ir.Value
    step: ir.Value
    extent: ir.Value
    first: ir.Value
    zeros: ir.Value
    w: ir.Value
    taps: ir.Value
    dilation: ir.Value
    stride: ir.Value
    columns: ir.Value
    tile: ir.Value

    @property
    def values(self) -> list[ir.Value]:
        return [getattr(self, name) for name in self.__slots__]


WINDOW_TYPES = [POINTER, I64, POINTER, I64, I64, I64, POINTER, POINTER, I64, I64, I64, I64, POINTER]


def register_kernel(
    emitter: Emitter, choices: Choices, positions: int, vectors: int, finish: ir.Function, *, masked: bool
) -> ir.Function:
    """The register kernel for ``positions`` positions and ``vectors`` vectors of channels."""
    operands = len(choices.epilogue.dtypes)
    name = f"core_{positions}x{vectors}{'_masked' if masked else ''}"
    inner = local_function(emitter, name, WINDOW_TYPES + PLACE_TYPES * operands, choices.tile.lanes)
    window = Window(*inner.function.args[: len(WINDOW_TYPES)])
    place_arguments = list(inner.function.args[len(WINDOW_TYPES) :])
    mask = inner.mask(window.columns) if masked else None
    sums = _sums(inner, choices, window, positions, vectors, mask)
    if choices.epilogue.is_cheap:
        places = places_of(place_arguments)
        for i in range(positions):
            here = [place.row(inner, I64(i)) for place in places]
            for j in range(vectors):
                emit_epilogue(inner, choices.epilogue, sums[i][j], here, I64(j * choices.tile.lanes), mask)
    else:
        for i in range(positions):
            for j in range(vectors):
                offset = i * choices.row_bytes + j * choices.tile.lanes * choices.sums.itemsize
                inner.store(sums[i][j], inner.offset(window.tile, offset), choices.sums)
        columns = window.columns if masked else I64(vectors * choices.tile.lanes)
        inner.builder.call(finish, [window.tile, I64(positions), columns, *place_arguments])
    inner.builder.ret_void()
    return inner.function


def _sums(
    inner: Emitter, choices: Choices, window: Window, positions: int, vectors: int, mask: Mask | None
) -> Grid:
    """The sums over all listed lines and their taps."""

    def line(number: ir.Value, _: list[ir.Value], carried: Grid) -> tuple[list[ir.Value], Grid]:
        entry = inner.offset(window.lines, inner.mul(number, 16))
        x_offset, w_offset = (
            inner.builder.load(inner.offset(entry, word), align=8, typ=I64) for word in (0, 8)
        )
        x, w = inner.offset(window.x, x_offset), inner.offset(window.w, w_offset)
        if choices.taps:
            return [], _unrolled_line(inner, choices, window, x, w, carried, mask)

        def tap(number: ir.Value, _: list[ir.Value], sums: Grid) -> tuple[list[ir.Value], Grid]:
            first = inner.add(window.first, inner.mul(number, window.dilation))
            weights = inner.offset(w, inner.mul(number, choices.w_row_bytes))
            return [], _tap(inner, choices, window, x, weights, first, sums, mask)

        return carry_loop(inner, window.taps, [], carried, tap)

    start = zeros(inner, choices.sums, positions, vectors)
    return carry_loop(inner, window.count, [], start, line)[1]


def _load(
    inner: Emitter, choices: Choices, pointer: ir.Value, vector: int, dtype: DType, mask: Mask | None
) -> ir.Value:
    """A vector of channels in the type of the sums."""
    value = inner.load(inner.offset(pointer, vector * choices.tile.lanes * dtype.itemsize), dtype, mask)
    return convert.cast(inner, dtype, choices.sums, value)


def _weights(inner: Emitter, choices: Choices, pointer: ir.Value, vector: int) -> ir.Value:
    """A vector of weights as :func:`_add_product` takes them."""
    value = _load(inner, choices, pointer, vector, choices.w_dtype, None)
    if choices.multiplies_words(inner.target) and choices.x_dtype.kind == "i":
        return inner.builder.and_(value, inner.constant(0xFFFF, choices.sums))
    return value


def _add_product(
    inner: Emitter, choices: Choices, value: ir.Value, weight: ir.Value, total: ir.Value
) -> ir.Value:
    if choices.multiplies_words(inner.target):
        return add_product(inner, value, weight, total)
    return multiply_add(inner, choices.sums, value, weight, total)


def _place(inner: Emitter, window: Window, x: ir.Value, number: ir.Value) -> ir.Value:
    """Address of position ``number`` of the line ``x``, or of zeros."""
    inside = inner.builder.icmp_unsigned("<", number, window.extent)
    return inner.builder.select(inside, inner.offset(x, inner.mul(number, window.step)), window.zeros)


def _unrolled_line(
    inner: Emitter,
    choices: Choices,
    window: Window,
    x: ir.Value,
    w: ir.Value,
    sums: Grid,
    mask: Mask | None,
) -> Grid:
    """All taps of a line; what several positions read is loaded once."""
    result = [list(row) for row in sums]
    vectors = range(len(sums[0]))
    weights: Grid = []
    for tap in range(choices.taps):
        row = inner.offset(w, tap * choices.w_row_bytes)
        weights.append([_weights(inner, choices, row, vector) for vector in vectors])
    for number in range((len(sums) - 1) * choices.stride + choices.taps):
        place = _place(inner, window, x, inner.add(window.first, number))
        values = [_load(inner, choices, place, vector, choices.x_dtype, mask) for vector in vectors]
        for position, row in enumerate(result):
            tap = number - position * choices.stride
            if 0 <= tap < choices.taps:
                for vector in vectors:
                    row[vector] = _add_product(
                        inner, choices, values[vector], weights[tap][vector], row[vector]
                    )
        result = [[settled(inner, total) for total in row] for row in result]
    return result


def _tap(
    inner: Emitter,
    choices: Choices,
    window: Window,
    x: ir.Value,
    w: ir.Value,
    first: ir.Value,
    sums: Grid,
    mask: Mask | None,
) -> Grid:
    """One tap of all positions; the first of them reads position ``first``."""
    weights = [_weights(inner, choices, w, vector) for vector in range(len(sums[0]))]
    result: Grid = []
    for number, row in enumerate(sums):
        place = _place(inner, window, x, inner.add(first, inner.mul(window.stride, number)))
        values = [_load(inner, choices, place, vector, choices.x_dtype, mask) for vector in range(len(row))]
        result.append(
            [
                _add_product(inner, choices, value, weight, old)
                for value, weight, old in zip(values, weights, row, strict=True)
            ]
        )
    return result
