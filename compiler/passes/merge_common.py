"""Common subexpressions: what is computed twice is computed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

from onnxplan.compiler.passes.composition import same_layout
from onnxplan.compiler.passes.index import merged_nodes
from onnxplan.compiler.program import Operation, Program
from onnxplan.compiler.view import Storage, View, normal_strides

SMALL_BYTES = 256
"""Constants up to this size are compared by content."""


def merge_common(program: Program) -> Program:
    """Removes operations that compute what an earlier one has computed already.

    Requires nothing. Two operations are equal if their primitives are and their inputs show the same elements
    (of the same storage, or of small constants of equal content), and if each of their results fills a
    storage of its own in the same layout. Readers of the later one read the earlier one's results.
    """
    writes = Counter([view.storage for operation in program.operations for view in operation.outputs])
    known: dict[Hashable, Operation] = {}
    lone: dict[Storage, Operation] = {}
    replaced: dict[Storage, Storage] = {}
    kept: list[Operation] = []
    for operation in program.operations:
        if replaced:
            operation.inputs = tuple(_moved(view, replaced) for view in operation.inputs)
        if any(writes[view.storage] > 1 for view in operation.outputs):
            kept.append(operation)
            continue
        if _is_lone(operation, lone, known):
            kept.append(operation)
            continue
        twin = known.setdefault(_key(operation), operation)
        if twin is operation or not _interchangeable(twin, operation):
            kept.append(operation)
            continue
        twin.nodes = merged_nodes(twin, operation)
        for own, other in zip(operation.outputs, twin.outputs, strict=True):
            replaced[own.storage] = other.storage
    program.operations = kept
    if replaced:
        for name, view in program.outputs.items():
            program.outputs[name] = _moved(view, replaced)
    return program


def _moved(view: View, replaced: dict[Storage, Storage]) -> View:
    storage = replaced.get(view.storage)
    return view if storage is None else View(storage, view.offset, view.shape, view.strides)


def _is_lone(operation: Operation, lone: dict[Storage, Operation], known: dict[Hashable, Operation]) -> bool:
    """Is it the first whose first input is of its storage? Most are, and none before can equal them.

    It becomes ``lone`` then; with the second it is ``known``.
    """
    storage = operation.inputs[0].storage if operation.inputs else None
    if storage is None or storage.is_constant:
        return False
    first = lone.setdefault(storage, operation)
    if first is operation:
        return True
    known.setdefault(_key(first), first)
    return False


def _key(operation: Operation) -> Hashable:
    return (operation.primitive, *map(_operand_key, operation.inputs))


def _operand_key(view: View) -> Hashable:
    storage = view.storage
    layout = (view.offset, view.shape, normal_strides(view.shape, view.strides))
    data = storage.constant
    if data is not None and storage.nbytes <= SMALL_BYTES and not data.dtype.hasobject:
        return (storage.dtype.label, data.tobytes(), layout)
    return (storage, layout)


def _interchangeable(a: Operation, b: Operation) -> bool:
    """Do the results of two equal operations fill their storages in the same way?"""
    if len(a.outputs) != len(b.outputs):
        return False
    for own, other in zip(a.outputs, b.outputs, strict=True):
        if own.dtype is not other.dtype or own.storage.size != other.storage.size:
            return False
        if not same_layout(View(other.storage, own.offset, own.shape, own.strides), other):
            return False
    return True
