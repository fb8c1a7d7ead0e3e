"""How generated kernels read and write their operands at a position of the innermost axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass
from onnxplan.kernels.cpu import convert
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.stream_code import FloatStream
from onnxplan.kernels.cpu.streaming import JOINED_BYTES
from onnxplan.kernels.cpu.walk_code import Reader

COORDINATE = "index"


@dataclass(frozen=True, slots=True)
class Access:
    """An operand as compiled in: ``label`` names its element type in memory, or is ``index``.

    ``kind`` is its class along the innermost axis (:func:`onnxplan.kernels.cpu.walk.access_class`).
    """

    label: str
    kind: str

    @property
    def dtype(self) -> DType:
        return DType.INT64 if self.label == COORDINATE else DType.from_label(self.label)


@dataclass(frozen=True, slots=True)
class Operand:
    """An operand in a kernel: its base address (``None`` for coordinates) and its inner stride in bytes."""

    access: Access
    base: ir.Value | None
    stride: ir.Value | None

    def at(self, emitter: Emitter, offset: ir.Value) -> Place:
        """The operand of a row whose byte offset (coordinate at its start) is ``offset``."""
        if self.base is None:
            return Place(emitter, self, offset, None)
        pointer = emitter.offset(self.base, offset)
        return Place(emitter, self, offset, pointer)


class Place:
    """One operand in one row; what does not vary along the row is loaded once."""

    def __init__(
        self, emitter: Emitter, operand: Operand, offset: ir.Value, pointer: ir.Value | None
    ) -> None:
        self._operand, self._offset, self._pointer = operand, offset, pointer
        self._dtype = operand.access.dtype
        self._fixed: ir.Value | None = None
        if operand.access.kind == "b" and pointer is None:
            self._fixed = emitter.splat(offset)

    def hoist(self, emitter: Emitter) -> None:
        """Loads a broadcast operand here, for all of the row."""
        if self._operand.access.kind == "b" and self._pointer is not None:
            self._fixed = emitter.load_broadcast(self._pointer, self._dtype)

    def load(self, emitter: Emitter, index: ir.Value, mask: Mask | None) -> ir.Value:
        """The elements from ``index`` on."""
        if self._fixed is not None:
            return self._fixed
        if self._pointer is None:
            start = emitter.splat(emitter.add(self._offset, index))
            return emitter.builder.add(start, emitter.lane_numbers())
        if self._operand.access.kind == "c":
            return emitter.load(emitter.element(self._pointer, index, self._dtype), self._dtype, mask)
        stride = self._operand.stride
        start = emitter.offset(self._pointer, emitter.mul(index, stride))
        return emitter.load_strided(start, stride, self._dtype, mask)

    def prefetch(self, emitter: Emitter, index: ir.Value, distance: ir.Value) -> None:
        """Asks for what lies ``distance`` bytes behind the element at ``index``, where elements adjoin."""
        if self._operand.access.kind != "c":
            return
        assert self._pointer is not None
        pointer = emitter.element(self._pointer, index, self._dtype)
        emitter.prefetch(emitter.offset(pointer, distance))

    def elements_to_line(self, emitter: Emitter, index: ir.Value) -> ir.Value:
        """How many elements from ``index`` on lie before the next whole vector in memory."""
        assert self._pointer is not None
        pointer = emitter.element(self._pointer, index, self._dtype)
        return emitter.elements_to_line(pointer, self._dtype.itemsize)

    def stream(self, emitter: Emitter, value: ir.Value, index: ir.Value) -> None:
        """Writes a vector from ``index`` on past the caches, which must be whole in memory."""
        assert self._pointer is not None
        emitter.stream(value, emitter.element(self._pointer, index, self._dtype), self._dtype)

    def stream_part(
        self, emitter: Emitter, stream: FloatStream, value: ir.Value, index: ir.Value, mask: Mask
    ) -> None:
        """Hands ``stream`` the elements of a part of a vector, where they are as large as it can take."""
        assert self._pointer is not None
        if self._dtype.itemsize < JOINED_BYTES:
            self.store(emitter, value, index, mask)
            return
        stream.move_to(emitter.element(self._pointer, index, self._dtype))
        stream.append_first(convert.narrow(emitter, value, self._dtype), mask.count)

    def store(self, emitter: Emitter, value: ir.Value, index: ir.Value, mask: Mask | None) -> None:
        """Writes elements from ``index`` on."""
        assert self._pointer is not None
        kind = self._operand.access.kind
        if kind == "c":
            emitter.store(value, emitter.element(self._pointer, index, self._dtype), self._dtype, mask)
        elif kind == "s":
            stride = self._operand.stride
            start = emitter.offset(self._pointer, emitter.mul(index, stride))
            emitter.store_strided(value, start, stride, self._dtype, mask)
        else:
            emitter.store_first(value, self._pointer, self._dtype)


def vector_head(
    emitter: Emitter,
    start: ir.Value,
    stop: ir.Value,
    place: Place,
    body: Callable[[list[ir.Value], Mask | None], None],
) -> ir.Value:
    """Calls ``body`` for what comes before the first whole vector of ``place``; where that begins."""
    head = emitter.minimum(place.elements_to_line(emitter, start), emitter.sub(stop, start))
    with emitter.when(emitter.less(0, head)):
        body([start], emitter.mask(head))
    return emitter.add(start, head)


def read_operands(emitter: Emitter, reader: Reader, accesses: Sequence[Access]) -> list[Operand]:
    """The operands of a kernel; consumes one parameter (the inner stride in bytes) for each strided one."""
    operands: list[Operand] = []
    number = 0
    for access in accesses:
        stride = reader.next() if access.kind == "s" else None
        if access.label == COORDINATE:
            operands.append(Operand(access, None, stride))
        else:
            operands.append(Operand(access, emitter.operand(number), stride))
            number += 1
    return operands
