"""Writes vector code in LLVM IR: memory access, control flow and arithmetic on vectors of a fixed lane count.

A kernel is built like this::

    emitter = Emitter.kernel("name", target, lanes=16)
    source, result = emitter.operand(0), emitter.operand(1)
    with emitter.loop(emitter.first, emitter.last) as tile:
        ...
    return emitter.finish()

Every scalar integer is an ``i64`` unless said otherwise. A value of an element type stands in its *compute*
type (:func:`onnxplan.kernels.cpu.llvm_types.compute_type`): small floats in ``float``, booleans as ``i1``,
integers in their own width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import REDUCTIONS, Expression, Instruction
from onnxplan.compiler.records import dataclass
from onnxplan.kernels.cpu import convert
from onnxplan.kernels.cpu.emitter_core import Core, Number
from onnxplan.kernels.cpu.llvm_types import FLOAT, I8, I32, I64, size_of, storage_type, type_suffix, undefined
from onnxplan.kernels.cpu.ranges import bounds
from onnxplan.kernels.scalar import cpu_function


@dataclass(frozen=True, slots=True)
class Mask:
    """The first ``count`` (1 to lane count) lanes.

    Where instructions mask what they load, ``bits`` alone count, and may be any lanes.
    """

    count: ir.Value
    bits: ir.Value


class Emitter(Core):
    """An ``ir.IRBuilder`` at the end of a kernel, and the lane count of the vectors it makes.

    Control flow, constants and scalar integers are in :class:`~onnxplan.kernels.cpu.emitter_core.Core`.
    """

    def offset(self, pointer: ir.Value, nbytes: Number) -> ir.Value:
        """``pointer`` moved by ``nbytes``."""
        return self.builder.gep(pointer, [self.number(nbytes)], source_etype=I8)

    def element(self, pointer: ir.Value, index: Number, dtype: DType) -> ir.Value:
        """Address of the ``index``-th element after ``pointer``."""
        return self.builder.gep(pointer, [self.number(index)], source_etype=storage_type(dtype))

    def mask(self, count: ir.Value) -> Mask:
        """The mask of the first ``count`` lanes; at least 1, more than the lane count means all."""
        limit = self.splat(self.builder.trunc(self.minimum(count, self.lanes), I32))
        return Mask(count, self.builder.icmp_signed("<", self.lane_numbers(I32), limit))

    def load_scalar(self, pointer: ir.Value, dtype: DType) -> ir.Value:
        """The element at ``pointer`` as a scalar of its *storage* type."""
        return self.builder.load(pointer, align=dtype.itemsize, typ=storage_type(dtype))

    def load_broadcast(self, pointer: ir.Value, dtype: DType) -> ir.Value:
        """The element at ``pointer`` in all lanes."""
        return convert.widen(self, self.splat(self.load_scalar(pointer, dtype)), dtype)

    def load(self, pointer: ir.Value, dtype: DType, mask: Mask | None = None) -> ir.Value:
        """Consecutive elements from ``pointer``; lanes beyond ``mask`` are not read and hold zero."""
        return convert.widen(self, self.load_stored(pointer, storage_type(dtype), mask), dtype)

    def store(self, value: ir.Value, pointer: ir.Value, dtype: DType, mask: Mask | None = None) -> None:
        """Writes consecutive elements to ``pointer``, those in ``mask`` only."""
        self.store_stored(convert.narrow(self, value, dtype), pointer, mask)

    def stream(self, value: ir.Value, pointer: ir.Value, dtype: DType) -> None:
        """Writes a vector past the caches; ``pointer`` must be aligned to it. See :meth:`end_streams`."""
        self.stream_stored(convert.narrow(self, value, dtype), pointer)

    def stream_stored(self, value: ir.Value, pointer: ir.Value) -> None:
        """As :meth:`stream`, of a vector of a storage type."""
        nbytes = value.type.count * size_of(value.type.element)
        store = self.builder.store(value, pointer, align=nbytes)
        store.set_metadata("nontemporal", self.module.add_metadata([I32(1)]))

    def end_streams(self) -> None:
        """Makes streamed elements visible before whatever is stored afterwards."""
        if self.target.isa in ("avx512", "avx2"):
            self.intrinsic("llvm.x86.sse.sfence", ir.VoidType(), [])

    def elements_to_line(self, pointer: ir.Value, size: int) -> ir.Value:
        """How many elements of ``size`` bytes lie between ``pointer`` and the next whole vector of them."""
        nbytes = self.lanes * size
        address = self.builder.ptrtoint(pointer, I64)
        return self.divide(self.builder.and_(self.sub(0, address), I64(nbytes - 1)), size)

    def store_first(self, value: ir.Value, pointer: ir.Value, dtype: DType) -> None:
        """Writes the element in lane 0."""
        stored = convert.narrow(self, value, dtype)
        self.builder.store(self.extract(stored, 0), pointer, align=dtype.itemsize)

    def load_strided(
        self, pointer: ir.Value, stride: Number, dtype: DType, mask: Mask | None = None
    ) -> ir.Value:
        """Elements ``stride`` bytes apart; lanes beyond ``mask`` hold the last element in it."""
        stored = self.load_strided_stored(pointer, stride, storage_type(dtype), mask)
        return convert.widen(self, stored, dtype)

    def store_strided(
        self, value: ir.Value, pointer: ir.Value, stride: Number, dtype: DType, mask: Mask | None = None
    ) -> None:
        """Writes elements ``stride`` bytes apart, those in ``mask`` only."""
        self.store_strided_stored(convert.narrow(self, value, dtype), pointer, stride, mask)

    def load_stored(self, pointer: ir.Value, element: ir.Type, mask: Mask | None = None) -> ir.Value:
        """As :meth:`load`, of a storage type and without conversion."""
        vector, size = self.vector(element), size_of(element)
        if mask is None:
            return self.builder.load(pointer, align=size, typ=vector)
        if self._masks_in_hardware(size):
            name = f"llvm.masked.load.{type_suffix(vector)}.p0"
            return self.intrinsic(name, vector, [pointer, I32(size), mask.bits, ir.Constant(vector, None)])
        buffer = self.stack(vector)
        self.builder.store(ir.Constant(vector, None), buffer)
        with self.loop(0, self.minimum(mask.count, self.lanes)) as lane:
            self._copy_element(self._at(pointer, lane, size), self._at(buffer, lane, size), element)
        return self.builder.load(buffer, align=64, typ=vector)

    def store_stored(self, value: ir.Value, pointer: ir.Value, mask: Mask | None = None) -> None:
        """As :meth:`store`, of a vector of a storage type."""
        element = value.type.element
        size = size_of(element)
        if mask is None:
            self.builder.store(value, pointer, align=size)
        elif self._masks_in_hardware(size):
            name = f"llvm.masked.store.{type_suffix(value.type)}.p0"
            self.intrinsic(name, ir.VoidType(), [value, pointer, I32(size), mask.bits])
        else:
            buffer = self.stack(value.type)
            self.builder.store(value, buffer, align=64)
            with self.loop(0, self.minimum(mask.count, self.lanes)) as lane:
                self._copy_element(self._at(buffer, lane, size), self._at(pointer, lane, size), element)

    def load_strided_stored(
        self, pointer: ir.Value, stride: Number, element: ir.Type, mask: Mask | None = None
    ) -> ir.Value:
        """As :meth:`load_strided`, of a storage type and without conversion."""
        size = size_of(element)
        value: ir.Value = undefined(self.vector(element))
        for lane in range(self.lanes):
            number: ir.Value = I64(lane)
            if mask is not None:
                number = self.minimum(number, self.sub(mask.count, 1))
            address = self.offset(pointer, self.mul(number, stride))
            scalar = self.builder.load(address, align=size, typ=element)
            value = self.builder.insert_element(value, scalar, I32(lane))
        return value

    def store_strided_stored(
        self, value: ir.Value, pointer: ir.Value, stride: Number, mask: Mask | None = None
    ) -> None:
        """As :meth:`store_strided`, of a vector of a storage type."""
        element = value.type.element
        size = size_of(element)
        if mask is not None:
            buffer = self.stack(value.type)
            self.builder.store(value, buffer, align=64)
            with self.loop(0, self.minimum(mask.count, self.lanes)) as index:
                target = self.offset(pointer, self.mul(index, stride))
                self._copy_element(self._at(buffer, index, size), target, element)
            return
        for lane in range(self.lanes):
            scalar = self.builder.extract_element(value, I32(lane))
            self.builder.store(scalar, self.offset(pointer, self.mul(lane, stride)), align=size)

    def permute_two(self, low: ir.Value, high: ir.Value, places: ir.Value) -> ir.Value:
        """The lanes of ``low`` and, behind them, ``high`` that a vector of ``i32`` names; of AVX's floats."""
        floats = self.vector(FLOAT)
        if self.target.isa == "avx512":
            return self.intrinsic("llvm.x86.avx512.vpermi2var.ps.512", floats, [low, places, high])
        from_low, from_high = (
            self.intrinsic("llvm.x86.avx2.permps", floats, [part, places]) for part in (low, high)
        )
        behind = self.builder.icmp_signed(">", places, self.fill(self.lanes - 1, I32))
        return self.builder.select(behind, from_high, from_low)

    def _at(self, pointer: ir.Value, index: ir.Value, size: int) -> ir.Value:
        return self.offset(pointer, self.mul(index, size))

    def _copy_element(self, source: ir.Value, target: ir.Value, element: ir.Type) -> None:
        size = size_of(element)
        self.builder.store(self.builder.load(source, align=size, typ=element), target, align=size)

    def _masks_in_hardware(self, size: int) -> bool:
        """Otherwise LLVM would expand a masked access into a chain of branches, one a lane."""
        return self.target.isa == "avx512" or (self.target.isa == "avx2" and size in (4, 8))


def emit_expression(
    emitter: Emitter,
    expression: Expression,
    inputs: Sequence[ir.Value],
    index: Callable[[int], ir.Value] | None = None,
) -> list[ir.Value]:
    """The results of an expression without reductions, as vectors in their compute types.

    ``inputs[i]`` is what ``input`` instruction ``i`` reads, in its compute type; ``index(axis)`` the int64
    coordinates along an axis.
    """
    values: dict[int, ir.Value] = {}
    for output in expression.outputs:
        evaluate(emitter, expression, output, values, lambda number, _: inputs[number], index)
    return [values[output] for output in expression.outputs]


def evaluate(
    emitter: Emitter,
    expression: Expression,
    position: int,
    values: dict[int, ir.Value],
    read: Callable[[int, DType], ir.Value],
    index: Callable[[int], ir.Value] | None = None,
) -> ir.Value:
    """The value of one instruction; ``values`` holds those known already and gets those computed on the way.

    ``read(operand, dtype)`` loads an input. Reductions must be among ``values``.
    """
    if position in values:
        return values[position]
    instruction = expression.instructions[position]
    if instruction.op == "input":
        value = read(instruction.arguments[0], instruction.dtype)
    elif instruction.op == "constant":
        value = emitter.constant(instruction.number, instruction.dtype)
    elif instruction.op == "index":
        if index is None:
            raise ValueError("this kernel has no coordinates")
        value = index(instruction.arguments[0])
    elif instruction.op in REDUCTIONS:
        raise ValueError("a reduction is not an elementwise operation")
    elif _rounds_to_integer(expression, instruction):
        (argument,) = expression.instructions[instruction.arguments[0]].arguments
        real = evaluate(emitter, expression, argument, values, read, index)
        value = convert.nearest_integer(emitter, instruction.dtype, real)
    else:
        arguments = [
            evaluate(emitter, expression, argument, values, read, index) for argument in instruction.arguments
        ]
        operand = expression.instructions[instruction.arguments[-1]].dtype
        value = cpu_function(instruction.op)(emitter, operand, instruction.dtype, *arguments)
    values[position] = value
    return value


def _rounds_to_integer(expression: Expression, cast: Instruction) -> bool:
    """Is it the cast of a rounded float32 that is known to be no NaN and to be small?"""
    if cast.op != "cast" or not cast.dtype.is_integer or cast.dtype.itemsize == 8:
        return False
    rounded = expression.instructions[cast.arguments[0]]
    if rounded.op != "round" or rounded.dtype is not DType.FLOAT32:
        return False
    found = bounds(expression, cast.arguments[0])
    return found is not None and max(map(abs, found)) < 2**24
