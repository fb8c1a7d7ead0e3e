"""Checks that a program is what the next pass may take for granted."""

from __future__ import annotations

import numpy as np

from onnxplan.compiler.errors import CompilerError
from onnxplan.compiler.program import Operation, Program
from onnxplan.compiler.verify_expression import MalformedError, demand
from onnxplan.compiler.verify_primitive import check_operation
from onnxplan.compiler.view import Storage, View

# Up to this many elements a storage's coverage by its writers is checked element by element.
_EXACT_SIZE = 1 << 14


def verify_program(program: Program, after: str) -> None:
    """Raises :class:`CompilerError`, naming the pass ``after``, unless ``program`` is well-formed.

    Views lie inside of their storages, operands have the shapes and types that primitives demand, no
    operation writes an input, a constant, or a storage that was read before, and what is read was written:
    all elements of the storage, checked one by one for small storages and by number for large ones.
    """
    try:
        _check_inputs(program)
    except MalformedError as problem:
        raise CompilerError(f"after {after}: {problem}") from None
    inputs = {view.storage for view in program.inputs.values()}
    written: dict[Storage, list[View]] = {}
    complete: set[Storage] = set(inputs)
    for number, operation in enumerate(program.operations):
        try:
            for view in operation.views:
                check_view(view)
            check_operation(operation)
            for view in operation.inputs:
                if view.storage not in complete:
                    _check_written(view.storage, written.get(view.storage, []))
                    complete.add(view.storage)
            for view in operation.outputs:
                _check_target(view, inputs, complete)
                written.setdefault(view.storage, []).append(view)
        except MalformedError as problem:
            raise CompilerError(
                f"after {after}: operation {number}, {_describe(operation)}: {problem}"
            ) from None
    for name, view in program.outputs.items():
        try:
            check_view(view)
            if view.storage not in complete:
                _check_written(view.storage, written.get(view.storage, []))
        except MalformedError as problem:
            raise CompilerError(f"after {after}: output {name!r}: {problem}") from None


def _describe(operation: Operation) -> str:
    """What can be said of an operation whose expression may be too broken to print."""
    targets = ", ".join(f"{view.storage.name}:{view.dtype}{list(view.shape)}" for view in operation.outputs)
    origin = f" from {', '.join(operation.nodes)}" if operation.nodes else ""
    return f"{type(operation.primitive).__name__} writing {targets}{origin}"


def check_view(view: View) -> None:
    """Raises :class:`MalformedError` unless all elements of ``view`` lie inside of its storage."""
    shape, strides = view.shape, view.strides
    if len(shape) != len(strides):
        demand(False, f"view of {view.storage.name!r} has {len(shape)} extents and {len(strides)} strides")
    low = high = view.offset
    empty = False
    for extent, stride in zip(shape, strides, strict=True):
        if extent <= 0:
            demand(extent == 0, f"{view} has a negative extent")
            empty = True
        elif stride > 0:
            high += (extent - 1) * stride
        else:
            low += (extent - 1) * stride
    if not empty and (low < 0 or high >= view.storage.size):
        demand(False, f"{view} spans elements {low} to {high} of a storage of {view.storage.size}")


def _check_inputs(program: Program) -> None:
    for name, view in program.inputs.items():
        check_view(view)
        whole = view.offset == 0 and view.is_dense and view.size == view.storage.size
        demand(whole, f"input {name!r} is not the dense view of its storage: {view}")
        demand(not view.is_constant, f"input {name!r} is a constant")


def _check_target(view: View, inputs: set[Storage], complete: set[Storage]) -> None:
    storage = view.storage
    demand(storage not in inputs, f"writes the input {storage.name!r}")
    demand(not storage.is_constant, f"writes the constant {storage.name!r}")
    demand(storage not in complete, f"writes {storage.name!r}, which was read before")
    for extent, stride in zip(view.shape, view.strides, strict=True):
        if stride == 0 and extent > 1:
            demand(False, f"writes elements of {view} more than once")


def _check_written(storage: Storage, views: list[View]) -> None:
    data = storage.elements()
    if data is not None:
        demand(data.shape == (storage.size,), f"constant {storage.name!r} has shape {data.shape}")
        matches = data.dtype == storage.dtype.numpy
        demand(matches, f"constant {storage.name!r} is {data.dtype}, not {storage.dtype}")
        return
    if storage.size == 0 or any(view.covers_storage for view in views):
        return
    demand(bool(views), f"reads {storage.name!r}, which nothing has written")
    if storage.size > _EXACT_SIZE:
        count = sum(view.size for view in views)
    else:
        mask = np.zeros(storage.size, np.bool_)
        for view in views:
            if view.size:
                np.lib.stride_tricks.as_strided(mask[view.offset :], view.shape, view.strides)[...] = True
        count = int(mask.sum())
    demand(
        count >= storage.size,
        f"reads {storage.name!r}, of which {count} of {storage.size} elements are written",
    )
