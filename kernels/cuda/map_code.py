"""CUDA C of elementwise maps and copies; see :mod:`onnxplan.kernels.cuda.map`.

A thread computes several points: it reads all it needs for them, so that reads do not wait for each other,
then computes and writes. Points are neighbours, read and written as vectors, where rows allow it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression, Instruction
from onnxplan.compiler.target import Target
from onnxplan.kernels.cuda.expression_code import Names, statements
from onnxplan.kernels.cuda.groups import declare_groups
from onnxplan.kernels.cuda.indexing import declare_axes, offsets
from onnxplan.kernels.cuda.source import KernelSource, KernelText
from onnxplan.kernels.scalar_cuda import loaded, storage_type, stored

# With more inputs than this the values of a group would not fit into registers.
MOST_GROUPED = 16

# Reads that a thread should have under way at once, and the most scalar operations of its unrolled code.
READS = 4
MOST_WORK = 512


def items_of(inputs: int) -> int:
    """Points that a thread of a kernel with so many inputs computes, where it takes single ones."""
    return 4 if inputs <= 4 else 2 if inputs <= 8 else 1


def groups_of(expression: Expression, inputs: int, kinds: str, group: int) -> int:
    """Groups of points that a thread computes at most: as many as have enough reads under way."""
    read = sum(kind != "b" for kind in kinds[:inputs])
    groups = max(READS // max(read, 1), 1)
    while groups > 1 and groups * group * max(expression.cost, 1) > MOST_WORK:
        groups //= 2
    return groups


def build_map(variant: Any, target: Target) -> KernelSource:
    """``variant`` is ``(threads, expression, labels, numbers, inputs, rank, index type, kinds, group)``.

    Operands are the inputs that are read, then the outputs, of types ``labels``; ``numbers`` are the
    expression's numbers of the inputs, then the axes of coordinates, which have strides like operands.
    ``kinds`` (see ``map``) says how groups of ``group`` neighbouring points are accessed, if they are.
    Parameters: points, points or groups that a thread computes, the axes.
    """
    return _Map(*variant).source()


class _Map:
    def __init__(
        self,
        threads: int,
        expression: Expression,
        labels: tuple[str, ...],
        numbers: tuple[int, ...],
        inputs: int,
        rank: int,
        index: str,
        kinds: str,
        group: int,
    ) -> None:
        self._expression, self._index, self._kinds, self._rank = expression, index, kinds, rank
        self._inputs, self._placed = inputs, len(labels) + len(numbers) - inputs
        self._dtypes = [DType.from_label(label) for label in labels]
        self._items = group or items_of(inputs)
        self._groups = groups_of(expression, inputs, kinds, group) if group else 1
        self._input_places = {number: place for place, number in enumerate(numbers[:inputs])}
        self._index_places = {axis: len(labels) + place for place, axis in enumerate(numbers[inputs:])}
        self._kernel = kernel = KernelText(threads)
        for place, dtype in enumerate(self._dtypes):
            kernel.operand(f"x{place}", dtype, written=place >= inputs)
        kernel.parameter("points", index)
        kernel.parameter("rounds", "int")
        declare_axes(kernel, "axis", rank, self._placed, index)

    def source(self) -> KernelSource:
        groups = f"[{self._groups}]" if self._kinds else ""
        for place in range(self._inputs):
            self._kernel.line(f"{storage_type(self._dtypes[place])} in{place}{groups}[{self._items}];")
        if self._kinds:
            self._grouped()
        else:
            self._single()
        return self._kernel.source("map")

    def _single(self) -> None:
        """Points of a thread are as far apart as the block has threads."""
        kernel, index, items, threads = self._kernel, self._index, self._items, self._kernel.threads
        later = range(self._inputs, self._placed)
        kernel.line(
            *(f"{index} place{place}[{items}];" for place in later),
            f"const {index} first = ({index})blockIdx.x * {items * threads} + ({index})threadIdx.x;",
            "#pragma unroll",
            f"for (int item = 0; item < {items}; ++item) {{",
            f"const {index} point = first + item * {threads};",
            "if (point >= points) break;",
            *offsets("axis", self._rank, range(self._placed), index, "point", "at"),
            *(f"in{place}[item] = x{place}[at{place}];" for place in range(self._inputs)),
            *(f"place{place}[item] = at{place};" for place in later),
            "}",
            "#pragma unroll",
            f"for (int item = 0; item < {items}; ++item) {{",
            f"if (first + item * {threads} >= points) break;",
            *self._compute(
                lambda place: f"place{place}[item]", lambda place: f"x{place}[place{place}[item]]", "[item]"
            ),
            "}",
        )

    def _grouped(self) -> None:
        """A thread takes groups of neighbouring points of one row, as far apart as those of the block are
        together. It reads for all of them before it computes the first."""
        kernel, index, group, groups = self._kernel, self._index, self._items, self._groups
        declare_groups(kernel, group)
        step = f"axis_stride{self._rank - 1}"
        later = range(self._inputs, self._placed)
        outputs = range(self._inputs, len(self._dtypes))
        together = kernel.threads * group
        kernel.line(
            f"const {index} begin = ({index})blockIdx.x * (rounds * {together}) + "
            f"({index})threadIdx.x * {group};",
            f"int counts[{groups}];",
            *(f"{index} place{place}[{groups}];" for place in later),
            "#pragma unroll",
            f"for (int round = 0; round < {groups}; ++round) {{",
            f"const {index} first = begin + round * {together};",
            "counts[round] = 0;",
            "if (round >= rounds || first >= points) continue;",
            f"const int count = points - first < {group} ? (int)(points - first) : {group};",
            "counts[round] = count;",
            *offsets("axis", self._rank, range(self._placed), index, "first", "at"),
            *(f"place{place}[round] = at{place};" for place in later),
        )
        for place in range(self._inputs):
            if self._kinds[place] == "v":
                aligned = f"onnxplan_is_aligned(x{place})"
                kernel.line(f"onnxplan_read(in{place}[round], x{place} + at{place}, {aligned}, count);")
                continue
            offset = f"at{place}" + (f" + item * {step}_{place}" if self._kinds[place] == "s" else "")
            kernel.line(
                "#pragma unroll",
                f"for (int item = 0; item < {group}; ++item)",
                f"    if (item < count) in{place}[round][item] = x{place}[{offset}];",
            )
        kernel.line(
            "}",
            "#pragma unroll",
            f"for (int round = 0; round < {groups}; ++round) {{",
            "const int count = counts[round];",
            "if (count == 0) continue;",
            *(f"{storage_type(self._dtypes[place])} out{place}[{group}];" for place in outputs),
            "#pragma unroll",
            f"for (int item = 0; item < {group}; ++item) {{",
            "if (item >= count) break;",
            *self._compute(
                lambda place: f"(place{place}[round] + item * {step}_{place})",
                lambda place: f"out{place}[item]",
                "[round][item]",
            ),
            "}",
        )
        for place in outputs:
            if self._kinds[place] == "v":
                aligned = f"onnxplan_is_aligned(x{place})"
                kernel.line(f"onnxplan_write(x{place} + place{place}[round], out{place}, {aligned}, count);")
            else:
                target = f"x{place}[place{place}[round] + item * {step}_{place}]"
                kernel.line(
                    "#pragma unroll",
                    f"for (int item = 0; item < {group}; ++item)",
                    f"    if (item < count) {target} = out{place}[item];",
                )
        kernel.line("}")

    def _compute(
        self, coordinate: Callable[[int], str], result: Callable[[int], str], place_of_item: str
    ) -> list[str]:
        """Statements for point ``item`` of the thread; ``place_of_item`` is where its inputs were read to."""

        def leaf(instruction: Instruction) -> str:
            number = instruction.arguments[0]
            if instruction.op == "index":
                return coordinate(self._index_places[number])
            place = self._input_places[number]
            return loaded(self._dtypes[place], f"in{place}{place_of_item}")

        names: Names = {}
        lines = statements(self._expression, self._expression.outputs, names, leaf)
        for place, output in enumerate(self._expression.outputs, self._inputs):
            lines.append(f"{result(place)} = {stored(self._dtypes[place], names[output])};")
        return lines
