"""CUDA C of reductions and of what mixes them with elementwise work (softmax, normalisations).

One pass over the region for each depth of reductions (:mod:`onnxplan.kernels.phases`), values being read
again from the caches. Each thread reduces its points in order, then threads of a kept point are combined in
an order that is fixed: results do not depend on timing.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import REDUCTIONS, Expression, Instruction
from onnxplan.compiler.target import Target
from onnxplan.kernels.cuda.block_form import BlockForm, declare_shared, declare_threads, exchange
from onnxplan.kernels.cuda.expression_code import Names, literal_of, statements
from onnxplan.kernels.cuda.indexing import declare_axes, offsets
from onnxplan.kernels.cuda.source import KernelSource, KernelText
from onnxplan.kernels.phases import Phase, reduction_identity, schedule
from onnxplan.kernels.scalar import cuda_expression
from onnxplan.kernels.scalar_cuda import compute_type, loaded, stored


def build_reduce(variant: Any, target: Target) -> KernelSource:
    """``variant`` is ``(threads, form, columns, split, expression, labels, numbers, kept rank, region rank,
    index type)``.

    Form and columns are those of :class:`~onnxplan.kernels.cuda.block_form.BlockForm`. Operands are the
    inputs that are read, coordinates (label ``index``, they have strides but no pointer) and outputs;
    ``numbers`` are the expression's numbers of inputs and coordinates. Parameters: kept points, points of
    the region, axes of both; with ``split`` those of ``declare_threads``.
    """
    return _Kernel(*variant).source()


class _Kernel:
    def __init__(
        self,
        threads: int,
        form: str,
        columns: int,
        split: bool,
        expression: Expression,
        labels: tuple[str, ...],
        numbers: tuple[int, ...],
        kept_rank: int,
        region_rank: int,
        index: str,
    ) -> None:
        self._form, self._expression, self._labels = BlockForm(form, threads, columns), expression, labels
        self._region_rank, self._index = region_rank, index
        self._plan = schedule(expression, cache=False)
        self._flags = expression.reduced()
        self._first_output = len(numbers)
        self._places = {
            (label == "index", number): place
            for place, (label, number) in enumerate(zip(labels, numbers, strict=False))
        }
        self._kernel = kernel = KernelText(threads)
        for place, label in enumerate(labels):
            if label != "index":
                kernel.operand(f"x{place}", DType.from_label(label), written=place >= self._first_output)
        for name in ("columns", "points"):
            kernel.parameter(name, index)
        declare_axes(kernel, "kept", kept_rank, len(labels), index)
        declare_axes(kernel, "region", region_rank, len(labels), index)
        declare_threads(kernel, self._form, index, split=split)
        operands = range(len(labels))
        kernel.line(*offsets("kept", kept_rank, operands, index, "(active ? column : 0)", "base"))
        if split:
            kernel.line(*(f"base{place} += part * part_stride;" for place in operands[self._first_output :]))
        declare_shared(kernel, self._form, 1)

    def source(self) -> KernelSource:
        known: Names = {}
        self._evaluate_reduced(known)
        again = False
        for phase in self._plan.phases:
            self._pass(phase, known)
            for position in phase.reductions:
                part = known[position] = f"part{position}"
                kind = compute_type(self._expression.instructions[position].dtype)
                merge = functools.partial(self._merge, position)
                exchange(self._kernel, self._form, [(kind, part)], merge, again=again)
                again = True
            self._evaluate_reduced(known)
        lines = [
            self._store(place, output, known, f"base{place}")
            for place, output in enumerate(self._expression.outputs, self._first_output)
            if self._flags[output]
        ]
        if lines:
            self._kernel.line("if (active && lane == 0) {", *lines, "}")
        return self._kernel.source("reduce")

    def _pass(self, phase: Phase, known: Names) -> None:
        """A loop over the region: reductions are in ``part{position}`` then."""
        kernel, index, instructions = self._kernel, self._index, self._expression.instructions
        for position in phase.reductions:
            dtype = instructions[position].dtype
            identity = literal_of(reduction_identity(instructions[position].op, dtype), dtype)
            kernel.line(f"{compute_type(dtype)} part{position} = {identity};")
        operands = range(len(self._labels))
        starts = [f"base{place}" for place in operands]
        names = dict(known)
        body = statements(self._expression, phase.roots, names, self._leaf)
        for position in phase.reductions:
            value = names[instructions[position].arguments[0]]
            body.append(f"part{position} = {self._combined(position, f'part{position}', value)};")
        for number in phase.outputs:
            place = self._first_output + number
            body.append(self._store(place, self._expression.outputs[number], names, f"at{place}"))
        kernel.line(
            "#pragma unroll 4",
            f"for ({index} point = start + lane; point < last; point += {self._form.lanes}) {{",
            *offsets("region", self._region_rank, operands, index, "point", "at", starts),
            *body,
            "}",
        )

    def _leaf(self, instruction: Instruction) -> str:
        place = self._places[instruction.op == "index", instruction.arguments[0]]
        if instruction.op == "index":
            return f"at{place}"
        return loaded(DType.from_label(self._labels[place]), f"x{place}[at{place}]")

    def _store(self, place: int, position: int, names: Names, offset: str) -> str:
        return f"x{place}[{offset}] = {stored(DType.from_label(self._labels[place]), names[position])};"

    def _combined(self, position: int, a: str, b: str) -> str:
        instruction = self._expression.instructions[position]
        return cuda_expression(_COMBINE[instruction.op], instruction.dtype, instruction.dtype, a, b)

    def _merge(self, position: int, others: Sequence[str]) -> list[str]:
        part = f"part{position}"
        return [f"{part} = {self._combined(position, part, others[0])};"]

    def _evaluate_reduced(self, known: Names) -> None:
        """Declares what hangs on constants and known reductions only."""
        for position, instruction in enumerate(self._expression.instructions):
            if position in known or not self._flags[position] or instruction.op in REDUCTIONS:
                continue
            if all(argument in known for argument in instruction.operands):
                self._kernel.line(*statements(self._expression, [position], known, self._leaf))


_COMBINE = {"reduce_sum": "add", "reduce_prod": "mul", "reduce_max": "max", "reduce_min": "min"}
