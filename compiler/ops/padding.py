"""Pad: constant borders are written around a copy, the other modes gather along each axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxplan.compiler.arrangement import layout_order
from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import normal_axes, single, values
from onnxplan.compiler.primitives import Gather
from onnxplan.compiler.registry import operator
from onnxplan.compiler.view import View

Pads = Sequence[tuple[int, int]]
"""Elements to add (or, if negative, to remove) before and after each axis."""


@operator("Pad")
def pad_by_old_attributes(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Pad.html, version 1"""
    return _pad_by_attributes(b, node, x, node.integers("paddings"))


@operator("Pad", since=2)
def pad_by_attributes(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Pad.html, version 2"""
    return _pad_by_attributes(b, node, x, node.integers("pads"))


def _pad_by_attributes(b: Builder, node: Node, x: View, widths: Sequence[int]) -> View:
    value = b.constant(node.float("value", 0.0), x.dtype)
    mode = node.string("mode", "constant")
    return padded(b, x, _pairs(widths, range(x.rank), x.rank), value, mode)


@operator("Pad", since=11)
def pad(
    b: Builder, node: Node, x: View, widths: View, value: View | None = None, axes: View | None = None
) -> View:
    """https://onnx.ai/onnx/operators/onnx__Pad.html"""
    known = [None if array is None else array.reshape(-1).tolist() for array in values(b, (widths, axes))]
    pads = known[0] or []
    chosen = range(x.rank) if known[1] is None else normal_axes(known[1], x.rank)
    if value is None:
        fill = b.constant("" if x.dtype.kind == "s" else 0, x.dtype)
    else:
        fill = single(b, value)
        if fill.dtype is not x.dtype:
            raise TypeError(f"the value is {fill.dtype}, the data {x.dtype}")
    return padded(b, x, _pairs(pads, chosen, x.rank), fill, node.string("mode", "constant"))


def _pairs(widths: Sequence[int], axes: Sequence[int], rank: int) -> Pads:
    if len(widths) != 2 * len(axes):
        raise ValueError(f"{len(widths)} pads for {len(axes)} axes")
    pads = [(0, 0)] * rank
    for axis, before, after in zip(axes, widths[: len(axes)], widths[len(axes) :], strict=True):
        pads[axis] = (before, after)
    return pads


def padded(b: Builder, x: View, pads: Pads, value: View, mode: str = "constant") -> View:
    """``x`` with so many elements more before and after each axis, or less where they are negative."""
    for axis, (before, after) in enumerate(pads):
        start, end = max(-before, 0), x.shape[axis] - max(-after, 0)
        if start > end:
            raise ValueError(f"the pads {before} and {after} remove more than there is along axis {axis}")
        x = x.slice(axis, start, end - start)
    pads = [(max(before, 0), max(after, 0)) for before, after in pads]
    if not any(before or after for before, after in pads):
        return x
    if mode == "constant":
        return pad_with(b, x, pads, value)
    if mode not in ("reflect", "edge", "wrap"):
        raise ValueError(f"mode {mode!r} is not one of constant, reflect, edge and wrap")
    for axis, widths in enumerate(pads):
        if any(widths):
            x = _pad_axis(b, x, axis, widths, mode)
    return x


def _pad_axis(b: Builder, x: View, axis: int, widths: tuple[int, int], mode: str) -> View:
    padding: Any = np.pad
    positions = padding(np.arange(x.shape[axis], dtype=np.int64), widths, mode)
    shape = (*x.shape[:axis], positions.size, *x.shape[axis + 1 :])
    target = b.new(x.dtype, shape, layout_order(x.shape, [x]))
    return b.emit(Gather(axis), [x, b.constant(positions)], [target])[0]


def pad_with(b: Builder, x: View, pads: Pads, value: View, *, dense: bool = False) -> View:
    """``x`` with a border of the scalar ``value``; ``dense`` is row-major, else axes are in x's order."""
    if x.is_constant and value.is_constant:
        fill = value.numpy().reshape(()) if value.dtype is DType.STRING else value.numpy().item()
        return b.constant(np.pad(x.numpy(), pads, constant_values=fill), x.dtype)
    shape = tuple(before + extent + after for (before, after), extent in zip(pads, x.shape, strict=True))
    result = b.new(x.dtype, shape, None if dense else layout_order(x.shape, [x]))
    inner = result
    for axis, (before, after) in enumerate(pads):
        extent = x.shape[axis]
        for start, length in ((0, before), (before + extent, after)):
            border = inner.slice(axis, start, length)
            if border.size:
                _fill(b, border, value)
        inner = inner.slice(axis, before, extent)
    if x.size:
        b.copy_into(x, inner)
    return result


def _fill(b: Builder, target: View, value: View) -> None:
    if value.is_constant and value.dtype.kind in "fiub":
        b.fill_into(value.numpy().item(), target)
    else:
        b.copy_into(value.expand(target.shape), target)
