"""CUDA C that the kernels of MatMul and Conv share: a block multiplies two tiles through shared memory.

A block of 256 threads computes a tile of ``rows`` by ``columns`` sums; each thread keeps 4 by 4 of them in
registers. Slices of both operands, ``depth`` deep, pass through shared memory; while one is multiplied the
next is on its way in registers. Places outside of the matrices repeat the last one, they are never stored.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression, Instruction
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.scalar import WIDE_FLOATS
from onnxplan.kernels.cuda.expression_code import Names, statements
from onnxplan.kernels.cuda.indexing import declare_axes, offsets
from onnxplan.kernels.cuda.source import KernelText
from onnxplan.kernels.scalar_cuda import cast, compute_type, loaded, stored

THREADS = 256
SIDE = 4


@dataclass(frozen=True, slots=True)
class Tile:
    """The sums of a block, and how deep the slices in shared memory are."""

    rows: int
    columns: int
    depth: int

    @property
    def variant(self) -> tuple[int, int, int]:
        return (self.rows, self.columns, self.depth)

    @property
    def column_threads(self) -> int:
        """How many threads lie along the columns."""
        return self.columns // SIDE


SQUARE = Tile(64, 64, 16)
TALL = Tile(256, 16, 8)
FLAT = Tile(16, 256, 8)


def fitting_tile(rows: int, columns: int) -> Tile:
    """The shape of tiles that wastes little on ``rows`` by ``columns`` sums."""
    if rows <= FLAT.rows:
        return FLAT
    return TALL if columns <= TALL.columns else SQUARE


def sum_type(accumulator: DType) -> DType:
    """The type that products are formed in: small floats in float32."""
    return WIDE_FLOATS.get(accumulator, accumulator)


def sum_text(accumulator: DType) -> str:
    """The C type of a running sum: integers are summed modulo 2**32 or 2**64."""
    if accumulator.is_float:
        return compute_type(accumulator)
    return "unsigned long long" if accumulator.itemsize == 8 else "unsigned int"


def factor(dtype: DType, accumulator: DType, text: str) -> str:
    """A stored element as a factor of a sum."""
    value = cast(dtype, sum_type(accumulator), loaded(dtype, text))
    return value if accumulator.is_float else f"({sum_text(accumulator)})({value})"


@dataclass(frozen=True, slots=True)
class Results:
    """What is done with finished sums: ``dtypes`` are those of the extras and of the output."""

    expression: Expression
    accumulator: DType
    dtypes: tuple[DType, ...]

    @property
    def variant(self) -> tuple[Expression, str, tuple[str, ...]]:
        return (self.expression, self.accumulator.label, tuple(dtype.label for dtype in self.dtypes))

    @staticmethod
    def from_variant(expression: Expression, accumulator: str, labels: Sequence[str]) -> Results:
        dtypes = tuple(DType.from_label(label) for label in labels)
        return Results(expression, DType.from_label(accumulator), dtypes)

    def declare_operands(self, kernel: KernelText) -> None:
        """The extras ``r0``, ``r1``, ..., then the output."""
        for number, dtype in enumerate(self.dtypes):
            kernel.operand(f"r{number}", dtype, written=number == len(self.dtypes) - 1)

    def store(self, total: str, places: Sequence[str]) -> list[str]:
        """Statements that finish the sum ``total``; ``places`` are the extras' and the output's offsets."""
        last = len(self.dtypes) - 1
        lines, value = self.finish(total, [f"r{number}[{places[number]}]" for number in range(last)])
        return [*lines, f"r{last}[{places[last]}] = {value};"]

    def finish(self, total: str, extras: Sequence[str]) -> tuple[list[str], str]:
        """Statements that finish the sum ``total``, and what to store; ``extras`` are stored elements."""

        def leaf(instruction: Instruction) -> str:
            number = instruction.arguments[0]
            if number == 0:
                return f"({compute_type(self.accumulator)})({total})"
            return loaded(self.dtypes[number - 1], extras[number - 1])

        names: Names = {}
        (output,) = self.expression.outputs
        lines = statements(self.expression, (output,), names, leaf)
        return lines, stored(self.dtypes[-1], names[output])


@dataclass(frozen=True, slots=True)
class Feed:
    """How one operand's slices get into shared memory.

    ``prepare`` comes before the loop; ``fetch`` reads the slice that begins at ``begin`` (each once, in
    order) into registers; ``keep`` writes these to shared memory.
    """

    prepare: list[str]
    fetch: list[str]
    keep: list[str]


def declare_tiles(kernel: KernelText, index: str) -> None:
    """The parameters that every product begins with."""
    for name in ("rows", "columns", "depth", "chunk"):
        kernel.parameter(name, index)
    for name in ("row_tiles", "column_tiles", "splits"):
        kernel.parameter(name, "unsigned int")


def find_tile(kernel: KernelText, tile: Tile, index: str) -> None:
    """Splits the block's number: tiles along columns, along rows, pieces of the depth, the batch."""
    kernel.line(
        "const int thread = (int)threadIdx.x;",
        "unsigned int block = blockIdx.x;",
        f"const {index} column_first = ({index})(block % column_tiles) * {tile.columns};",
        "block /= column_tiles;",
        f"const {index} row_first = ({index})(block % row_tiles) * {tile.rows};",
        "block /= row_tiles;",
        f"const {index} split = ({index})(block % splits);",
        f"const {index} batch = ({index})(block / splits);",
        f"const {index} depth_first = split * chunk;",
        f"const {index} depth_last = depth - depth_first < chunk ? depth : depth_first + chunk;",
    )


def repeat(count: int, *lines: str) -> list[str]:
    """An unrolled loop over ``i``."""
    return ["#pragma unroll", f"for (int i = 0; i < {count}; ++i) {{", *lines, "}"]


def slice_count(extent: int, tile: Tile) -> int:
    """How many elements of a slice each thread moves."""
    return max(1, extent * tile.depth // THREADS)


def keep_lines(name: str, extent: int, tile: Tile, depth: str, place: str) -> list[str]:
    """Writes the elements ``{name}_next[i]`` to shared memory; not all threads have one in small slices."""
    lines = repeat(slice_count(extent, tile), f"{name}_tile[{depth}][{place}] = {name}_next[i];")
    used = extent * tile.depth
    return lines if used >= THREADS else [f"if (thread < {used}) {{", *lines, "}"]


def matrix_feed(
    kernel: KernelText, name: str, dtype: DType, accumulator: DType, tile: Tile, index: str, *, rows: bool
) -> Feed:
    """Feeds from the matrix ``name``, which begins at ``{name}_start``: the left one (``rows``) or the right.

    Declares its parameters: the strides along its own extent and along the depth, and whether neighbouring
    threads read along the depth.
    """
    kernel.parameter(f"{name}_stride", index)
    kernel.parameter(f"{name}_depth_stride", index)
    kernel.parameter(f"{name}_along", "int")
    extent = tile.rows if rows else tile.columns
    first, limit = ("row_first", "rows") if rows else ("column_first", "columns")
    count, total = slice_count(extent, tile), sum_text(accumulator)
    prepare = [
        f"{index} {name}_offset[{count}];",
        f"int {name}_depth[{count}], {name}_place[{count}];",
        f"{total} {name}_next[{count}];",
        *repeat(
            count,
            f"const int item = thread + i * {THREADS};",
            f"{name}_depth[i] = {name}_along ? item % {tile.depth} : item / {extent};",
            f"{name}_place[i] = {name}_along ? item / {tile.depth} : item % {extent};",
            f"const {index} at = {first} + {name}_place[i];",
            f"{name}_offset[i] = {name}_start + (at < {limit} ? at : {limit} - 1) * {name}_stride;",
        ),
    ]
    element = factor(dtype, accumulator, f"{name}[{name}_offset[i] + at * {name}_depth_stride]")
    fetch = repeat(
        count,
        f"const {index} at = begin + {name}_depth[i];",
        f"{name}_next[i] = at < depth_last ? {element} : ({total})0;",
    )
    return Feed(prepare, fetch, keep_lines(name, extent, tile, f"{name}_depth[i]", f"{name}_place[i]"))


def multiply(kernel: KernelText, tile: Tile, accumulator: DType, index: str, feeds: Sequence[Feed]) -> None:
    """The loop over the depth; leaves the thread's sums in ``sums[{SIDE}][{SIDE}]``."""
    total = sum_text(accumulator)
    left, right = feeds
    fetch = ["{", *left.fetch, *right.fetch, "}"]
    kernel.line(
        f"__shared__ __align__(16) {total} left_tile[{tile.depth}][{tile.rows + SIDE}];",
        f"__shared__ __align__(16) {total} right_tile[{tile.depth}][{tile.columns + SIDE}];",
        f"const int thread_row = thread / {tile.column_threads} * {SIDE};",
        f"const int thread_column = thread % {tile.column_threads} * {SIDE};",
        *left.prepare,
        *right.prepare,
        f"{total} sums[{SIDE}][{SIDE}];",
        *repeat(SIDE, "#pragma unroll", f"for (int j = 0; j < {SIDE}; ++j) sums[i][j] = ({total})0;"),
        f"if (depth_first < depth_last) {{ const {index} begin = depth_first;",
        *fetch,
        "}",
        f"for ({index} slice = depth_first; slice < depth_last; slice += {tile.depth}) {{",
        *left.keep,
        *right.keep,
        "__syncthreads();",
        f"const {index} begin = slice + {tile.depth};",
        "if (begin < depth_last)",
        *fetch,
        "#pragma unroll",
        f"for (int k = 0; k < {tile.depth}; ++k) {{",
        f"{total} l[{SIDE}], r[{SIDE}];",
        *repeat(SIDE, "l[i] = left_tile[k][thread_row + i];", "r[i] = right_tile[k][thread_column + i];"),
        *repeat(SIDE, "#pragma unroll", f"for (int j = 0; j < {SIDE}; ++j) sums[i][j] += l[i] * r[j];"),
        "}",
        "__syncthreads();",
        "}",
    )


def declare_places(kernel: KernelText, results: Results, rank: int, index: str) -> None:
    """The parameters of :func:`store_tile`: axes of the rows, and strides along columns and pieces.

    The output alone has a stride along the pieces of the depth.
    """
    declare_axes(kernel, "row", rank, len(results.dtypes), index)
    for number in range(len(results.dtypes)):
        kernel.parameter(f"column_stride{number}", index)
    kernel.parameter("split_stride", index)


def store_tile(kernel: KernelText, results: Results, rank: int, index: str, starts: Sequence[str]) -> None:
    """Finishes and stores the thread's sums; ``starts`` are offsets of the extras and the output."""
    numbers = range(len(results.dtypes))
    begins = [*starts[:-1], f"{starts[-1]} + split * split_stride"]
    places = [f"place{number} + column * column_stride{number}" for number in numbers]
    kernel.line(
        *repeat(
            SIDE,
            f"const {index} row = row_first + thread_row + i;",
            "if (row < rows) {",
            *offsets("row", rank, numbers, index, "row", "place", begins),
            "#pragma unroll",
            f"for (int j = 0; j < {SIDE}; ++j) {{",
            f"const {index} column = column_first + thread_column + j;",
            "if (column < columns) {",
            *results.store("sums[i][j]", places),
            "}",
            "}",
            "}",
        )
    )
