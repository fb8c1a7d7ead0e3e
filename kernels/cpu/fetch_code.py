"""Fetching memory before it is read: what later calls of a micro-kernel read, or what this one does next."""

from __future__ import annotations

import itertools

from llvmlite import ir

from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.llvm_types import I64, POINTER
from onnxplan.kernels.cpu.tiling import ceil_div

LINE_BYTES = 64
PAGE_BYTES = 4096
PAGES_AHEAD = 4
"""Pages that lines are fetched from in turn. They and the pages being read are half of a first cache."""

UNROLL = 4
"""Rows of B in a pass of the largest micro-kernels' loop."""
LINES_AHEAD = 4
"""Lines of a later block to fetch in such a pass."""


def ahead_step(emitter: Emitter, row_bytes: ir.Value, calls: ir.Value) -> ir.Value:
    """Bytes to fetch for each row of B, when a block as large as it is to arrive within ``calls`` calls."""
    share = emitter.add(emitter.divide(row_bytes, calls), 1)
    return emitter.minimum(share, LINE_BYTES * LINES_AHEAD // UNROLL)


def fetch_later(inner: Emitter, place: ir.Value, step: ir.Value, rows: int) -> None:
    """Asks for ``rows * step`` bytes from ``place`` on, into the second cache."""
    lines = max(1, LINES_AHEAD * rows // UNROLL)
    for line in range(lines):
        moved = inner.builder.lshr(inner.mul(step, rows * line), I64(lines.bit_length() - 1))
        inner.prefetch(inner.offset(place, moved), locality=2)


def fetch_ahead(
    inner: Emitter, b: ir.Value, row_bytes: int, place: ir.Value, step: ir.Value, rows: int
) -> None:
    """As :func:`fetch_later`, or with step 0 what comes next of ``b``, of which ``rows`` rows are read."""
    with inner.branch(inner.builder.icmp_signed("==", step, I64(0))) as (own, later):
        with own:
            fetch_next(inner, b, rows * row_bytes)
        with later:
            fetch_later(inner, place, step, rows)


def fetch_next(inner: Emitter, place: ir.Value, nbytes: int) -> None:
    """Asks for as many lines as ``nbytes`` bytes from ``place`` on are, from each of the next pages in turn.

    Processors fetch ahead within a page once it is read: more lines are under way where that is several pages
    at a time. Which lines are asked for hangs on the address alone, so in the end it is nearly all of them.
    """
    builder, window = inner.builder, PAGES_AHEAD * PAGE_BYTES
    lines = 1 << (ceil_div(nbytes, LINE_BYTES) - 1).bit_length()
    pages = min(PAGES_AHEAD, lines)
    address = builder.ptrtoint(place, I64)
    inside = builder.and_(address, I64(window - 1))
    number = inner.divide(inside, LINE_BYTES)
    moved = inner.mul(inner.divide(number, PAGES_AHEAD), LINE_BYTES)
    if pages < PAGES_AHEAD:
        first_page = builder.and_(number, I64(PAGES_AHEAD - pages))
        moved = inner.add(moved, inner.mul(first_page, PAGE_BYTES))
    target = inner.add(inner.add(builder.sub(address, inside), window), moved)
    pointer = builder.inttoptr(target, POINTER)
    for line, page in itertools.product(range(lines // pages), range(pages)):
        inner.prefetch(inner.offset(pointer, page * PAGE_BYTES + line * LINE_BYTES))
