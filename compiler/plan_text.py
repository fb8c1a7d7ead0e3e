"""The plan, printed: what it is for, one line a step, totals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import LEAVES, Expression
from onnxplan.compiler.graphs import graph_ranges, host_copies
from onnxplan.compiler.plan import Binding, Buffer, Constant, ExecutionPlan, KernelSpec, Operand, Step
from onnxplan.compiler.records import dataclass

KERNEL_WIDTH = 44
OPERANDS_WIDTH = 100
NODES_WIDTH = 60


@dataclass(frozen=True, slots=True)
class Column:
    """Numbers stand to the right, texts to the left; a wide column grows no further than its limit."""

    title: str
    limit: int = 12
    number: bool = True


CPU_COLUMNS = tuple(map(Column, ("step", "time", "FLOPs", "bytes", "tiles")))
CUDA_COLUMNS = tuple(map(Column, ("step", "graph", "time", "FLOPs", "bytes", "blocks", "threads", "shared")))
TEXT_COLUMNS = (
    Column("kernel", KERNEL_WIDTH, number=False),
    Column("operands", OPERANDS_WIDTH, number=False),
    Column("nodes", NODES_WIDTH, number=False),
)
LIBRARY_FAMILIES = frozenset({"cublaslt", "cudnn", "cudnn_float32", "cudnn_attention"})
"""Families whose launches a library decides on."""


def plan_to_text(plan: ExecutionPlan) -> str:
    """A table for people: target, inputs, outputs, memory, then the steps and their totals.

    An operand reads ``buffer[first byte:end] type[shape]``; buffers are ``arena``, ``in0``, ``out0`` and
    ``const0``, numbered as the plan's inputs, outputs and constants. FLOPs, bytes and times are estimates.
    Plans for CUDA tell which CUDA graph each step is in, how many blocks of how many threads it starts, and
    the dynamic shared memory of a block.
    """
    cuda = plan.target.device == "cuda"
    constant_bytes = sum(_bytes_of(constant) for constant in plan.constants)
    lines = [
        f"plan for {plan.target}",
        *_tensors("input", "in", plan.inputs),
        *_tensors("output", "out", plan.outputs),
        f"  arena      {_arena(plan)}",
        f"  constants  {len(plan.constants)}, {binary(constant_bytes)}",
        *(_graphs(plan) if cuda else [f"  scratch    {binary(plan.scratch_bytes)} a thread"]),
        "",
    ]
    graphs = _graph_numbers(plan) if cuda else ()
    rows = [
        _row(number, _cuda_cells(step, graphs[number]) if cuda else _cpu_cells(step), step, plan.buffers)
        for number, step in enumerate(plan.steps)
    ]
    lines += _table((*(CUDA_COLUMNS if cuda else CPU_COLUMNS), *TEXT_COLUMNS), rows)
    lines += ["", f"total: {_totals(plan, 'on the device' if cuda else 'on one thread')}"]
    return "\n".join(lines)


def _graphs(plan: ExecutionPlan) -> Iterable[str]:
    """Graphs, what is in none of them, and the copies that this costs."""
    number = 0
    for part in graph_ranges(plan):
        steps = f"step {part.first}" if part.first == part.last else f"steps {part.first} to {part.last}"
        if part.captured:
            yield f"  graph      {number}: {steps}"
            number += 1
        else:
            yield f"  no graph   {steps}: {part.reason}"
    yield f"  copies between host and device inside the plan: {host_copies(plan)}"


def _graph_numbers(plan: ExecutionPlan) -> Sequence[str]:
    """For each step the number of its graph, or ``-``."""
    found: list[str] = []
    numbers = itertools.count()
    for part in graph_ranges(plan):
        label = str(next(numbers)) if part.captured else "-"
        found += [label] * (part.last - part.first + 1)
    return found


def _arena(plan: ExecutionPlan) -> str:
    bound = plan.arena_lower_bound
    excess = f", {plan.arena_bytes / bound - 1:.1%} above" if plan.arena_bytes > bound else ""
    return f"{binary(plan.arena_bytes)} (lower bound {binary(bound)}{excess})"


def _totals(plan: ExecutionPlan, where: str) -> str:
    return ", ".join(
        [
            f"{len(plan.steps)} steps",
            f"{len(plan.kernels)} kernels",
            f"{metric(plan.flops)}FLOP",
            f"{binary(plan.bytes)} moved",
            f"{duration(plan.seconds)} {where}",
        ]
    )


def _tensors(title: str, prefix: str, tensors: Sequence[Binding]) -> Iterable[str]:
    for number, tensor in enumerate(tensors):
        label = f"{prefix}{number}"
        yield f"  {title:<10} {label:<5} {tensor.name}: {tensor.dtype}{list(tensor.shape)}"


def _bytes_of(tensor: Constant) -> int:
    return math.prod(tensor.shape) * tensor.dtype.itemsize


def _row(number: int, cells: tuple[str, ...], step: Step, buffers: Sequence[Buffer]) -> tuple[str, ...]:
    nodes = shorten(", ".join(step.nodes), NODES_WIDTH)
    return (str(number), *cells, kernel_name(step.kernel), _operands(step, buffers), nodes)


def _work(step: Step) -> tuple[str, str, str]:
    return duration(step.seconds), metric(step.flops).strip(), binary(step.bytes)


def _cpu_cells(step: Step) -> tuple[str, ...]:
    return (*_work(step), str(step.tiles))


def _cuda_cells(step: Step, graph: str) -> tuple[str, ...]:
    if graph == "-" or step.kernel.family in LIBRARY_FAMILIES:
        return (graph, *_work(step), "-", "-", "-")
    return (graph, *_work(step), str(step.tiles), str(step.kernel.variant[0]), binary(step.scratch))


def _table(columns: Sequence[Column], rows: Sequence[tuple[str, ...]]) -> Iterable[str]:
    lines = [tuple(column.title for column in columns), *rows]
    widths = [
        min(column.limit, max(len(line[place]) for line in lines)) for place, column in enumerate(columns)
    ]
    for line in lines:
        cells = [
            text.rjust(width) if column.number else text.ljust(width)
            for column, text, width in zip(columns, line, widths, strict=True)
        ]
        yield "  ".join(cells).rstrip()


def _operands(step: Step, buffers: Sequence[Buffer]) -> str:
    written = set(step.outputs)
    results = [operand_text(operand, buffers) for n, operand in enumerate(step.operands) if n in written]
    reads = [operand_text(operand, buffers) for n, operand in enumerate(step.operands) if n not in written]
    return f"{' '.join(results)} <- {' '.join(reads)}".rstrip()


_SPACES = {"input": "in", "output": "out", "constant": "const"}


def operand_range(operand: Operand) -> tuple[int, int]:
    """The first byte of its buffer that an operand covers, and the byte behind the last one."""
    low = high = operand.offset
    if 0 in operand.shape:
        return low, high
    for extent, stride in zip(operand.shape, operand.strides, strict=True):
        reach = (extent - 1) * stride * operand.dtype.itemsize
        low, high = min(low, low + reach), max(high, high + reach)
    return low, high + operand.dtype.itemsize


def operand_text(operand: Operand, buffers: Sequence[Buffer]) -> str:
    """An operand as printed plans show it: ``buffer[first byte:end] type[shape]``."""
    buffer = buffers[operand.buffer]
    low, high = operand_range(operand)
    shape = "x".join(map(str, operand.shape)) or "1"
    if buffer.space == "arena":
        place = f"arena[{buffer.offset + low}:{buffer.offset + high}]"
    else:
        place = f"{_SPACES[buffer.space]}{buffer.index}"
        if low != 0 or high != buffer.size:
            place += f"[{low}:{high}]"
    return f"{place} {_dtype_text(operand.dtype)}[{shape}]"


_SHORT = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u", "complex": "c"}


def _dtype_text(dtype: DType) -> str:
    """``f32`` for float32, ``i8`` for int8, ``bool`` for bool."""
    word = dtype.label.rstrip("0123456789")
    short = _SHORT.get(word)
    return dtype.label if short is None else short + dtype.label[len(word) :]


def kernel_name(kernel: KernelSpec) -> str:
    """The kernel's family and what distinguishes it, abbreviated: ``map[add(x0, x1), f32]``."""
    parts = [_variant(item) for item in kernel.variant]
    text = f"{kernel.family}[{', '.join(part for part in parts if part)}]" if parts else kernel.family
    return shorten(text, KERNEL_WIDTH)


def _variant(item: Any) -> str:
    if isinstance(item, Expression):
        return expression_text(item)
    if isinstance(item, tuple):
        return f"({' '.join(part for part in map(_variant, item) if part)})"
    if isinstance(item, str):
        try:
            return _dtype_text(DType.from_label(item))
        except KeyError:
            return item
    return str(item)


def expression_text(expression: Expression) -> str:
    """The expression if it is short, else the names of its operations in order, as ``mul add erf mul``."""
    text = str(expression)
    if len(text) <= 24:
        return text
    names = [i.op.removeprefix("reduce_") for i in expression.instructions if i.op not in LEAVES]
    return " ".join(names) if names else "copy"


def shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def binary(count: int) -> str:
    """Bytes as ``512 B``, ``1.5 KiB``, ``20.0 MiB``."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def metric(count: int) -> str:
    """A count with a prefix: ``512``, ``1.5 k``, ``20.0 M``; ends in a space or a prefix, for a unit."""
    value, unit = float(count), ""
    for larger in ("k", "M", "G", "T"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{count} " if not unit else f"{value:.1f} {unit}"


def duration(seconds: float) -> str:
    """Seconds as ``850 ns``, ``1.5 us``, ``20.0 ms``, ``3.0 s``."""
    for unit, scale in (("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3)):
        if seconds < 1000 * scale:
            return f"{seconds / scale:.0f} {unit}" if unit == "ns" else f"{seconds / scale:.1f} {unit}"
    return f"{seconds:.1f} s"
