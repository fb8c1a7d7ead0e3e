"""Writes vector code in LLVM IR: memory access, control flow and arithmetic on vectors of a fixed lane count.

A kernel is built like this::

    emitter = Emitter.kernel("name", target, lanes=16)
    source, result = emitter.operand(0), emitter.operand(1)
    with emitter.loop(emitter.first, emitter.last) as tile:
        ...
    return emitter.finish()

Every scalar integer is an ``i64`` unless said otherwise. A value of an element type stands in its *compute*
type (:func:`compute_type`): small floats in ``float``, booleans as ``i1``, integers in their own width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu import convert, objects

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
FLOAT, DOUBLE, HALF = ir.FloatType(), ir.DoubleType(), ir.HalfType()
POINTER = ir.PointerType()
SIGNATURE = ir.FunctionType(ir.VoidType(), [POINTER, POINTER, I64, I64, POINTER])

Number = int | ir.Value


def storage_type(dtype: DType) -> ir.Type:
    """The scalar LLVM type that holds an element in memory: an integer for all but float32 and float64."""
    if dtype is DType.FLOAT32:
        return FLOAT
    if dtype is DType.FLOAT64:
        return DOUBLE
    return ir.IntType(8 * dtype.itemsize)


def compute_type(dtype: DType) -> ir.Type:
    """The scalar LLVM type that expressions compute an element in."""
    if dtype is DType.FLOAT64:
        return DOUBLE
    if dtype.is_float:
        return FLOAT
    return I1 if dtype is DType.BOOL else ir.IntType(8 * dtype.itemsize)


@dataclass(frozen=True, slots=True)
class Mask:
    """The first ``count`` (1 to lane count) lanes."""

    count: ir.Value
    bits: ir.Value


class Variable:
    """A mutable local of a kernel (LLVM turns it into registers)."""

    def __init__(self, builder: ir.IRBuilder, slot: ir.Value, type_: ir.Type) -> None:
        self._builder, self._slot, self.type = builder, slot, type_

    @property
    def value(self) -> ir.Value:
        return self._builder.load(self._slot, typ=self.type)

    @value.setter
    def value(self, value: ir.Value) -> None:
        self._builder.store(value, self._slot)


class Emitter:
    """An ``ir.IRBuilder`` at the end of a kernel, and the lane count of the vectors it makes."""

    def __init__(self, function: ir.Function, target: Target, lanes: int) -> None:
        self.function = function
        self.module = function.module
        self.target = target
        self.lanes = lanes
        self._entry = function.append_basic_block("entry")
        body = function.append_basic_block("body")
        self._entry_end = ir.IRBuilder(self._entry).branch(body)
        self.builder = ir.IRBuilder(body)

    @staticmethod
    def kernel(symbol: str, target: Target, lanes: int) -> Emitter:
        """Starts the kernel function ``symbol`` in a module of its own."""
        module = ir.Module(symbol)
        function = ir.Function(module, SIGNATURE, symbol)
        function.attributes.add("nounwind")
        for argument, name in zip(
            function.args, ("operands", "parameters", "first", "last", "scratch"), strict=True
        ):
            argument.name = name
        for argument in (function.args[0], function.args[1], function.args[4]):
            argument.add_attribute("noalias")
        return Emitter(function, target, lanes)

    def finish(self, *, vectorize: bool = False) -> objects.ObjectCode:
        """Ends the kernel and compiles it."""
        self.builder.ret_void()
        return objects.compile_module(self.module, self.function.name, self.target, vectorize=vectorize)

    def with_lanes(self, lanes: int) -> Emitter:
        """An emitter into the same place for vectors of ``lanes`` lanes."""
        other = object.__new__(Emitter)
        other.__dict__.update(self.__dict__, lanes=lanes)
        return other

    # ---- the kernel's arguments

    @property
    def first(self) -> ir.Value:
        return self.function.args[2]

    @property
    def last(self) -> ir.Value:
        return self.function.args[3]

    @property
    def scratch(self) -> ir.Value:
        return self.function.args[4]

    def operand(self, number: int) -> ir.Value:
        """Address of an operand's first element."""
        return self._table(self.function.args[0], number, POINTER)

    def parameter(self, number: int) -> ir.Value:
        """The ``number``-th parameter word as ``i64``."""
        return self._table(self.function.args[1], number, I64)

    def float_parameter(self, number: int) -> ir.Value:
        """The ``number``-th parameter word as ``double``."""
        return self._table(self.function.args[1], number, DOUBLE)

    def _table(self, table: ir.Value, number: int, type_: ir.Type) -> ir.Value:
        entry = ir.IRBuilder(self._entry)
        entry.position_before(self._entry.terminator)
        address = entry.gep(table, [I64(number)], inbounds=True, source_etype=I64)
        return entry.load(address, align=8, typ=type_)

    # ---- types and constants

    def vector(self, element: ir.Type) -> ir.VectorType:
        return ir.VectorType(element, self.lanes)

    def compute_vector(self, dtype: DType) -> ir.VectorType:
        return self.vector(compute_type(dtype))

    def integer(self, value: int) -> ir.Constant:
        """An ``i64`` scalar."""
        return I64(value)

    def constant(self, value: float | int, dtype: DType) -> ir.Constant:
        """``value``, rounded or wrapped to ``dtype``, in all lanes of its compute type."""
        return self.fill(convert.python_constant(value, dtype), compute_type(dtype))

    def fill(self, value: float | int, element: ir.Type) -> ir.Constant:
        """``value`` in all lanes of a vector of LLVM type ``element``."""
        if isinstance(element, ir.IntType):
            value = int(value) & ((1 << element.width) - 1)
        return ir.Constant(self.vector(element), [ir.Constant(element, value)] * self.lanes)

    def like(self, value: ir.Value, number: float | int) -> ir.Constant:
        """``number`` in all lanes of ``value``'s type."""
        return self.fill(number, value.type.element)

    def splat(self, scalar: ir.Value) -> ir.Value:
        """A scalar in all lanes."""
        vector = self.vector(scalar.type)
        first = self.builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, I32(0))
        zeros = ir.Constant(ir.VectorType(I32, self.lanes), None)
        return self.builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), zeros)

    def lane_numbers(self, element: ir.Type = I64) -> ir.Constant:
        """``0, 1, 2, ...``"""
        return ir.Constant(self.vector(element), [ir.Constant(element, i) for i in range(self.lanes)])

    # ---- scalar integers

    def number(self, value: Number) -> ir.Value:
        return I64(value) if isinstance(value, int) else value

    def add(self, a: Number, b: Number) -> ir.Value:
        return self.builder.add(self.number(a), self.number(b))

    def sub(self, a: Number, b: Number) -> ir.Value:
        return self.builder.sub(self.number(a), self.number(b))

    def mul(self, a: Number, b: Number) -> ir.Value:
        return self.builder.mul(self.number(a), self.number(b))

    def divide(self, a: Number, b: Number) -> ir.Value:
        """Quotient of non-negative integers, rounded down."""
        return self.builder.udiv(self.number(a), self.number(b))

    def modulo(self, a: Number, b: Number) -> ir.Value:
        """Remainder of non-negative integers."""
        return self.builder.urem(self.number(a), self.number(b))

    def less(self, a: Number, b: Number) -> ir.Value:
        return self.builder.icmp_signed("<", self.number(a), self.number(b))

    def minimum(self, a: Number, b: Number) -> ir.Value:
        a, b = self.number(a), self.number(b)
        return self.builder.select(self.less(a, b), a, b)

    def maximum(self, a: Number, b: Number) -> ir.Value:
        a, b = self.number(a), self.number(b)
        return self.builder.select(self.less(a, b), b, a)

    # ---- control flow

    def variable(self, initial: ir.Value) -> Variable:
        """A mutable local that starts as ``initial`` here."""
        variable = Variable(self.builder, self.stack(initial.type), initial.type)
        variable.value = initial
        return variable

    def stack(self, type_: ir.Type, count: int = 1) -> ir.Value:
        """Address of ``count`` values of ``type_`` on the stack, allocated once a call and not initialised."""
        entry = ir.IRBuilder(self._entry)
        entry.position_at_start(self._entry)
        slot = entry.alloca(type_, size=None if count == 1 else I32(count))
        slot.align = 64
        return entry.bitcast(slot, POINTER)

    @contextmanager
    def loop(self, start: Number, stop: Number, step: Number = 1) -> Iterator[ir.Value]:
        """Runs the body with the yielded index from ``start`` up to but without ``stop``; may run not at all.

        Values that change from pass to pass live in a :meth:`variable`.
        """
        start, stop, step = self.number(start), self.number(stop), self.number(step)
        before = self.builder.block
        head = self.function.append_basic_block("loop")
        body = self.function.append_basic_block("loop.body")
        after = self.function.append_basic_block("loop.end")
        self.builder.branch(head)
        self.builder.position_at_end(head)
        index = self.builder.phi(I64)
        index.add_incoming(start, before)
        self.builder.cbranch(self.builder.icmp_signed("<", index, stop), body, after)
        self.builder.position_at_end(body)
        yield index
        index.add_incoming(self.builder.add(index, step, flags=["nsw"]), self.builder.block)
        self.builder.branch(head)
        self.builder.position_at_end(after)

    @contextmanager
    def repeat_while(self, condition: Callable[[], ir.Value]) -> Iterator[None]:
        """Runs the body as long as ``condition()``, an ``i1`` computed before each pass, holds."""
        head = self.function.append_basic_block("while")
        body = self.function.append_basic_block("while.body")
        after = self.function.append_basic_block("while.end")
        self.builder.branch(head)
        self.builder.position_at_end(head)
        self.builder.cbranch(condition(), body, after)
        self.builder.position_at_end(body)
        yield
        self.builder.branch(head)
        self.builder.position_at_end(after)

    @contextmanager
    def when(self, condition: ir.Value) -> Iterator[None]:
        """Runs the body if the ``i1`` ``condition`` holds."""
        with self.builder.if_then(condition):
            yield

    @contextmanager
    def branch(self, condition: ir.Value) -> Iterator[tuple[Any, Any]]:
        """``with emitter.branch(c) as (then, otherwise): with then: ...; with otherwise: ...``"""
        with self.builder.if_else(condition) as branches:
            yield branches

    # ---- intrinsics

    def intrinsic(self, name: str, result: ir.Type, arguments: Sequence[ir.Value]) -> ir.Value:
        """Calls the LLVM intrinsic of the full name ``name``."""
        function = self.module.globals.get(name)
        if function is None:
            signature = ir.FunctionType(result, [argument.type for argument in arguments])
            function = ir.Function(self.module, signature, name)
        return self.builder.call(function, arguments)

    def elementwise(self, name: str, *arguments: ir.Value) -> ir.Value:
        """Calls an intrinsic whose operands and result are of one type: ``elementwise("llvm.fma", a, b, c)``."""
        type_ = arguments[0].type
        return self.intrinsic(f"{name}.{type_suffix(type_)}", type_, arguments)

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """``a * b + c``, rounded once where the target can, which all but ``generic`` x86 do."""
        if has_fma(self.target):
            return self.elementwise("llvm.fma", a, b, c)
        return self.builder.fadd(self.builder.fmul(a, b), c)

    # ---- memory

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
        value = ir.Constant(self.vector(element), ir.Undefined)
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

    def _at(self, pointer: ir.Value, index: ir.Value, size: int) -> ir.Value:
        return self.offset(pointer, self.mul(index, size))

    def _copy_element(self, source: ir.Value, target: ir.Value, element: ir.Type) -> None:
        size = size_of(element)
        self.builder.store(self.builder.load(source, align=size, typ=element), target, align=size)

    def _masks_in_hardware(self, size: int) -> bool:
        """Otherwise LLVM would expand a masked access into a chain of branches, one a lane."""
        return self.target.isa == "avx512" or (self.target.isa == "avx2" and size in (4, 8))

    # ---- horizontal

    def extract(self, vector: ir.Value, lane: int) -> ir.Value:
        return self.builder.extract_element(vector, I32(lane))

    def halves(self, vector: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The lower and the upper half of the lanes."""
        count = vector.type.count // 2
        undefined = ir.Constant(vector.type, ir.Undefined)
        low, high = (
            ir.Constant(ir.VectorType(I32, count), [I32(start + i) for i in range(count)])
            for start in (0, count)
        )
        shuffle = self.builder.shuffle_vector
        return shuffle(vector, undefined, low), shuffle(vector, undefined, high)

    def horizontal(
        self, vector: ir.Value, combine: Callable[[Emitter, ir.Value, ir.Value], ir.Value]
    ) -> ir.Value:
        """All lanes (a power of two) combined in a fixed tree, as a scalar.

        ``combine(emitter, a, b)`` gets vectors of half as many lanes each time and an emitter for that count.
        """
        while vector.type.count > 1:
            low, high = self.halves(vector)
            vector = combine(self.with_lanes(low.type.count), low, high)
        return self.extract(vector, 0)


def has_fma(target: Target) -> bool:
    return target.isa in ("avx512", "avx2", "neon")


def size_of(element: ir.Type) -> int:
    """Bytes of a scalar LLVM type in memory."""
    if isinstance(element, ir.IntType):
        return math.ceil(element.width / 8)
    return {"half": 2, "float": 4, "double": 8}[str(element)]


def type_suffix(type_: ir.Type) -> str:
    """How LLVM mangles a type into the name of an intrinsic: ``v16f32``."""
    if isinstance(type_, ir.VectorType):
        return f"v{type_.count}{type_suffix(type_.element)}"
    if isinstance(type_, ir.IntType):
        return f"i{type_.width}"
    return {"half": "f16", "float": "f32", "double": "f64"}[str(type_)]
