"""TensorScatter: rows of a cache replaced by new ones, each result a choice between the two."""

from __future__ import annotations

import math

import numpy as np

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import choose, normal_axis, scalar_map
from onnxplan.compiler.primitives import Gather
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, apply, index, select
from onnxplan.compiler.view import View


@operator("TensorScatter", since=24)
def tensor_scatter(b: Builder, node: Node, cache: View, update: View, starts: View | None = None) -> View:
    """https://onnx.ai/onnx/operators/onnx__TensorScatter.html

    In linear mode, rows that would lie outside of the cache are dropped where only a run can see them.
    """
    axis = normal_axis(node.integer("axis", -2), cache.rank)
    mode = node.string("mode", "linear")
    if mode not in ("linear", "circular"):
        raise ValueError(f"mode {mode!r} is neither linear nor circular")
    if axis == 0:
        raise ValueError("the batch axis cannot be the sequence axis")
    count, extent = update.shape[axis] if update.rank == cache.rank else -1, cache.shape[axis]
    expected = (*cache.shape[:axis], count, *cache.shape[axis + 1 :])
    if update.shape != expected or count > extent:
        raise ValueError(f"an update of shape {list(update.shape)} for a cache of {list(cache.shape)}")
    if starts is None:
        starts = b.constant(np.zeros(cache.shape[0], np.int64))
    if starts.shape != cache.shape[:1]:
        raise ValueError(f"write indices of shape {list(starts.shape)} for {cache.shape[0]} sequences")
    if mode == "linear" and starts.is_constant and starts.size:
        first, last = int(starts.numpy().min()), int(starts.numpy().max()) + count
        if first < 0 or last > extent:
            raise ValueError(f"rows {first} to {last} are written to a cache of {extent}")
    return write_rows(b, cache, update, starts, axis, circular=mode == "circular")


def write_rows(b: Builder, cache: View, update: View, starts: View, axis: int, *, circular: bool) -> View:
    """``cache`` with ``update`` along ``axis`` from ``starts (B)`` on, around the end if ``circular``."""
    count, extent = update.shape[axis], cache.shape[axis]
    if count == 0 or cache.size == 0:
        return cache
    lead, rest = cache.shape[:axis], cache.shape[axis + 1 :]
    first = b.cast(starts, DType.INT64).unsqueeze(tuple(range(1, axis + 1)))
    bases = np.arange(math.prod(lead), dtype=np.int64).reshape(*lead, 1) * count
    settings = (axis, count, extent, circular)
    places = scalar_map(b, _source, first.expand((*lead, extent)), b.constant(bases), parameters=settings)
    rows = b.reshape(update, (math.prod(lead) * count, *rest))
    fresh = b.emit(Gather(0), [rows, places], [b.new(update.dtype, cache.shape)])[0]
    first = first.unsqueeze(tuple(range(axis + 1, cache.rank)))
    if cache.dtype.kind == "c":
        written = scalar_map(b, _is_written, first.expand(cache.shape), parameters=settings)
        return choose(b, written, fresh, cache)
    return scalar_map(b, _chosen, cache, fresh, first, parameters=settings)


def _distance(start: Scalar, axis: int, extent: int, circular: bool) -> Scalar:
    """How far behind the first written row a row lies."""
    distance = index(start, axis) - start
    return apply("mod", distance, extent) if circular else distance


def _source(start: Scalar, base: Scalar, axis: int, count: int, extent: int, circular: bool) -> Scalar:
    distance = _distance(start, axis, extent, circular)
    return base + apply("max", apply("min", distance, count - 1), 0)


def _chosen(
    old: Scalar, new: Scalar, start: Scalar, axis: int, count: int, extent: int, circular: bool
) -> Scalar:
    return select(_is_written(start, axis, count, extent, circular), new, old)


def _is_written(start: Scalar, axis: int, count: int, extent: int, circular: bool) -> Scalar:
    distance = _distance(start, axis, extent, circular)
    return apply("and", distance >= 0, distance < count)
