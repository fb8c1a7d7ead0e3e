"""Sequences and optionals: structures of tensors that exist when planning only (see :mod:`structures`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node, SequenceType, TensorType, Value, ValueType, standard_name
from onnxplan.compiler.lowering import Lowering
from onnxplan.compiler.ops.common import element_type, integer, integers, normal_axis
from onnxplan.compiler.ops.movement import concat_views
from onnxplan.compiler.registry import operator
from onnxplan.compiler.structures import Absent, Lowered, SequenceValue, tensor, type_of
from onnxplan.compiler.view import View


@operator("SequenceConstruct", since=11)
def sequence_construct(b: Builder, node: Node, *inputs: View) -> SequenceValue[View]:
    """https://onnx.ai/onnx/operators/onnx__SequenceConstruct.html"""
    if not inputs:
        raise ValueError("there is no tensor to take the element type of")
    return _sequence(inputs)


@operator("SequenceEmpty", since=11)
def sequence_empty(b: Builder, node: Node) -> SequenceValue[View]:
    """https://onnx.ai/onnx/operators/onnx__SequenceEmpty.html"""
    return SequenceValue(TensorType(element_type(node.integer("dtype", DType.FLOAT32.code)), None), ())


@operator("SequenceAt", since=11)
def sequence_at(b: Builder, node: Node, sequence: SequenceValue[View], position: View) -> Lowered:
    """https://onnx.ai/onnx/operators/onnx__SequenceAt.html"""
    return sequence.elements[_position(b, position, len(sequence.elements))]


@operator("SequenceInsert", since=11)
def sequence_insert(
    b: Builder, node: Node, sequence: SequenceValue[View], inserted: View, position: View | None = None
) -> SequenceValue[View]:
    """https://onnx.ai/onnx/operators/onnx__SequenceInsert.html

    Counted from the back, a position is that of the element which the new one comes before.
    """
    if not isinstance(sequence.element, TensorType) or sequence.element.dtype is not inserted.dtype:
        raise TypeError(f"a tensor of {inserted.dtype} does not go into a {standard_name(sequence.element)}s")
    elements = list(sequence.elements)
    count = len(elements)
    place = count if position is None else integer(b, position)
    if not -count <= place <= count:
        raise ValueError(f"position {place} is out of range for {count} elements")
    elements.insert(place, inserted)
    return SequenceValue(sequence.element, tuple(elements))


@operator("SequenceErase", since=11)
def sequence_erase(
    b: Builder, node: Node, sequence: SequenceValue[View], position: View | None = None
) -> SequenceValue[View]:
    """https://onnx.ai/onnx/operators/onnx__SequenceErase.html"""
    elements = list(sequence.elements)
    if not elements:
        raise ValueError("the sequence has no element to erase")
    del elements[-1 if position is None else _position(b, position, len(elements))]
    return SequenceValue(sequence.element, tuple(elements))


@operator("SequenceLength", since=11)
def sequence_length(b: Builder, node: Node, sequence: SequenceValue[View]) -> View:
    """https://onnx.ai/onnx/operators/onnx__SequenceLength.html"""
    return b.constant(np.int64(len(sequence.elements)))


@operator("SplitToSequence", since=11)
def split_to_sequence(b: Builder, node: Node, x: View, split: View | None = None) -> SequenceValue[View]:
    """https://onnx.ai/onnx/operators/onnx__SplitToSequence.html

    A scalar split cuts parts of that size, the last one smaller where need be. ``keepdims`` counts only
    without one, as the standard says (onnxruntime fails on parts of more than one element).
    """
    axis = normal_axis(node.integer("axis", 0), x.rank)
    extent = x.shape[axis]
    if split is None:
        parts = [x.slice(axis, position, 1) for position in range(extent)]
        if not node.integer("keepdims", 1):
            parts = [part.squeeze((axis,)) for part in parts]
        return SequenceValue(TensorType(x.dtype, None), tuple(parts))
    if split.rank == 0:
        size = integer(b, split)
        if size <= 0:
            raise ValueError(f"parts of extent {size} are asked for")
        lengths = [min(size, extent - start) for start in range(0, extent, size)]
    else:
        lengths = list(integers(b, split))
    if min(lengths, default=0) < 0 or sum(lengths) != extent:
        raise ValueError(f"the lengths {lengths} of the parts do not add up to {extent}")
    starts = np.cumsum([0, *lengths]).tolist()
    slices = [x.slice(axis, start, length) for start, length in zip(starts, lengths, strict=False)]
    return SequenceValue(TensorType(x.dtype, None), tuple(slices))


@operator("ConcatFromSequence", since=11)
def concat_from_sequence(b: Builder, node: Node, sequence: SequenceValue[View]) -> View:
    """https://onnx.ai/onnx/operators/onnx__ConcatFromSequence.html"""
    parts = [tensor(item, "an element") for item in sequence.elements]
    if not parts:
        raise ValueError("the sequence has no elements to concatenate")
    axis = node.integer("axis")
    if not node.integer("new_axis", 0):
        return concat_views(b, parts, axis)
    if any(part.shape != parts[0].shape for part in parts):
        shapes = ", ".join(str(list(part.shape)) for part in parts)
        raise ValueError(f"elements of the shapes {shapes} cannot be stacked")
    axis = normal_axis(axis, parts[0].rank + 1)
    return concat_views(b, [part.unsqueeze((axis,)) for part in parts], axis)


@operator("SequenceMap", since=17)
def sequence_map(
    b: Lowering, node: Node, sequence: SequenceValue[View], *further: Lowered
) -> list[SequenceValue[View]]:
    """https://onnx.ai/onnx/operators/onnx__SequenceMap.html

    Without elements, the element types of the results are those that the body declares.
    """
    count = len(sequence.elements)
    for value in further:
        if isinstance(value, SequenceValue) and len(value.elements) != count:
            raise ValueError(f"sequences of {count} and of {len(value.elements)} elements")
    body = node.graph("body")
    rows = []
    for position in range(count):
        sample = [
            value.elements[position] if isinstance(value, SequenceValue) else value
            for value in (sequence, *further)
        ]
        rows.append([tensor(item, "an output of the body") for item in b.inline(body, sample)])
    if not rows:
        return [SequenceValue(_declared_element(value), ()) for value in body.outputs]
    return [_sequence(column) for column in zip(*rows, strict=True)]


def _declared_element(value: Value) -> ValueType:
    if not isinstance(value.type, TensorType):
        raise TypeError(f"there are no elements, and output {value.name!r} of the body has no declared type")
    return TensorType(value.type.dtype, None)


def _sequence(views: Sequence[View]) -> SequenceValue[View]:
    dtype = views[0].dtype
    if any(view.dtype is not dtype for view in views):
        names = ", ".join(dict.fromkeys(view.dtype.label for view in views))
        raise TypeError(f"elements of one sequence are of the types {names}")
    return SequenceValue(TensorType(dtype, None), tuple(views))


def _position(b: Builder, position: View, count: int) -> int:
    """The position of an element, counted from the front."""
    place = integer(b, position)
    if not -count <= place < count:
        raise ValueError(f"position {place} is out of range for {count} elements")
    return place % count


@operator("Optional", since=15)
def optional(b: Builder, node: Node, value: Lowered | None = None) -> Lowered:
    """https://onnx.ai/onnx/operators/onnx__Optional.html"""
    declared = node.attributes.get("type")
    if value is None:
        if not isinstance(declared, TensorType | SequenceType):
            raise ValueError("without an input, the attribute type must name that of a tensor or a sequence")
        return Absent(declared)
    found = TensorType(value.dtype, None) if isinstance(value, View) else type_of(value)
    if declared is not None and found is not None and standard_name(declared) != standard_name(found):
        raise TypeError(f"a {standard_name(found)} is given, type says {standard_name(declared)}")
    return value


@operator("OptionalGetElement", since=15)
def optional_get_element(b: Builder, node: Node, value: Lowered) -> Lowered:
    """https://onnx.ai/onnx/operators/onnx__OptionalGetElement.html

    What an optional without a value gives is undefined in the standard; here, as in onnxruntime, an error.
    """
    if isinstance(value, Absent):
        raise ValueError(f"there is no {standard_name(value.type)} in it")
    return value


@operator("OptionalHasElement", since=15)
def optional_has_element(b: Builder, node: Node, value: Lowered | None = None) -> View:
    """https://onnx.ai/onnx/operators/onnx__OptionalHasElement.html"""
    return b.constant(np.bool_(value is not None and not isinstance(value, Absent)))
