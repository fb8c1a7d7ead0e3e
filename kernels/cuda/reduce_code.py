"""CUDA C of reductions and of what mixes them with elementwise work (softmax, normalisations).

One pass over the region for each depth of reductions (:mod:`onnxplan.kernels.phases`). Rows that a block's
registers hold are read once; of longer ones values are read again, from the caches. Each thread reduces its
points in order, then threads of a kept point are combined in an order that is fixed: results do not depend on
timing.
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
from onnxplan.kernels.cuda.groups import declare_groups
from onnxplan.kernels.cuda.indexing import declare_axes, offsets
from onnxplan.kernels.cuda.source import KernelSource, KernelText
from onnxplan.kernels.phases import Phase, reduction_identity, schedule
from onnxplan.kernels.scalar import cuda_expression
from onnxplan.kernels.scalar_cuda import compute_type, loaded, storage_type, stored

# Scalar operations up to which four groups are unrolled.
CHEAP = 8


def build_reduce(variant: Any, target: Target) -> KernelSource:
    """``variant`` is ``(threads, form, columns, split, expression, labels, numbers, kept rank, region rank,
    index type, kinds, group, turns)``.

    Form and columns are those of :class:`~onnxplan.kernels.cuda.block_form.BlockForm`. Operands are the
    inputs that are read, coordinates (label ``index``, they have strides but no pointer) and outputs;
    ``numbers`` are the expression's numbers of inputs and coordinates. Threads take groups of ``group``
    neighbouring points (0: single ones), accessed as ``kinds`` says (see ``groups``), and hold ``turns``
    groups of what several passes read (0: they read again). Parameters: kept points, points of
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
        kinds: str,
        group: int,
        turns: int,
    ) -> None:
        self._form, self._expression, self._labels = BlockForm(form, threads, columns), expression, labels
        self._region_rank, self._index = region_rank, index
        self._group, self._kinds, self._turns = group or 1, kinds or "s" * len(labels), turns
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
        if group:
            declare_groups(kernel, group)
        self._read_in = {phase: self._inputs_of(phase) for phase in self._plan.phases}
        often = [place for reads in self._read_in.values() for place in reads if self._kinds[place] != "b"]
        self._held = {place for place in often if turns and often.count(place) > 1}
        self._fresh = set(self._held)

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
        read = self._read_in[phase]
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
        written = {self._first_output + number: self._expression.outputs[number] for number in phase.outputs}
        for place, position in written.items():
            dtype = DType.from_label(self._labels[place])
            body.append(f"out{place}[item] = {stored(dtype, names[position])};")
        first = [place for place in read & self._held if place in self._fresh]
        for place in first:
            kernel.line(f"{self._storage(place)} in{place}[{self._turns}][{self._group}];")
        reads = [line for place in sorted(read - self._held | set(first)) for line in self._reads(place)]
        self._fresh -= read
        kernel.line(
            *self._loop(),
            *offsets("region", self._region_rank, operands, index, "point", "at", starts),
            *reads,
            *(f"{self._storage(place)} out{place}[{self._group}];" for place in written),
            "#pragma unroll",
            f"for (int item = 0; item < {self._group}; ++item) {{",
            "if (item >= count) break;",
            *body,
            "}",
            *(line for place in written for line in self._writes(place)),
            "}",
        )

    def _loop(self) -> list[str]:
        """The head of a loop over a thread's groups of ``count`` points from ``point`` on."""
        index, group, lanes = self._index, self._group, self._form.lanes
        count = "const int count = 1;"
        if group > 1:
            count = f"const int count = last - point < {group} ? (int)(last - point) : {group};"
        if self._turns:
            return [
                "#pragma unroll",
                f"for (int turn = 0; turn < {self._turns}; ++turn) {{",
                f"const {index} point = start + (lane + turn * {lanes}) * {group};",
                "if (point >= last) break;",
                count,
            ]
        return [
            f"#pragma unroll {4 if group == 1 or self._expression.cost <= CHEAP else 2}",
            f"for ({index} point = start + lane * {group}; point < last; point += {lanes * group}) {{",
            count,
        ]

    def _inputs_of(self, phase: Phase) -> set[int]:
        """The inputs that a pass reads. What is reduced by then is known, and what hangs on that alone."""
        found: set[int] = set()

        def leaf(instruction: Instruction) -> str:
            if instruction.op == "input":
                found.add(self._places[False, instruction.arguments[0]])
            return ""

        known = {position: "" for position, flag in enumerate(self._flags) if flag}
        statements(self._expression, phase.roots, known, leaf)
        return found

    def _storage(self, place: int) -> str:
        return storage_type(DType.from_label(self._labels[place]))

    def _reads(self, place: int) -> list[str]:
        """Statements that read a group's elements of an input."""
        group, kind = self._group, self._kinds[place]
        into = f"in{place}[turn]" if place in self._held else f"in{place}"
        lines = (
            []
            if place in self._held
            else [f"{self._storage(place)} in{place}[{1 if kind == 'b' else group}];"]
        )
        if kind == "b":
            return [*lines, f"in{place}[0] = x{place}[at{place}];"]
        if kind == "v":
            aligned = f"onnxplan_is_aligned(x{place})"
            return [*lines, f"onnxplan_read({into}, x{place} + at{place}, {aligned}, count);"]
        return [
            *lines,
            "#pragma unroll",
            f"for (int item = 0; item < {group}; ++item)",
            f"    if (item < count) {into}[item] = x{place}[{self._at(place)}];",
        ]

    def _writes(self, place: int) -> list[str]:
        if self._kinds[place] == "v":
            aligned = f"onnxplan_is_aligned(x{place})"
            return [f"onnxplan_write(x{place} + at{place}, out{place}, {aligned}, count);"]
        return [
            "#pragma unroll",
            f"for (int item = 0; item < {self._group}; ++item)",
            f"    if (item < count) x{place}[{self._at(place)}] = out{place}[item];",
        ]

    def _at(self, place: int) -> str:
        """The offset of point ``item`` of a group."""
        if self._group == 1:
            return f"at{place}"
        return f"at{place} + item * region_stride{self._region_rank - 1}_{place}"

    def _leaf(self, instruction: Instruction) -> str:
        place = self._places[instruction.op == "index", instruction.arguments[0]]
        if instruction.op == "index":
            return f"({self._at(place)})"
        item = "0" if self._kinds[place] == "b" else "item"
        turn = "[turn]" if place in self._held else ""
        return loaded(DType.from_label(self._labels[place]), f"in{place}{turn}[{item}]")

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
