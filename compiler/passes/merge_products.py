"""Products of one matrix with several constant ones become a single product: query, key and value at once."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.constant_pool import ConstantPool, derived_key
from onnxplan.compiler.passes.composition import translate
from onnxplan.compiler.passes.elide_copies import is_copy
from onnxplan.compiler.passes.index import Index, merged_nodes
from onnxplan.compiler.primitives import MatMul
from onnxplan.compiler.program import Operation, Program
from onnxplan.compiler.view import Storage, View, normal_strides

NARROW = 4096
"""Products with results wider than this gain nothing from being merged."""


def merge_products(program: Program, pool: ConstantPool) -> Program:
    """Merges :class:`MatMul` operations that share their left operand and have constant right ones.

    Requires that epilogues are fused. Operations are merged if their primitives are equal, each fills a dense
    storage of its own, the extras of their epilogues are constants that vary along the columns only, or the
    same view in all, and all that read a result can read it as columns of the merged one. The left operand
    is then read once, and a narrow result no longer leaves threads without work.
    """
    products = [operation for operation in program.operations if _has_narrow_weights(operation)]
    if len(products) < 2:
        return program
    groups: dict[object, list[Operation]] = {}
    index = Index.of(program)
    for operation in products:
        if _may_merge(index, operation):
            a = operation.inputs[0]
            strides = normal_strides(a.shape, a.strides)
            key = (operation.primitive, a.storage, a.offset, a.shape, strides, operation.outputs[0].dtype)
            groups.setdefault(key, []).append(operation)
    for group in groups.values():
        if len(group) > 1:
            _merge(index, group, pool)
    return index.finish()


def _has_narrow_weights(operation: Operation) -> bool:
    if not isinstance(operation.primitive, MatMul) or not operation.inputs[1].is_constant:
        return False
    out = operation.outputs[0]
    return out.rank == 2 and out.shape[1] <= NARROW


def _may_merge(index: Index, operation: Operation) -> bool:
    out = operation.outputs[0]
    return (
        out.is_dense
        and out.covers_storage
        and out.storage not in index.outputs
        and index.sole_writer(out.storage) is operation
        and not any(is_copy(reader) for reader in index.readers(out.storage))
    )


def _merge(index: Index, group: Sequence[Operation], pool: ConstantPool) -> None:
    extras = [_merged_extra(views, pool) for views in zip(*(o.inputs[2:] for o in group), strict=True)]
    if any(view is None for view in extras):
        return
    first = group[0]
    rows = first.outputs[0].shape[0]
    widths = [operation.outputs[0].shape[1] for operation in group]
    storage = Storage(first.outputs[0].dtype, rows * sum(widths), first.outputs[0].storage.name)
    whole = View.dense(storage, (rows, sum(widths)))
    changed: dict[Operation, list[View]] = {}
    start = 0
    for operation, width in zip(group, widths, strict=True):
        part = whole.slice(1, start, width)
        start += width
        out = operation.outputs[0]
        for reader in index.readers(out.storage):
            inputs = changed.setdefault(reader, list(reader.inputs))
            for number, view in enumerate(reader.inputs):
                if view.storage is out.storage:
                    moved = translate(view, out, part)
                    if moved is None:
                        return
                    inputs[number] = moved
    b = _beside([operation.inputs[1] for operation in group], pool)
    kept = [view for view in extras if view is not None]
    merged = Operation(first.primitive, (first.inputs[0], b, *kept), (whole,), merged_nodes(*group))
    for reader, inputs in changed.items():
        index.become(reader, Operation(reader.primitive, tuple(inputs), reader.outputs, reader.nodes))
    for operation in group[1:]:
        index.remove(operation)
    index.become(first, merged)


def _merged_extra(views: Sequence[View], pool: ConstantPool) -> View | None:
    """What the merged product reads where each product read one of ``views``."""
    first = views[0]
    width = sum(view.shape[1] for view in views)
    if all(view.strides[1] == 0 and view == replace(first, shape=view.shape) for view in views):
        return View(first.storage, first.offset, (first.shape[0], width), first.strides)
    if all(view.is_constant and normal_strides(view.shape, view.strides)[0] == 0 for view in views):
        row = _beside([View(v.storage, v.offset, (1, v.shape[1]), v.strides) for v in views], pool)
        return row.expand((first.shape[0], width))
    return None


def _beside(views: Sequence[View], pool: ConstantPool) -> View:
    """Constant matrices side by side."""
    shape = (views[0].shape[0], sum(view.shape[1] for view in views))
    key = derived_key("columns side by side", views)
    name = "|".join(view.storage.name for view in views)
    size = math.prod(shape)
    make = functools.partial(_columns_of, views)
    return View.dense(pool.defer(key, views[0].dtype, size, make, name), shape)


def _columns_of(views: Sequence[View]) -> npt.NDArray[Any]:
    return np.concatenate([view.numpy() for view in views], 1)
