"""CUDA C that the kernels of MatMul and Conv share: a block multiplies two tiles through shared memory.

A block of 256 threads computes a tile of ``rows`` by ``columns`` sums; each thread keeps 4 by 4, 8 by 4 or
8 by 8 of them in registers, for which it reads 8, 12 or 16 elements of shared memory, four at a time. Slices
of both operands, ``depth`` deep, pass through two places in shared memory; while one is multiplied the next
is on its way in registers. Places outside of the matrices repeat the last one, they are never stored.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression, Instruction
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.scalar import WIDE_FLOATS
from onnxplan.compiler.target import Target
from onnxplan.kernels.cuda.expression_code import Names, statements
from onnxplan.kernels.cuda.indexing import declare_axes, offsets
from onnxplan.kernels.cuda.source import KernelText
from onnxplan.kernels.geometry import ceil_div
from onnxplan.kernels.scalar_cuda import cast, compute_type, loaded, stored

THREADS = 256
GROUP = 4
"""Neighbouring rows and columns of a thread. Where it has eight, the others lie half a tile away, so that
neighbouring threads read neighbouring groups."""

FETCH_INSTRUCTIONS = 12
"""For an element of a slice: its address, whether it is there, the copy to shared memory; about."""


@dataclass(frozen=True, slots=True)
class Tile:
    """The sums of a block, how deep the slices in shared memory are, and the rows and columns of a thread."""

    rows: int
    columns: int
    depth: int
    row_side: int = GROUP
    column_side: int = GROUP

    @property
    def variant(self) -> tuple[int, int, int, int, int]:
        return (self.rows, self.columns, self.depth, self.row_side, self.column_side)

    @property
    def column_threads(self) -> int:
        """How many threads lie along the columns."""
        return self.columns // self.column_side

    @property
    def instructions(self) -> float:
        """Of a thread for one step along the depth, about."""
        fetched = (self.rows + self.columns) / THREADS
        reads = (self.row_side + self.column_side) / GROUP
        return self.row_side * self.column_side + reads + FETCH_INSTRUCTIONS * fetched


SQUARE = Tile(64, 64, 16)
TALL = Tile(256, 16, 8)
FLAT = Tile(16, 256, 8)
LONG = Tile(128, 64, 8, 8, 4)
LARGE = Tile(128, 128, 8, 8, 8)


def fitting_tile(rows: int, columns: int, batch: int, accumulator: DType, target: Target) -> Tile:
    """The shape of tiles that wastes little on ``batch`` times ``rows`` by ``columns`` sums."""
    if rows <= FLAT.rows:
        return FLAT
    if columns <= TALL.columns:
        return TALL
    if sum_type(accumulator).itemsize > 4:
        return SQUARE

    def instructions(tile: Tile) -> float:
        """Of the busiest multiprocessor."""
        blocks = batch * ceil_div(rows, tile.rows) * ceil_div(columns, tile.columns)
        return ceil_div(blocks, target.threads) * tile.instructions

    return min((LARGE, LONG, SQUARE), key=instructions)


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
    lines = repeat(slice_count(extent, tile), f"{name}_tile[stage][{depth}][{place}] = {name}_next[i];")
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


def wide_feed(kernel: KernelText, name: str, tile: Tile, index: str) -> Feed:
    """:func:`matrix_feed` of a right matrix of floats that is read along the columns, four at a time."""
    kernel.parameter(f"{name}_stride", index)
    kernel.parameter(f"{name}_depth_stride", index)
    kernel.parameter(f"{name}_along", "int")
    chunks = tile.columns // GROUP
    count = max(1, chunks * tile.depth // THREADS)
    line, place = f"(thread + i * {THREADS}) / {chunks}", f"thread % {chunks} * {GROUP}"
    prepare = [
        f"float4 {name}_next[{count}];",
        f"{index} {name}_at = column_first + {place};",
        f"{name}_at = {name}_at < columns ? {name}_at : columns - {GROUP};",
    ]
    address = f"{name} + {name}_start + {name}_at + at * {name}_depth_stride"
    fetch = repeat(
        count,
        f"const {index} at = begin + {line};",
        f"{name}_next[i] = {name}_zero;",
        f"if (at < depth_last) {name}_next[i] = *(const float4*)({address});",
    )
    keep = repeat(count, f"*(float4*)&{name}_tile[stage][{line}][{place}] = {name}_next[i];")
    if chunks * tile.depth < THREADS:
        keep = [f"if (thread < {chunks * tile.depth}) {{", *keep, "}"]
    return Feed([f"const float4 {name}_zero = {{0.0f, 0.0f, 0.0f, 0.0f}};", *prepare], fetch, keep)


def _of_thread(name: str, extent: int, side: int, number: str) -> str:
    """Row or column ``number`` of the thread's."""
    if side == GROUP:
        return f"thread_{name} + {number}"
    return f"thread_{name} + {number} / {GROUP} * {extent // (side // GROUP)} + {number} % {GROUP}"


def multiply(kernel: KernelText, tile: Tile, accumulator: DType, index: str, feeds: Sequence[Feed]) -> None:
    """The loop over the depth; leaves the thread's sums in ``sums``."""
    total = sum_text(accumulator)
    left, right = feeds
    fetch = ["{", *left.fetch, *right.fetch, "}"]
    rows, columns = tile.row_side, tile.column_side
    row = _of_thread("row", tile.rows, rows, "i")
    column = _of_thread("column", tile.columns, columns, "i")
    kernel.line(
        f"__shared__ __align__(16) {total} left_tile[2][{tile.depth}][{tile.rows + GROUP}];",
        f"__shared__ __align__(16) {total} right_tile[2][{tile.depth}][{tile.columns + GROUP}];",
        f"const int thread_row = thread / {tile.column_threads} * {GROUP};",
        f"const int thread_column = thread % {tile.column_threads} * {GROUP};",
        *left.prepare,
        *right.prepare,
        f"{total} sums[{rows}][{columns}];",
        *repeat(rows, "#pragma unroll", f"for (int j = 0; j < {columns}; ++j) sums[i][j] = ({total})0;"),
        "int stage = 0;",
        f"if (depth_first < depth_last) {{ const {index} begin = depth_first;",
        *fetch,
        *left.keep,
        *right.keep,
        "}",
        "__syncthreads();",
        f"for ({index} slice = depth_first; slice < depth_last; slice += {tile.depth}) {{",
        f"const {index} begin = slice + {tile.depth};",
        "if (begin < depth_last)",
        *fetch,
        "#pragma unroll",
        f"for (int k = 0; k < {tile.depth}; ++k) {{",
        f"{total} l[{rows}], r[{columns}];",
        *repeat(rows, f"l[i] = left_tile[stage][k][{row}];"),
        *repeat(columns, f"r[i] = right_tile[stage][k][{column}];"),
        *repeat(rows, "#pragma unroll", f"for (int j = 0; j < {columns}; ++j) sums[i][j] += l[i] * r[j];"),
        "}",
        "stage ^= 1;",
        "if (begin < depth_last) {",
        *left.keep,
        *right.keep,
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


def store_tile(
    kernel: KernelText,
    tile: Tile,
    results: Results,
    rank: int,
    index: str,
    starts: Sequence[str],
    *,
    wide: bool = False,
) -> None:
    """Finishes and stores the thread's sums; ``starts`` are offsets of the extras and the output.

    ``wide`` results are floats whose columns are neighbours, stored four at a time.
    """
    numbers = range(len(results.dtypes))
    last = numbers[-1]
    begins = [*starts[:-1], f"{starts[-1]} + split * split_stride"]
    places = [f"place{number} + column * column_stride{number}" for number in numbers]
    row = _of_thread("row", tile.rows, tile.row_side, "i")
    column = _of_thread("column", tile.columns, tile.column_side, "j")
    if wide:
        lines, value = results.finish(
            "sums[i][j + n]", [f"r{number}[{places[number]}]" for number in range(last)]
        )
        body = [
            f"for (int j = 0; j < {tile.column_side}; j += {GROUP}) {{",
            f"const {index} first = column_first + {column};",
            "if (first < columns) {",
            "float4 four;",
            "#pragma unroll",
            f"for (int n = 0; n < {GROUP}; ++n) {{",
            f"const {index} column = first + n;",
            *lines,
            f"(&four.x)[n] = {value};",
            "}",
            f"*(float4*)(r{last} + place{last} + first) = four;",
            "}",
            "}",
        ]
    else:
        body = [
            f"for (int j = 0; j < {tile.column_side}; ++j) {{",
            f"const {index} column = column_first + {column};",
            "if (column < columns) {",
            *results.store("sums[i][j]", places),
            "}",
            "}",
        ]
    kernel.line(
        *repeat(
            tile.row_side,
            f"const {index} row = row_first + {row};",
            "if (row < rows) {",
            *offsets("row", rank, numbers, index, "row", "place", begins),
            "#pragma unroll",
            *body,
            "}",
        )
    )
