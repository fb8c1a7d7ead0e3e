"""Branches and loops: decided when planning, and lowered in place.

A condition that depends on data is asked for, which cuts the model into stages (see :mod:`lowering`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from onnxplan.compiler.ir import Graph, Node, TensorType, Value
from onnxplan.compiler.lowering import Lowering
from onnxplan.compiler.ops.common import integer, integers, normal_axis
from onnxplan.compiler.registry import operator
from onnxplan.compiler.structures import Lowered, tensor
from onnxplan.compiler.view import View

ITERATION_LIMIT = 100_000
"""A loop of more iterations is refused: each is planned by itself."""


@operator("If")
def branch(b: Lowering, node: Node, condition: View) -> list[Lowered]:
    """https://onnx.ai/onnx/operators/onnx__If.html"""
    return b.inline(node.graph("then_branch" if _truth(b, condition) else "else_branch"), ())


@operator("Loop")
def loop(
    b: Lowering, node: Node, trip_count: View | None = None, condition: View | None = None, *initial: Lowered
) -> list[Lowered]:
    """https://onnx.ai/onnx/operators/onnx__Loop.html

    What is carried may change its shape or length, and be present in one iteration and absent in another.
    """
    body = node.graph("body")
    limit = None if trip_count is None else integer(b, trip_count)
    carried = list(initial)
    collected: list[list[Lowered]] = [[] for _ in body.outputs[1 + len(carried) :]]
    for iteration in itertools.count():
        if limit is not None and iteration >= limit:
            break
        if condition is not None and not _truth(b, condition):
            break
        if iteration == ITERATION_LIMIT:
            raise ValueError(f"more than {ITERATION_LIMIT} iterations are not supported")
        first = [b.constant(np.int64(iteration)), b.constant(np.bool_(True))]
        results = b.inline(body, [*first, *carried])
        condition = tensor(results[0], "the condition")
        carried = results[1 : 1 + len(carried)]
        for elements, element in zip(collected, results[1 + len(carried) :], strict=True):
            elements.append(element)
    values = body.outputs[1 + len(carried) :]
    return [*carried, *(_stack(b, *pair, 0) for pair in zip(collected, values, strict=True))]


@operator("Scan")
def scan_8(b: Lowering, node: Node, lengths: View | None, *operands: View) -> list[View]:
    """https://onnx.ai/onnx/operators/onnx__Scan.html (version 8)

    A loop over each sequence of a batch. Beyond a sequence's length scan outputs are undefined; here zero.
    """
    count = node.integer("num_scan_inputs")
    states, sequences = operands[: len(operands) - count], operands[len(operands) - count :]
    if not sequences or any(view.rank < 2 for view in sequences):
        raise ValueError("scan inputs need a batch and a sequence axis")
    batch, steps = sequences[0].shape[:2]
    if any(view.shape[:2] != (batch, steps) for view in sequences):
        raise ValueError("scan inputs differ in the extents of their batch or sequence axes")
    reverse = node.integers("directions", (0,) * count)
    limits = (steps,) * batch if lengths is None else integers(b, lengths)
    body = node.graph("body")
    rows = []
    for row, limit in zip(range(batch), limits, strict=True):
        if not 0 <= limit <= steps:
            raise ValueError(f"sequence length {limit} is not within 0 and {steps}")
        initial = [_element(view, 0, row) for view in states]
        parts = [_element(view, 0, row).slice(0, 0, limit) for view in sequences]
        carried, collected = _scan(b, body, initial, parts, (0,) * count, reverse)
        stacked = [
            _stack(b, elements, value, 0)
            for elements, value in zip(collected, body.outputs[len(carried) :], strict=True)
        ]
        rows.append([*carried, *(_padded(b, view, steps) for view in stacked)])
    return [
        _stack(b, list(column), value, 0)
        for column, value in zip(zip(*rows, strict=True), body.outputs, strict=True)
    ]


@operator("Scan", since=9)
def scan(b: Lowering, node: Node, *operands: Lowered) -> list[Lowered]:
    """https://onnx.ai/onnx/operators/onnx__Scan.html

    States may be sequences and optionals too, as those of Loop may, which the standard leaves out here.
    """
    count = node.integer("num_scan_inputs")
    states = operands[: len(operands) - count]
    sequences = [tensor(value, "a scan input") for value in operands[len(states) :]]
    if not sequences:
        raise ValueError("a scan input is needed")
    body = node.graph("body")
    values = body.outputs[len(states) :]
    axes = tuple(
        normal_axis(axis, view.rank)
        for axis, view in zip(node.integers("scan_input_axes", (0,) * count), sequences, strict=True)
    )
    reverse = node.integers("scan_input_directions", (0,) * count)
    carried, collected = _scan(b, body, list(states), sequences, axes, reverse)
    output_axes = node.integers("scan_output_axes", (0,) * len(values))
    prepended = node.integers("scan_output_directions", (0,) * len(values))
    stacked = [
        _stack(b, elements[::-1] if backwards else elements, value, axis)
        for elements, value, axis, backwards in zip(collected, values, output_axes, prepended, strict=True)
    ]
    return [*carried, *stacked]


def _scan(
    b: Lowering,
    body: Graph,
    carried: Sequence[Lowered],
    sequences: Sequence[View],
    axes: Sequence[int],
    reverse: Sequence[int],
) -> tuple[list[Lowered], list[list[Lowered]]]:
    """Runs ``body`` over the elements of ``sequences``: the final states, and each scan output's elements."""
    steps = sequences[0].shape[axes[0]]
    if any(view.shape[axis] != steps for view, axis in zip(sequences, axes, strict=True)):
        raise ValueError("scan inputs differ in length")
    carried = list(carried)
    collected: list[list[Lowered]] = [[] for _ in body.outputs[len(carried) :]]
    for step in range(steps):
        elements = [
            _element(view, axis, steps - 1 - step if backwards else step)
            for view, axis, backwards in zip(sequences, axes, reverse, strict=True)
        ]
        results = b.inline(body, [*carried, *elements])
        carried = results[: len(carried)]
        for items, item in zip(collected, results[len(carried) :], strict=True):
            items.append(item)
    return carried, collected


def _truth(b: Lowering, condition: View) -> bool:
    if condition.size != 1:
        raise ValueError(f"a condition of one element is expected, not of shape {list(condition.shape)}")
    return bool(b.value(condition).reshape(())[()])


def _element(view: View, axis: int, position: int) -> View:
    return view.slice(axis, position, 1).squeeze((axis,))


def _stack(b: Lowering, elements: Sequence[Lowered], value: Value, axis: int) -> View:
    """The elements along a new ``axis``. Without any, the shape is that which ``value`` declares, and 0 for
    what it leaves open."""
    views = [tensor(element, f"output {value.name!r} of the body") for element in elements]
    if views:
        if any(view.shape != views[0].shape for view in views):
            raise ValueError(f"output {value.name!r} of the body changes its shape between iterations")
        axis = normal_axis(axis, views[0].rank + 1)
        return b.concat([view.unsqueeze((axis,)) for view in views], axis)
    if not isinstance(value.type, TensorType) or value.type.shape is None:
        raise ValueError(
            f"there are no iterations, and output {value.name!r} of the body has no declared shape"
        )
    shape = [extent if isinstance(extent, int) else 0 for extent in value.type.shape]
    shape.insert(normal_axis(axis, len(shape) + 1), 0)
    return b.constant(np.zeros(shape, value.type.dtype.numpy))


def _padded(b: Lowering, view: View, steps: int) -> View:
    """``view`` with zeros at the end of its first axis, up to ``steps``."""
    if view.shape[0] == steps:
        return view
    padding = np.zeros((steps - view.shape[0], *view.shape[1:]), view.dtype.numpy)
    return b.concat([view, b.constant(padding)], 0)
