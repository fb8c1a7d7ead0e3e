"""Code that packs panels; see :mod:`onnxplan.kernels.cpu.pack` for the layout."""

from __future__ import annotations

from dataclasses import replace

from llvmlite import ir

from onnxplan.compiler.plan import Variant
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.emitter_core import Number
from onnxplan.kernels.cpu.llvm_types import I8, I32, I64, POINTER, size_of
from onnxplan.kernels.cpu.objects import ObjectCode, kernel_symbol
from onnxplan.kernels.cpu.registers import local_function

PART_BYTES = 16
"""What is loaded of a column at once to be transposed: more would take more code, and is hardly faster."""


@dataclass(frozen=True, slots=True)
class Panel:
    """``depth x columns`` elements from ``source`` on, steps in bytes, and where the panel goes."""

    target: ir.Value
    source: ir.Value
    depth: ir.Value
    columns: ir.Value
    depth_step: ir.Value
    column_step: ir.Value

    @property
    def values(self) -> list[ir.Value]:
        return [self.target, self.source, self.depth, self.columns, self.depth_step, self.column_step]


def panel_packer(emitter: Emitter, itemsize: int, lanes: int, vectors: int, kind: str) -> ir.Function:
    """A function ``(*Panel.values)`` in the module of ``emitter`` that packs one panel.

    ``kind`` is one of :func:`onnxplan.kernels.cpu.pack.access_kind`, with ``quads_`` before it for bytes that
    become quads.
    """
    if kind.startswith("quads_"):
        return quad_packer(emitter, lanes, vectors, kind.removeprefix("quads_"))
    inner = local_function(emitter, f"pack_{kind}", [POINTER, POINTER, I64, I64, I64, I64], lanes)
    panel = Panel(*inner.function.args)
    element = ir.IntType(8 * itemsize)
    if kind == "rows":
        _pack_rows(inner, panel, element, vectors)
    else:
        with inner.loop(0, vectors) as vector:
            _pack_group(inner, panel, element, vector, vectors, transpose=kind == "columns")
    inner.builder.ret_void()
    return inner.function


def _slot(
    inner: Emitter, panel: Panel, element: ir.IntType, depth: ir.Value, vector: Number, vectors: int
) -> ir.Value:
    size = element.width // 8 * inner.lanes
    return inner.offset(panel.target, inner.add(inner.mul(depth, vectors * size), inner.mul(vector, size)))


def _pack_rows(inner: Emitter, panel: Panel, element: ir.IntType, vectors: int) -> None:
    size = element.width // 8 * inner.lanes
    counts = [inner.sub(panel.columns, vector * inner.lanes) for vector in range(vectors)]
    zero = inner.fill(0, element)

    def row(depth: ir.Value, *, full: bool) -> None:
        source = inner.offset(panel.source, inner.mul(depth, panel.depth_step))
        for vector, count in enumerate(counts):
            slot = _slot(inner, panel, element, depth, vector, vectors)
            at = inner.offset(source, vector * size)
            if full:
                inner.store_stored(inner.load_stored(at, element), slot)
                continue
            with inner.branch(inner.less(0, count)) as (some, none):
                with some:
                    inner.store_stored(inner.load_stored(at, element, inner.mask(count)), slot)
                with none:
                    inner.store_stored(zero, slot)

    with inner.branch(inner.less(panel.columns, vectors * inner.lanes)) as (narrow, wide):
        with narrow, inner.loop(0, panel.depth) as depth:
            row(depth, full=False)
        with wide, inner.loop(0, panel.depth) as depth:
            row(depth, full=True)


def _pack_group(
    inner: Emitter, panel: Panel, element: ir.IntType, vector: ir.Value, vectors: int, *, transpose: bool
) -> None:
    """Packs the columns of one vector: squares of them by transposition, the rest one by one."""
    lanes, size = inner.lanes, element.width // 8
    count = inner.minimum(inner.sub(panel.columns, inner.mul(vector, lanes)), lanes)
    source = inner.offset(panel.source, inner.mul(panel.column_step, inner.mul(vector, lanes)))
    zero = inner.fill(0, element)
    side = _square(inner, element) if transpose else 1
    some = inner.less(0, count)
    done = inner.builder.select(some, inner.builder.and_(panel.depth, I64(-side)), I64(0))
    mask = inner.mask(count)
    offsets = _column_offsets(inner, panel, count) if transpose else None
    with inner.loop(0, done, side) as depth:
        first = inner.offset(source, inner.mul(depth, panel.depth_step))
        if offsets is None:
            rows = [inner.load_strided_stored(first, panel.column_step, element, mask)]
        else:
            rows = _rows_of_columns(inner, first, offsets, element)
        for number, row in enumerate(rows):
            slot = _slot(inner, panel, element, inner.add(depth, number), vector, vectors)
            inner.store_stored(inner.builder.select(mask.bits, row, zero), slot)
    with inner.loop(done, panel.depth) as depth:
        at = inner.offset(source, inner.mul(depth, panel.depth_step))
        slot = _slot(inner, panel, element, depth, vector, vectors)
        inner.store_stored(zero, slot)
        with inner.loop(0, count) as column:
            place = inner.offset(at, inner.mul(column, panel.column_step))
            value = inner.builder.load(place, align=size, typ=element)
            inner.builder.store(value, inner.offset(slot, inner.mul(column, size)), align=size)


def _square(inner: Emitter, element: ir.IntType) -> int:
    """Rows and columns of a square that is transposed within a vector."""
    return min(PART_BYTES // size_of(element), inner.lanes)


def _column_offsets(inner: Emitter, panel: Panel, count: ir.Value) -> ir.Value:
    """Where the columns of a vector begin, those beyond ``count`` where the last one does.

    They stand in memory, as they are more than there are registers.
    """
    offsets = inner.stack(I64, inner.lanes)
    with inner.loop(0, inner.lanes) as lane:
        column = inner.minimum(lane, inner.sub(count, 1))
        place = inner.offset(offsets, inner.mul(lane, 8))
        inner.builder.store(inner.mul(column, panel.column_step), place, align=8)
    return offsets


def _rows_of_columns(
    inner: Emitter, first: ir.Value, offsets: ir.Value, element: ir.IntType
) -> list[ir.Value]:
    """The first elements of a vector's columns, which lie at ``offsets``, as rows: a square's.

    A vector is joined from parts of columns that many apart, so that squares within it are transposed.
    """
    lanes, side = inner.lanes, _square(inner, element)
    block = []
    for number in range(side):
        parts = []
        for column in range(number, lanes, side):
            offset = inner.builder.load(inner.offset(offsets, 8 * column), align=8, typ=I64)
            parts.append(inner.with_lanes(side).load_stored(inner.offset(first, offset), element))
        while len(parts) > 1:
            parts = [inner.join(*parts[start : start + 2]) for start in range(0, len(parts), 2)]
        block.append(parts[0])
    starts = [lane - lane % side + lane % side // 2 + lane % 2 * lanes for lane in range(lanes)]
    mask_type = ir.VectorType(I32, lanes)
    masks = [ir.Constant(mask_type, [I32(start + half) for start in starts]) for half in (0, side // 2)]
    for _ in range(side.bit_length() - 1):
        block = [
            inner.builder.shuffle_vector(block[row], block[row + side // 2], mask)
            for row in range(side // 2)
            for mask in masks
        ]
    return block


def quad_packer(emitter: Emitter, lanes: int, vectors: int, kind: str) -> ir.Function:
    """As :func:`panel_packer`, of bytes: a row of the panel holds four of each column."""
    whole_columns = panel_packer(emitter, 4, lanes, vectors, "columns") if kind == "columns" else None
    inner = local_function(emitter, f"pack_quads_{kind}", [POINTER, POINTER, I64, I64, I64, I64], lanes)
    panel = Panel(*inner.function.args)
    full = inner.divide(panel.depth, 4)
    if whole_columns is None:
        with inner.loop(0, full) as quad:
            _pack_quads(inner, panel, quad, vectors, kind)
    else:
        # Four bytes of a column are one element.
        quads = replace(panel, depth=full, depth_step=I64(4))
        inner.builder.call(whole_columns, quads.values)
    rest = inner.modulo(panel.depth, 4)
    with inner.when(inner.less(0, rest)):
        _pack_quads(inner, panel, full, vectors, kind, rest)
    inner.builder.ret_void()
    return inner.function


def _pack_quads(
    inner: Emitter, panel: Panel, quad: ir.Value, vectors: int, kind: str, rest: ir.Value | None = None
) -> None:
    """Row ``quad`` of the panel, of which there are ``rest`` bytes a column, or all four."""
    source = inner.offset(panel.source, inner.mul(panel.depth_step, inner.mul(quad, 4)))
    for vector in range(vectors):
        slot = _slot(inner, panel, I32, quad, vector, vectors)
        first = vector * inner.lanes
        at = inner.offset(source, inner.mul(panel.column_step, first))
        count = inner.sub(panel.columns, first)
        with inner.branch(inner.less(0, count)) as (some, none):
            with none:
                inner.store_stored(inner.fill(0, I32), slot)
            with some, inner.branch(inner.less(count, inner.lanes)) as (part, whole):
                with part:
                    mask = inner.mask(count)
                    inner.store_stored(_quad(inner, panel, at, kind, mask, rest), slot)
                with whole:
                    inner.store_stored(_quad(inner, panel, at, kind, None, rest), slot)


def _quad(
    inner: Emitter, panel: Panel, at: ir.Value, kind: str, mask: Mask | None, rest: ir.Value | None
) -> ir.Value:
    """Four bytes from ``at`` on of a vector of columns, those beyond ``rest`` zero."""
    builder, value = inner.builder, inner.fill(0, I32)
    for number in range(4):
        row: ir.Value = I64(number)
        if rest is not None:
            row = builder.select(inner.less(number, rest), row, I64(0))
        place = inner.offset(at, inner.mul(panel.depth_step, row))
        if kind == "rows":
            loaded = inner.load_stored(place, I8, mask)
        else:
            loaded = inner.load_strided_stored(place, panel.column_step, I8, mask)
        part = builder.shl(builder.zext(loaded, inner.vector(I32)), inner.fill(8 * number, I32))
        if rest is not None:
            part = builder.select(inner.less(number, rest), part, inner.fill(0, I32))
        value = builder.or_(value, part)
    return value


def build_pack(variant: Variant, target: Target) -> ObjectCode:
    """The kernel of :func:`onnxplan.kernels.cpu.pack.pack`'s step."""
    itemsize, lanes, vectors, kind = variant
    assert isinstance(itemsize, int)
    assert isinstance(lanes, int)
    assert isinstance(vectors, int)
    assert isinstance(kind, str)
    emitter = Emitter.kernel(kernel_symbol("pack", variant), target, lanes)
    packer = panel_packer(emitter, itemsize, lanes, vectors, kind)
    names = (
        "units", "per_tile", "panels", "columns", "depth", "depth_step", "column_step", "panel_step", "axes"
    )  # fmt: skip
    word = {name: emitter.parameter(number) for number, name in enumerate(names)}
    source, packed = emitter.operand(0), emitter.operand(1)
    axes = emitter.offset(emitter.function.args[1], 8 * len(names))
    width = lanes * vectors
    start = emitter.mul(emitter.first, word["per_tile"])
    stop = emitter.minimum(emitter.mul(emitter.last, word["per_tile"]), word["units"])
    with emitter.loop(start, stop) as unit:
        panel = emitter.modulo(unit, word["panels"])
        outer = emitter.divide(unit, word["panels"])
        moved = axis_offsets(emitter, axes, word["axes"], outer, 2)
        column = emitter.mul(panel, width)
        columns = emitter.minimum(emitter.sub(word["columns"], column), width)
        from_ = emitter.offset(source, emitter.add(moved[0], emitter.mul(column, word["column_step"])))
        to = emitter.offset(packed, emitter.add(moved[1], emitter.mul(panel, word["panel_step"])))
        values = Panel(to, from_, word["depth"], columns, word["depth_step"], word["column_step"]).values
        emitter.builder.call(packer, values)
    return emitter.finish(light=not kind.startswith("quads_"))


def axis_offsets(
    emitter: Emitter, axes: ir.Value, count: ir.Value, index: ir.Value, operands: int
) -> list[ir.Value]:
    """Offsets in bytes of position ``index`` (row-major) of axes described in memory, one an operand.

    ``axes`` points at ``count`` records of ``1 + operands`` words: the extent, and each operand's step.
    """
    record = 8 * (1 + operands)
    rest = emitter.variable(index)
    offsets = [emitter.variable(I64(0)) for _ in range(operands)]
    with emitter.loop(0, count) as number:
        axis = emitter.offset(axes, emitter.mul(emitter.sub(emitter.sub(count, 1), number), record))
        words = [
            emitter.builder.load(emitter.offset(axis, 8 * word), align=8, typ=I64)
            for word in range(1 + operands)
        ]
        position = emitter.modulo(rest.value, words[0])
        rest.value = emitter.divide(rest.value, words[0])
        for offset, step in zip(offsets, words[1:], strict=True):
            offset.value = emitter.add(offset.value, emitter.mul(position, step))
    return [offset.value for offset in offsets]
