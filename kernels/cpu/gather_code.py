"""Code of the Gather kernel; see :mod:`onnxplan.kernels.cpu.gather`."""

from __future__ import annotations

from functools import reduce

from llvmlite import ir

from onnxplan.compiler.plan import Variant
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.llvm_types import DOUBLE, FLOAT, I1, I32, I64, zeros
from onnxplan.kernels.cpu.objects import ObjectCode
from onnxplan.kernels.cpu.pack_code import axis_offsets

_NAMES = (
    "units", "per_tile", "blocks", "block", "count", "data_step", "index_step", "out_step",
    "gather_step", "extent", "run", "chunks", "chunk", "axes",
)  # fmt: skip

# Runs of as many bytes or more are fetched while the one before is copied.
FETCHED_AHEAD = 1024
# Elements that stand side by side are copied so many at a time.
UNROLL = 4


def build_gather(variant: Variant, target: Target) -> ObjectCode:
    """``variant``: bytes of an element that is copied at once (0: runs of any length), bytes of an index, and
    whether an instruction gathers a vector of elements.

    Without indices (0 bytes) the output is filled with zeros.
    """
    width, index_size, vectors = variant
    assert isinstance(width, int)
    assert isinstance(index_size, int)
    emitter = Emitter.kernel("gather", target, 1)
    word = {name: emitter.parameter(number) for number, name in enumerate(_NAMES)}
    axes = emitter.offset(emitter.function.args[1], 8 * len(_NAMES))
    start = emitter.mul(emitter.first, word["per_tile"])
    stop = emitter.minimum(emitter.mul(emitter.last, word["per_tile"]), word["units"])
    with emitter.loop(start, stop) as unit:
        chunk = emitter.mul(emitter.modulo(unit, word["chunks"]), word["chunk"])
        length = emitter.minimum(emitter.sub(word["run"], chunk), word["chunk"])
        rest = emitter.divide(unit, word["chunks"])
        first = emitter.mul(emitter.modulo(rest, word["blocks"]), word["block"])
        last = emitter.minimum(emitter.add(first, word["block"]), word["count"])
        outer = axis_offsets(emitter, axes, word["axes"], emitter.divide(rest, word["blocks"]), 3)
        data = emitter.offset(emitter.operand(0), emitter.add(outer[0], chunk))
        index = emitter.offset(emitter.operand(1), outer[1])
        output = emitter.offset(emitter.operand(2), emitter.add(outer[2], chunk))
        run = _Run(data, index, output, first, last, length)
        if width and index_size:
            with emitter.branch(_adjoins(emitter, word, width, index_size, bool(vectors))) as (
                then,
                otherwise,
            ):
                with then:
                    _copy_elements(emitter, word, run, width, index_size, vectors=bool(vectors))
                with otherwise:
                    _copy_runs(emitter, word, run, width, index_size)
        else:
            _copy_runs(emitter, word, run, width, index_size)
    return emitter.finish()


@dataclass(frozen=True, slots=True)
class _Run:
    """Indices from number ``first`` up to ``last``, each of a run of ``length`` bytes, and their operands."""

    data: ir.Value
    index: ir.Value
    output: ir.Value
    first: ir.Value
    last: ir.Value
    length: ir.Value


def _copy_runs(emitter: Emitter, word: dict[str, ir.Value], run: _Run, width: int, index_size: int) -> None:
    with emitter.loop(run.first, run.last) as number:
        to = emitter.offset(run.output, emitter.mul(number, word["out_step"]))
        if index_size:
            if not width:
                _prefetch_next(emitter, word, run, number, index_size)
            source = _source(emitter, word, run.data, run.index, number, index_size)
            _copy(emitter, to, source, run.length, width)
        else:
            _clear(emitter, to, run.length, width)


def _prefetch_next(
    emitter: Emitter, word: dict[str, ir.Value], run: _Run, number: ir.Value, index_size: int
) -> None:
    """Asks for the run after ``number``, if it is long: hardware does not foresee where it lies."""
    following = emitter.minimum(emitter.add(number, 1), emitter.sub(run.last, 1))
    with emitter.when(emitter.less(FETCHED_AHEAD - 1, run.length)):
        source = _source(emitter, word, run.data, run.index, following, index_size)
        with emitter.loop(0, run.length, 64) as place:
            emitter.prefetch(emitter.offset(source, place))


def _adjoins(
    emitter: Emitter, word: dict[str, ir.Value], width: int, index_size: int, vectors: bool
) -> ir.Value:
    """Do indices and what they fetch stand side by side, and is all fetched from one line of the data?

    That need not be for ``vectors``.
    """
    steps = [("index_step", index_size), ("out_step", width)]
    if not vectors:
        steps.append(("data_step", 0))
    equal = [emitter.builder.icmp_signed("==", word[name], I64(step)) for name, step in steps]
    return reduce(emitter.builder.and_, equal)


def _copy_elements(
    emitter: Emitter, word: dict[str, ir.Value], run: _Run, width: int, index_size: int, *, vectors: bool
) -> None:
    """Copies elements for which :func:`_adjoins` holds, several at a time."""

    def copy(number: ir.Value) -> None:
        at = emitter.offset(run.index, emitter.mul(number, index_size))
        moved = emitter.mul(_position(emitter, at, index_size, word["extent"]), word["gather_step"])
        if vectors:
            moved = emitter.add(moved, emitter.mul(number, word["data_step"]))
        to = emitter.offset(run.output, emitter.mul(number, width))
        _copy(emitter, to, emitter.offset(run.data, moved), I64(width), width)

    count = emitter.sub(run.last, run.first)
    group = 64 // width if vectors else UNROLL
    stop = emitter.add(run.first, emitter.mul(emitter.divide(count, group), group))
    with emitter.loop(run.first, stop, group) as start:
        if vectors:
            _copy_vector(emitter.with_lanes(group), word, run, start, width, index_size)
        else:
            for part in range(group):
                copy(emitter.add(start, part))
    with emitter.loop(stop, run.last) as number:
        copy(number)


def _copy_vector(
    emitter: Emitter, word: dict[str, ir.Value], run: _Run, start: ir.Value, width: int, index_size: int
) -> None:
    """As many elements from number ``start`` on as there are lanes."""
    builder = emitter.builder
    element = ir.IntType(8 * index_size)
    index = emitter.load_stored(emitter.offset(run.index, emitter.mul(start, index_size)), element)
    if index_size > 4:
        index = builder.trunc(index, emitter.vector(I32))
    extent, step, apart = (
        emitter.splat(builder.trunc(word[name], I32)) for name in ("extent", "gather_step", "data_step")
    )
    zero = emitter.fill(0, I32)
    last = builder.sub(extent, emitter.fill(1, I32))
    index = builder.select(builder.icmp_signed("<", index, zero), builder.add(index, extent), index)
    index = builder.select(builder.icmp_signed("<", index, zero), zero, index)
    index = builder.select(builder.icmp_signed("<", last, index), last, index)
    name, real = ("dps", FLOAT) if width == 4 else ("dpd", DOUBLE)
    vector = emitter.vector(real)
    data = emitter.offset(run.data, emitter.mul(start, word["data_step"]))
    places = builder.add(builder.mul(index, step), builder.mul(emitter.lane_numbers(I32), apart))
    arguments = [zeros(vector), data, places, emitter.fill(1, I1), I32(1)]
    found = emitter.intrinsic(f"llvm.x86.avx512.mask.gather.{name}.512", vector, arguments)
    emitter.store_stored(found, emitter.offset(run.output, emitter.mul(start, width)))


def _source(
    emitter: Emitter,
    word: dict[str, ir.Value],
    data: ir.Value,
    index: ir.Value,
    number: ir.Value,
    index_size: int,
) -> ir.Value:
    """Address of the run that the ``number``-th index points to."""
    at = emitter.offset(index, emitter.mul(number, word["index_step"]))
    moved = emitter.mul(_position(emitter, at, index_size, word["extent"]), word["gather_step"])
    return emitter.offset(data, emitter.add(moved, emitter.mul(number, word["data_step"])))


def _position(emitter: Emitter, address: ir.Value, index_size: int, extent: ir.Value) -> ir.Value:
    """The index at ``address``, counted from the end if negative, moved into range."""
    builder = emitter.builder
    index = builder.load(address, align=index_size, typ=ir.IntType(8 * index_size))
    if index_size < 8:
        index = builder.sext(index, I64)
    index = builder.select(emitter.less(index, 0), builder.add(index, extent), index)
    return emitter.minimum(emitter.maximum(index, 0), emitter.sub(extent, 1))


def _copy(emitter: Emitter, to: ir.Value, source: ir.Value, length: ir.Value, width: int) -> None:
    if width:
        element = emitter.builder.load(source, align=1, typ=ir.IntType(8 * width))
        emitter.builder.store(element, to, align=1)
    else:
        emitter.copy_bytes(to, source, length)


def _clear(emitter: Emitter, to: ir.Value, length: ir.Value, width: int) -> None:
    if width:
        emitter.builder.store(ir.IntType(8 * width)(0), to, align=1)
    else:
        emitter.clear_bytes(to, length)
