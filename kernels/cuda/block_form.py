"""How threads of a block share kept points and the regions that are reduced for each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target
from onnxplan.kernels.cuda.source import KernelText
from onnxplan.kernels.geometry import ceil_div

# What one block reads is worth another launch from here on.
SPLIT_BYTES = 1 << 18
# Where there are fewer blocks than this for a multiprocessor, others may take parts of the work.
ENOUGH_BLOCKS = 2
# Points of a part are a multiple of this.
PART_POINTS = 16


@dataclass(frozen=True, slots=True)
class BlockForm:
    """A block of ``threads`` works on ``columns`` kept points, ``lanes`` threads on each.

    Neighbouring threads follow the region (``row``) or the kept points (``column``). All are powers of two.
    """

    name: str
    threads: int
    columns: int

    @property
    def lanes(self) -> int:
        return self.threads // self.columns

    @property
    def is_row(self) -> bool:
        return self.name == "row"

    def blocks(self, results: int) -> int:
        """Blocks that cover ``results`` kept points."""
        return ceil_div(results, self.columns)


def choose_form(row: bool, results: int, region: int, target: Target) -> BlockForm:
    """The form for ``results`` kept points with regions of ``region``; ``row`` is preferred or not."""
    if region == 1 or not row:
        if region <= 4 or results >= 512 * target.threads:
            return BlockForm("column", 256, 256)
        return BlockForm("column", 256, 8 if results <= 8 else 32)
    if region >= 1 << 13 and results < 4 * target.threads:
        return BlockForm("row", 1024, 1)
    if region > 1024 or (region > 128 and results < 4 * target.threads):
        return BlockForm("row", 256, 1)
    lanes = 4 if region <= 4 else 8 if region <= 64 else 32
    return BlockForm("row", 256, 256 // lanes)


def is_split_worthwhile(form: BlockForm, results: int, region: int, weight: int, target: Target) -> bool:
    """Are there so few blocks, each with so much to read, that regions should be shared by several?"""
    heavy = region * form.columns * weight > SPLIT_BYTES
    return heavy and form.blocks(results) < ENOUGH_BLOCKS * target.threads


def part_length(form: BlockForm, results: int, region: int, weight: int, target: Target) -> int:
    """Points of the parts that a region is split into, which are a few for each multiprocessor."""
    least = max(SPLIT_BYTES // 4 // (form.columns * weight), form.lanes)
    parts = min(4 * ENOUGH_BLOCKS * target.threads // form.blocks(results), region // least)
    # Parts begin where groups of points do.
    return ceil_div(ceil_div(region, max(parts, 1)), PART_POINTS) * PART_POINTS


def declare_threads(kernel: KernelText, form: BlockForm, index: str, *, split: bool) -> None:
    """Declares a thread's work: ``column`` (a kept point) if ``active``, from ``start + lane`` to ``last``.

    ``columns`` and ``points`` must be there. With ``split`` the next parameters are the blocks that cover
    all kept points, the points of a part and the elements between the outputs of neighbouring parts;
    ``part`` is the part's number.
    """
    if form.is_row:
        place, lane = f"threadIdx.x / {form.lanes}u", f"threadIdx.x % {form.lanes}u"
    else:
        place, lane = f"threadIdx.x % {form.columns}u", f"threadIdx.x / {form.columns}u"
    kernel.line(f"const int place = (int)({place}), lane = (int)({lane});")
    if split:
        for name in ("blocks", "length", "part_stride"):
            kernel.parameter(name, index)
        kernel.line(
            f"const {index} part = ({index})blockIdx.x / blocks;",
            f"const {index} block = ({index})blockIdx.x - part * blocks;",
            f"const {index} start = part * length;",
            f"const {index} stop = points - start < length ? points : start + length;",
        )
    else:
        kernel.line(f"const {index} block = ({index})blockIdx.x, start = 0, stop = points;")
    kernel.line(
        f"const {index} column = block * {form.columns} + place;",
        "const bool active = column < columns;",
        f"const {index} last = active ? stop : start;",
    )


Merge = Callable[[Sequence[str]], Sequence[str]]
"""Statements that combine the variables of an exchange with others of the given names."""


def declare_shared(kernel: KernelText, form: BlockForm, fields: int) -> None:
    """Declares the memory that :func:`exchange` needs for up to ``fields`` variables."""
    slots = _slots(form)
    if slots:
        kernel.line(f"__shared__ unsigned long long shared[{slots * fields}];")


def _slots(form: BlockForm) -> int:
    if form.is_row:
        return form.threads // 32 if form.lanes > 32 else 0
    return form.threads if form.lanes > 1 else 0


def exchange(
    kernel: KernelText, form: BlockForm, variables: Sequence[tuple[str, str]], merge: Merge, *, again: bool
) -> None:
    """Combines ``variables`` (C type, name) over the threads of each kept point, who all get the result.

    Lower lanes are the first arguments of ``merge``. ``again`` if there has been an exchange before.
    """
    if form.lanes == 1:
        return
    others = [f"other{number}" for number in range(len(variables))]
    if form.is_row:
        width = min(form.lanes, 32)
        kernel.line("#pragma unroll", f"for (int step = {width // 2}; step; step >>= 1) {{")
        for (kind, name), other in zip(variables, others, strict=True):
            kernel.line(
                f"const {kind} {other} = ({kind})__shfl_down_sync(0xffffffffu, {name}, step, {width});"
            )
        kernel.line(*merge(others), "}")
        if form.lanes <= 32:
            for kind, name in variables:
                kernel.line(f"{name} = ({kind})__shfl_sync(0xffffffffu, {name}, 0, {width});")
            return
        own, first, stride, groups = "threadIdx.x / 32u", "0", 1, form.lanes // 32
    else:
        own, first, stride, groups = "threadIdx.x", "place", form.columns, form.lanes
    slots = _slots(form)
    arrays = [f"(({kind}*)(shared + {number * slots}))" for number, (kind, _) in enumerate(variables)]
    if again:
        kernel.line("__syncthreads();")
    kernel.line("if (threadIdx.x % 32u == 0u) {" if form.is_row else "{")
    for (_, name), array in zip(variables, arrays, strict=True):
        kernel.line(f"{array}[{own}] = {name};")
    kernel.line("}", "__syncthreads();")
    for (_, name), array in zip(variables, arrays, strict=True):
        kernel.line(f"{name} = {array}[{first}];")
    kernel.line("#pragma unroll", f"for (int group = 1; group < {groups}; ++group) {{")
    for (kind, _), array, other in zip(variables, arrays, others, strict=True):
        kernel.line(f"const {kind} {other} = {array}[{first} + group * {stride}];")
    kernel.line(*merge(others), "}")
