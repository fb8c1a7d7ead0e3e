"""Zeros around the input of a convolution become its padding."""

from __future__ import annotations

from dataclasses import replace

from onnxplan.compiler.overlap import may_overlap
from onnxplan.compiler.passes.composition import compose
from onnxplan.compiler.passes.elide_copies import is_copy
from onnxplan.compiler.passes.index import Index, merged_nodes
from onnxplan.compiler.primitives import Conv, MapReduce
from onnxplan.compiler.program import Operation, Program
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.view import Storage, View


def fold_padding(program: Program) -> Program:
    """Lets convolutions read the inside of a tensor that is padded with zeros.

    Where all readers of a storage are convolutions, and all its writers but one fill it with zeros, the
    convolutions' own padding takes the place of what is filled. They then read what the one writer writes,
    or, where that is a copy, what it copies. Requires nothing; results are equal.
    """
    if not any(map(_fills_with_zeros, program.operations)):
        return program
    index = Index.of(program)
    for operation in program.operations:
        if operation in index.order and isinstance(operation.primitive, Conv):
            _fold(index, operation.inputs[0].storage)
    return index.finish()


@dataclass(frozen=True, slots=True)
class _Inside:
    """Where what is not filled lies in a convolution's input.

    ``pads`` are its distances from the beginnings of the spatial axes, ``axes`` its own axis for each axis of
    the input (``None`` where its extent is 1).
    """

    pads: tuple[int, ...]
    axes: tuple[int | None, ...]

    def view(self, inside: View) -> View:
        """``inside`` with the axes of the convolution's input."""
        shape = tuple(1 if axis is None else inside.shape[axis] for axis in self.axes)
        strides = tuple(0 if axis is None else inside.strides[axis] for axis in self.axes)
        return View(inside.storage, inside.offset, shape, strides)


def _fold(index: Index, storage: Storage) -> None:
    readers = list(index.readers(storage))
    if storage.is_constant or storage in index.outputs:
        return
    fills = [writer for writer in index.writers(storage) if _fills_with_zeros(writer)]
    others = [writer for writer in index.writers(storage) if writer not in fills]
    if not fills or len(others) != 1:
        return
    writer = others[0]
    parts = [view for view in writer.outputs if view.storage is storage]
    if len(parts) != 1 or not _is_on_top(index, writer, parts[0], fills):
        return
    places = []
    for reader in readers:
        place = _inside(reader, storage, parts[0])
        if place is None:
            return
        places.append(place)
    source = writer.inputs[0] if is_copy(writer) else _moved(index, writer, parts[0], places[0])
    for fill in fills:
        index.remove(fill)
    for reader, place in zip(readers, places, strict=True):
        primitive = reader.primitive
        assert isinstance(primitive, Conv)
        pads = tuple(own + more for own, more in zip(primitive.pads, place.pads, strict=True))
        inputs = (place.view(source), *reader.inputs[1:])
        nodes = merged_nodes(*fills, reader)
        index.become(reader, Operation(replace(primitive, pads=pads), inputs, reader.outputs, nodes))
    if is_copy(writer):
        index.remove(writer)


def _fills_with_zeros(operation: Operation) -> bool:
    primitive = operation.primitive
    if not isinstance(primitive, MapReduce) or operation.inputs or len(operation.outputs) != 1:
        return False
    instructions = primitive.expression.instructions
    return len(instructions) == 1 and instructions[0].op == "constant" and instructions[0].number == 0


def _is_on_top(index: Index, writer: Operation, part: View, fills: list[Operation]) -> bool:
    """Does no zero overwrite what ``writer`` writes?"""
    return all(
        index.order[fill] < index.order[writer] or not may_overlap(fill.outputs[0], part) for fill in fills
    )


def _inside(reader: Operation, storage: Storage, part: View) -> _Inside | None:
    """Where ``part`` lies in the convolution's input, if that is padded along spatial axes only."""
    if not isinstance(reader.primitive, Conv) or any(v.storage is storage for v in reader.inputs[1:]):
        return None
    whole = reader.inputs[0]
    if whole.size != storage.size:
        return None
    found = compose(whole, part)
    if found is None or found.is_split:
        return None
    axes: list[int | None] = [None] * whole.rank
    for own, piece in enumerate(found.parts):
        if piece.extent == 1:
            continue
        if piece.axis < 0 or piece.step != 1 or axes[piece.axis] is not None:
            return None
        axes[piece.axis] = own
    for outer in (0, whole.rank - 1):
        position = axes[outer]
        if whole.shape[outer] != (1 if position is None else part.shape[position]):
            return None
    return _Inside(found.start[1:-1], tuple(axes))


def _moved(index: Index, writer: Operation, part: View, place: _Inside) -> View:
    """Lets ``writer`` write a storage of its own, channels last, instead of ``part``."""
    inner = place.view(part)
    dense = View.dense(Storage(part.dtype, part.size, part.storage.name), inner.shape)
    strides = [0] * part.rank
    for axis, own in enumerate(place.axes):
        if own is not None:
            strides[own] = dense.strides[axis]
    moved = View(dense.storage, 0, part.shape, tuple(strides))
    outputs = tuple(moved if view is part else view for view in writer.outputs)
    index.become(writer, Operation(writer.primitive, writer.inputs, outputs, writer.nodes))
    return moved
