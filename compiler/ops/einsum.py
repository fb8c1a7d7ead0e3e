"""Einsum: diagonals are views, sums over the axes of one operand come first, the rest are matrix products."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import expression, wide
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, cast, reduce
from onnxplan.compiler.view import View

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Term:
    """A tensor with a label for each axis; no label occurs twice."""

    view: View
    labels: Labels

    def arranged(self, labels: Sequence[str]) -> View:
        """The axes in the order of ``labels``; those that the tensor lacks have extent 1."""
        own = [label for label in labels if label in self.labels]
        view = self.view.transpose(tuple(self.labels.index(label) for label in own))
        return view.unsqueeze(tuple(axis for axis, label in enumerate(labels) if label not in self.labels))

    def extent(self, labels: Sequence[str]) -> int:
        return math.prod(self.view.shape[self.labels.index(label)] for label in labels)


@operator("Einsum", since=12)
def einsum(b: Builder, node: Node, *operands: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Einsum.html"""
    if any(operand.dtype is not operands[0].dtype for operand in operands):
        raise TypeError("the element types differ")
    inputs, output = parse(node.string("equation"), [operand.rank for operand in operands])
    extents = _extents(inputs, operands)
    pending = [
        _without_broadcast(_diagonal(view, labels), extents)
        for view, labels in zip(operands, inputs, strict=True)
    ]
    result = pending.pop(0)
    while pending:
        other = pending.pop(0)
        kept = {label for term in pending for label in term.labels} | set(output)
        result = _contract(b, result, other, kept)
    result = _sum_out(b, result, set(output))
    return result.arranged(output).expand(tuple(extents[label] for label in output))


def parse(equation: str, ranks: Sequence[int]) -> tuple[list[Labels], Labels]:
    """The labels of the operands' axes and of the output's; those of ellipses are ``.0``, ``.1``, ..."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise ValueError(f"equation {equation!r} has {len(terms)} terms for {len(ranks)} operands")
    inputs = [_labels(equation, term, rank) for term, rank in zip(terms, ranks, strict=True)]
    dots = max((tuple(label for label in labels if label[0] == ".") for labels in inputs), key=len)
    # Ellipses of fewer axes are aligned at the end, as broadcasting does.
    inputs = [_align_ellipsis(labels, len(dots)) for labels in inputs]
    if arrow:
        head, found, tail = right.partition("...")
        output = (*head, *(dots if found else ()), *tail)
    else:
        counts = Counter(label for labels in inputs for label in labels if label[0] != ".")
        output = (*dots, *sorted(label for label, count in counts.items() if count == 1))
    known = {label for labels in inputs for label in labels}
    if len(set(output)) != len(output) or not known.issuperset(output):
        raise ValueError(f"equation {equation!r} repeats an output label or has one that no operand has")
    return inputs, output


def _labels(equation: str, term: str, rank: int) -> Labels:
    head, found, tail = term.partition("...")
    letters = head + tail
    if not (letters.isascii() and (letters.isalpha() or not letters)):
        raise ValueError(f"equation {equation!r} holds something else than letters and ellipses")
    covered = rank - len(letters)
    if covered < 0 or (covered and not found):
        raise ValueError(f"term {term!r} of equation {equation!r} does not fit an operand of rank {rank}")
    return (*head, *(f".{axis}" for axis in range(covered)), *tail)


def _align_ellipsis(labels: Labels, count: int) -> Labels:
    missing = count - sum(label[0] == "." for label in labels)
    return tuple(f".{int(label[1:]) + missing}" if label[0] == "." else label for label in labels)


def _extents(inputs: Sequence[Labels], operands: Sequence[View]) -> dict[str, int]:
    extents: dict[str, int] = {}
    for labels, view in zip(inputs, operands, strict=True):
        for label, extent in zip(labels, view.shape, strict=True):
            known = extents.setdefault(label, extent)
            if known == 1:
                extents[label] = extent
            elif extent not in (1, known):
                raise ValueError(f"label {label!r} stands for axes of the extents {known} and {extent}")
    return extents


def _diagonal(view: View, labels: Labels) -> _Term:
    """One axis for each label: the axes of a repeated one are walked together."""
    strides: dict[str, int] = {}
    shape: dict[str, int] = {}
    for label, extent, stride in zip(labels, view.shape, view.strides, strict=True):
        if shape.get(label, extent) != extent:
            raise ValueError(f"label {label!r} repeats for axes of different extents")
        shape[label] = extent
        strides[label] = strides.get(label, 0) + stride
    return _Term(
        View(view.storage, view.offset, tuple(shape.values()), tuple(strides.values())), tuple(shape)
    )


def _without_broadcast(term: _Term, extents: dict[str, int]) -> _Term:
    """Without the axes of extent 1 that another operand extends."""
    dropped = [
        axis for axis, label in enumerate(term.labels) if term.view.shape[axis] == 1 and extents[label] != 1
    ]
    labels = tuple(label for axis, label in enumerate(term.labels) if axis not in dropped)
    return _Term(term.view.squeeze(tuple(dropped)), labels)


def _sum_out(b: Builder, term: _Term, kept: set[str]) -> _Term:
    axes = tuple(axis for axis, label in enumerate(term.labels) if label not in kept)
    if not axes:
        return term
    total = b.compute(expression(_total, (term.view.dtype,)), (term.view,), axes)[0].squeeze(axes)
    return _Term(total, tuple(label for label in term.labels if label in kept))


def _total(x: Scalar) -> Scalar:
    return cast(reduce("sum", cast(x, wide(x.dtype))), x.dtype)


def _dot(x: Scalar, y: Scalar) -> Scalar:
    computed = wide(x.dtype)
    return cast(reduce("sum", cast(x, computed) * cast(y, computed)), x.dtype)


def _contract(b: Builder, x: _Term, y: _Term, kept: set[str]) -> _Term:
    """The product of two tensors, summed over the labels that are not ``kept``."""
    x, y = _sum_out(b, x, kept | set(y.labels)), _sum_out(b, y, kept | set(x.labels))
    shared = [label for label in x.labels if label in y.labels]
    batch = [label for label in shared if label in kept]
    summed = [label for label in shared if label not in kept]
    rows = [label for label in x.labels if label not in shared]
    columns = [label for label in y.labels if label not in shared]
    if not summed:
        labels = (*batch, *rows, *columns)
        return _Term(b.scalar("mul", x.arranged(labels), y.arranged(labels)), labels)
    if not rows and not columns:
        labels = (*batch, *summed)
        axes = tuple(range(len(batch), len(labels)))
        body = expression(_dot, (x.view.dtype, y.view.dtype))
        total = b.compute(body, (x.arranged(labels), y.arranged(labels)), axes)[0]
        return _Term(total.squeeze(axes), tuple(batch))
    left, right = x.arranged((*batch, *rows, *summed)), y.arranged((*batch, *summed, *columns))
    outer = left.shape[: len(batch)]
    count = x.extent(summed)
    left = b.reshape(left, (*outer, x.extent(rows), count))
    right = b.reshape(right, (*outer, count, y.extent(columns)))
    product = b.matmul(left, right)
    labels = (*batch, *rows, *columns)
    shape = (*outer, *(x.extent([label]) for label in rows), *(y.extent([label]) for label in columns))
    return _Term(b.reshape(product, shape), labels)
