"""Code of :mod:`onnxplan.kernels.cpu.few_rows`: the walk over tiles, matrices and groups of columns."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.epilogue import Epilogue
from onnxplan.kernels.cpu.epilogue_code import Place, place_values, tile_finisher
from onnxplan.kernels.cpu.few_rows import WORDS
from onnxplan.kernels.cpu.objects import ObjectCode, compile_module, kernel_symbol
from onnxplan.kernels.cpu.pack_code import axis_offsets
from onnxplan.kernels.cpu.tiling import sum_dtype


@dataclass(frozen=True, slots=True)
class FewRows:
    """What is compiled in: ``rows`` are computed at once."""

    rows: int
    a_dtype: DType
    b_dtype: DType
    epilogue: Epilogue

    @property
    def sums(self) -> DType:
        return sum_dtype(self.epilogue.accumulator)


@dataclass(frozen=True, slots=True)
class Group:
    """Some columns of a product: row 0 of A, B at their first one, how many there are, their places."""

    a: ir.Value
    b: ir.Value
    columns: ir.Value
    places: list[Place]


Word = dict[str, ir.Value]
Finish = Callable[[ir.Value, ir.Value, list[Place]], None]
"""``(rows, columns, places)``: runs the epilogue over the sums at the start of the scratch memory."""
Walk = Callable[[Word, Group, Finish], None]


def build_few_rows(
    family: str,
    variant: Variant,
    target: Target,
    group: Callable[[FewRows], int],
    prepare: Callable[[Emitter, FewRows], Walk],
) -> ObjectCode:
    """The kernel of a step of :func:`onnxplan.kernels.cpu.few_rows.emit_few_rows`.

    ``group(choices)`` is how many columns ``prepare(emitter, choices)(word, group, finish)`` computes, whose
    rows of sums are as many elements apart.
    """
    rows, a_label, b_label, lanes, epilogue_variant = variant
    assert isinstance(rows, int)
    assert isinstance(lanes, int)
    assert isinstance(epilogue_variant, tuple)
    epilogue = Epilogue.from_variant(epilogue_variant)
    a_dtype, b_dtype = (DType.from_label(str(label)) for label in (a_label, b_label))
    choices = FewRows(rows, a_dtype, b_dtype, epilogue)
    emitter = Emitter.kernel(kernel_symbol(family, variant), target, lanes)
    word = {name: emitter.parameter(number) for number, name in enumerate(WORDS)}
    compute = prepare(emitter, choices)
    finisher = tile_finisher(emitter, epilogue, lanes, group(choices) * choices.sums.itemsize)

    def finish(count: ir.Value, columns: ir.Value, places: list[Place]) -> None:
        emitter.builder.call(finisher, [emitter.scratch, count, columns, *place_values(places)])

    _walk(emitter, word, choices, group(choices), lambda each: compute(word, each, finish))
    emitter.builder.ret_void()
    return compile_module(emitter.module, emitter.function.name, target, light=True)


def _walk(
    emitter: Emitter, word: Word, choices: FewRows, width: int, compute: Callable[[Group], None]
) -> None:
    """Calls ``compute`` for each group of ``width`` columns of each matrix of each tile."""
    operands = len(choices.epilogue.dtypes)
    steps = [
        (emitter.parameter(len(WORDS) + 2 * number), emitter.parameter(len(WORDS) + 2 * number + 1))
        for number in range(operands)
    ]
    axes = emitter.offset(emitter.function.args[1], 8 * (len(WORDS) + 2 * operands))
    with emitter.loop(emitter.first, emitter.last) as number:
        first = emitter.mul(emitter.modulo(number, word["column_tiles"]), word["tile_columns"])
        last = emitter.minimum(emitter.add(first, word["tile_columns"]), word["columns"])
        first_batch = emitter.mul(emitter.divide(number, word["column_tiles"]), word["tile_batch"])
        last_batch = emitter.minimum(emitter.add(first_batch, word["tile_batch"]), word["batch"])
        with emitter.loop(first_batch, last_batch) as batch:
            a_offset, b_offset, *offsets = axis_offsets(emitter, axes, word["axes"], batch, 2 + operands)
            a = emitter.offset(emitter.operand(0), a_offset)
            b = emitter.offset(emitter.operand(1), b_offset)
            places = [
                Place(emitter.offset(emitter.operand(2 + i), offset), *steps[i])
                for i, offset in enumerate(offsets)
            ]
            with emitter.loop(first, last, width) as column:
                compute(
                    Group(
                        a,
                        emitter.offset(b, emitter.mul(column, word["b_column"])),
                        emitter.minimum(emitter.sub(last, column), width),
                        [place.column(emitter, column) for place in places],
                    )
                )
