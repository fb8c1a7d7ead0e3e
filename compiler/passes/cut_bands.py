"""Convolutions around a depthwise one go band by band through an image whose features caches do not hold.

Mobile nets widen an image to several times its channels, filter it, and narrow it again. What they write on
the way is read once, by the next step; in bands of rows it is still in the cache by then.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

from onnxplan.compiler.passes.index import Index
from onnxplan.compiler.passes.output_views import has_rows
from onnxplan.compiler.primitives import Conv
from onnxplan.compiler.program import Operation, Program
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import Storage, View

ROWS = 1
"""The axis that is cut: the first one of an image."""
BAND_SHARE = 0.375
"""The part of the caches that what is between the convolutions of a band may take."""
REPEATED_SHARE = 0.125
"""Rows that two bands need are computed twice: at most so many of all."""

Rows = tuple[int, int]
"""The first row, and the one behind the last."""


def cut_bands(program: Program, target: Target) -> Program:
    """Replaces a depthwise convolution and pointwise ones before and behind it by the same for bands of rows.

    Done for single images, where what is between them is read by nothing else and does not fit into the
    caches that the target's cores have to themselves. Requires that epilogues are attached. Ensures equal
    results: each element is computed as before, those of rows that two bands need twice.
    """
    room = target.private_cache_bytes
    depthwise = [operation for operation in program.operations if _is_depthwise(operation)]
    if not room or not depthwise:
        return program
    index = Index.of(program)
    replaced: dict[Operation, list[Operation]] = {}
    for operation in depthwise:
        chain = _chain(index, operation)
        between = sum(each.outputs[0].storage.nbytes for each in chain[:-1])
        if between > room and replaced.keys().isdisjoint(chain):
            bands = _bands(chain, math.ceil(between / (BAND_SHARE * room)))
            replaced |= {each: [] for each in chain[:-1]} | {chain[-1]: bands} if bands else {}
    if replaced:
        operations = program.operations
        program.operations = [new for each in operations for new in replaced.get(each, [each])]
    return program


def _is_depthwise(operation: Operation) -> bool:
    """Is it a convolution of one image with as many groups as input channels?"""
    primitive = operation.primitive
    if not isinstance(primitive, Conv):
        return False
    x = operation.inputs[0]
    return x.shape[0] == 1 and 1 < primitive.groups == x.shape[-1]


def _is_pointwise(operation: Operation) -> bool:
    primitive = operation.primitive
    return (
        isinstance(primitive, Conv)
        and primitive.groups == 1
        and all(extent == 1 for extent in operation.inputs[1].shape[:-2])
    )


def _chain(index: Index, depthwise: Operation) -> list[Operation]:
    """The operation between the pointwise ones before and behind it, if nothing else reads what is between.

    Channels are neighbours in what the first reads and the last writes. Empty where there are no such.
    """
    before = index.sole_writer(depthwise.inputs[0].storage)
    behind = index.sole_reader(depthwise.outputs[0].storage)
    if before is None or behind is None or not (_is_pointwise(before) and _is_pointwise(behind)):
        return []
    follow = _follows(index, before, depthwise) and _follows(index, depthwise, behind)
    in_rows = has_rows(before.inputs[0]) and has_rows(behind.outputs[0])
    return [before, depthwise, behind] if follow and in_rows else []


def _follows(index: Index, first: Operation, second: Operation) -> bool:
    """Is the whole result of ``first`` what ``second`` convolves, and has it no other use?"""
    result = first.outputs[0]
    return (
        index.sole_writer(result.storage) is first
        and index.sole_reader(result.storage) is second
        and second.inputs[0].shape == result.shape
        and second.inputs[0].is_dense
        and second.inputs[0].covers_storage
        and all(view.storage is not result.storage for view in second.inputs[1:])
    )


def _bands(chain: list[Operation], count: int) -> list[Operation]:
    """The operations of ``chain`` for ``count`` bands; none if they repeat too much, or one reads no row."""
    rows = chain[-1].outputs[0].shape[ROWS]
    count = min(count, rows)
    cuts = [rows * number // count for number in range(count + 1)]
    bands = [_extents(chain, band) for band in itertools.pairwise(cuts)]
    computed = sum(stop - start for extents in bands for start, stop in extents[1:-1])
    needed = sum(operation.outputs[0].shape[ROWS] for operation in chain[:-1])
    empty = any(start >= stop for extents in bands for start, stop in extents)
    if empty or computed > (1 + REPEATED_SHARE) * needed:
        return []
    return [operation for extents in bands for operation in _band(chain, extents)]


def _extents(chain: list[Operation], rows: Rows) -> list[Rows]:
    """The rows that each operation reads for ``rows`` of the last one's result, and behind them these."""
    extents = [rows]
    for operation in reversed(chain):
        first, last = _taps(operation, *extents[0])
        extents.insert(0, (max(first, 0), min(last, operation.inputs[0].shape[ROWS])))
    return extents


def _taps(operation: Operation, start: int, stop: int) -> Rows:
    """The rows that the taps of a convolution meet for these of its result, padding included."""
    primitive = operation.primitive
    assert isinstance(primitive, Conv)
    reach = (operation.inputs[1].shape[0] - 1) * primitive.dilations[0] + 1
    stride, pad = primitive.strides[0], primitive.pads[0]
    return start * stride - pad, (stop - 1) * stride - pad + reach


def _band(chain: list[Operation], extents: list[Rows]) -> list[Operation]:
    """The operations of ``chain`` for a band, see :func:`_extents`."""
    first, last = extents[0]
    x = chain[0].inputs[0].slice(ROWS, first, last - first)
    band: list[Operation] = []
    for operation, (above, _), (start, stop) in zip(chain, extents, extents[1:], strict=False):
        primitive = operation.primitive
        assert isinstance(primitive, Conv)
        pads = (above - _taps(operation, start, stop)[0], *primitive.pads[1:])
        extras = [extra.slice(ROWS, start, stop - start) for extra in operation.inputs[2:]]
        result = operation.outputs[0].slice(ROWS, start, stop - start)
        if operation is not chain[-1]:
            storage = Storage(result.dtype, result.size, f"{result.storage.name}:{start}")
            result = View.dense(storage, result.shape)
        inputs = (x, operation.inputs[1], *extras)
        band.append(Operation(replace(primitive, pads=pads), inputs, (result,), operation.nodes))
        x = result
    return band
