"""The half of :class:`~onnxplan.kernels.cpu.emitter.Emitter` that knows no element types in memory.

Functions and their arguments, constants, scalar integers, control flow, intrinsics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self, TypeAlias

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu import convert, objects
from onnxplan.kernels.cpu.llvm_types import (
    DOUBLE,
    FLOAT,
    I1,
    I8,
    I32,
    I64,
    POINTER,
    SIGNATURE,
    compute_type,
    splat_constant,
    type_suffix,
    undefined,
    zeros,
)

Number: TypeAlias = int | ir.Value


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


class Core:
    """An ``ir.IRBuilder`` at the end of a kernel, and the lane count of the vectors it makes."""

    def __init__(self, function: ir.Function, target: Target, lanes: int) -> None:
        self.function = function
        self.module = function.module
        self.target = target
        self.lanes = lanes
        self.stored_forms: dict[int, tuple[ir.Value, DType, ir.Value]] = {}
        self._entry = function.append_basic_block("entry")
        body = function.append_basic_block("body")
        ir.IRBuilder(self._entry).branch(body)
        self.builder = ir.IRBuilder(body)

    @classmethod
    def kernel(cls, symbol: str, target: Target, lanes: int) -> Self:
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
        return cls(function, target, lanes)

    def finish(self, *, vectorize: bool = False, light: bool = False) -> objects.ObjectCode:
        """Ends the kernel and compiles it; options as for :func:`.objects.compile_module`."""
        self.builder.ret_void()
        return objects.compile_module(
            self.module,
            self.function.name,
            self.target,
            vectorize=vectorize,
            light=light,
            number_values=light,
        )

    def with_lanes(self, lanes: int) -> Self:
        """An emitter into the same place for vectors of ``lanes`` lanes."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, lanes=lanes)
        return other

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

    def float_parameter(self, number: int, dtype: DType) -> ir.Value:
        """The ``number``-th parameter word, a double, rounded to ``dtype``'s compute type in all lanes."""
        value, element = self._table(self.function.args[1], number, DOUBLE), compute_type(dtype)
        return self.splat(value if element == DOUBLE else self.builder.fptrunc(value, element))

    def _table(self, table: ir.Value, number: int, type_: ir.Type) -> ir.Value:
        entry = ir.IRBuilder(self._entry)
        entry.position_before(self._entry.terminator)
        address = entry.gep(table, [I64(number)], inbounds=True, source_etype=I64)
        return entry.load(address, align=8, typ=type_)

    def vector(self, element: ir.Type) -> ir.VectorType:
        return ir.VectorType(element, self.lanes)

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
        return splat_constant(ir.Constant(element, value), self.lanes)

    def like(self, value: ir.Value, number: float | int) -> ir.Constant:
        """``number`` in all lanes of ``value``'s type."""
        return self.with_lanes(value.type.count).fill(number, value.type.element)

    def splat(self, scalar: ir.Value) -> ir.Value:
        """A scalar in all lanes."""
        vector = self.vector(scalar.type)
        nothing = undefined(vector)
        first = self.builder.insert_element(nothing, scalar, I32(0))
        return self.builder.shuffle_vector(first, nothing, zeros(ir.VectorType(I32, self.lanes)))

    def lane_numbers(self, element: ir.Type = I64) -> ir.Constant:
        """``0, 1, 2, ...``"""
        return ir.Constant(self.vector(element), [ir.Constant(element, i) for i in range(self.lanes)])

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

    def ceil_div(self, a: Number, b: Number) -> ir.Value:
        """Quotient of non-negative integers, rounded up."""
        return self.divide(self.add(a, b - 1 if isinstance(b, int) else self.sub(b, 1)), b)

    def modulo(self, a: Number, b: Number) -> ir.Value:
        """Remainder of non-negative integers."""
        return self.builder.urem(self.number(a), self.number(b))

    def share(self, count: Number, parts: Number, number: Number) -> tuple[ir.Value, ir.Value]:
        """The first and behind the last of the ``number``-th of ``parts`` even shares of ``count`` things."""
        following = self.add(number, 1)
        return self.divide(self.mul(count, number), parts), self.divide(self.mul(count, following), parts)

    def less(self, a: Number, b: Number) -> ir.Value:
        return self.builder.icmp_signed("<", self.number(a), self.number(b))

    def minimum(self, a: Number, b: Number) -> ir.Value:
        a, b = self.number(a), self.number(b)
        return self.builder.select(self.less(a, b), a, b)

    def maximum(self, a: Number, b: Number) -> ir.Value:
        a, b = self.number(a), self.number(b)
        return self.builder.select(self.less(a, b), b, a)

    def variable(self, initial: ir.Value) -> Variable:
        """A mutable local that starts as ``initial`` here."""
        variable = Variable(self.builder, self.stack(initial.type), initial.type)
        variable.value = initial
        return variable

    def stack(self, type_: ir.Type, count: int = 1) -> ir.Value:
        """Address of ``count`` values of ``type_`` on the stack, not initialised; one place a call."""
        entry = ir.IRBuilder(self._entry)
        entry.position_at_start(self._entry)
        slot = entry.alloca(type_, size=None if count == 1 else I32(count))
        slot.align = 64
        # Older llvmlite makes typed pointers here.
        slot.type = POINTER
        return slot

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

    def intrinsic(self, name: str, result: ir.Type, arguments: Sequence[ir.Value]) -> ir.Value:
        """Calls the LLVM intrinsic of the full name ``name``."""
        function = self.module.globals.get(name)
        if function is None:
            signature = ir.FunctionType(result, [argument.type for argument in arguments])
            function = ir.Function(self.module, signature, name)
        return self.builder.call(function, arguments)

    def prefetch(self, pointer: ir.Value, *, write: bool = False, locality: int = 3) -> None:
        """Asks for a line of memory, into the first cache or (``locality`` 2) the second; never faults."""
        arguments = [pointer, I32(int(write)), I32(locality), I32(1)]
        self.intrinsic("llvm.prefetch.p0", ir.VoidType(), arguments)

    def copy_bytes(self, to: ir.Value, source: ir.Value, count: ir.Value) -> None:
        """Copies ``count`` bytes between places that do not overlap."""
        self.intrinsic("llvm.memcpy.p0.p0.i64", ir.VoidType(), [to, source, count, I1(0)])

    def clear_bytes(self, to: ir.Value, count: ir.Value) -> None:
        """Sets ``count`` bytes to 0."""
        self.intrinsic("llvm.memset.p0.i64", ir.VoidType(), [to, I8(0), count, I1(0)])

    def elementwise(self, name: str, *arguments: ir.Value) -> ir.Value:
        """Calls an intrinsic on operands of the result's type: ``elementwise("llvm.fma", a, b, c)``."""
        type_ = arguments[0].type
        return self.intrinsic(f"{name}.{type_suffix(type_)}", type_, arguments)

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """``a * b + c``, rounded once where the target can, which all but ``generic`` x86 do."""
        if has_fma(self.target):
            return self.elementwise("llvm.fma", a, b, c)
        return self.builder.fadd(self.builder.fmul(a, b), c)

    def exact_fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """As :meth:`fma`, for where ``c`` cancels most of ``a * b``, also on targets without the instruction.

        There the product's rounding error is computed apart, by splitting (T. J. Dekker, Numerische
        Mathematik 18, 1971); factors must stay below 2**96 in float and 2**995 in double.
        """
        if has_fma(self.target):
            return self.elementwise("llvm.fma", a, b, c)
        builder = self.builder
        product = builder.fmul(a, b)
        splitter = 2.0**12 + 1 if a.type.element == FLOAT else 2.0**27 + 1
        parts: list[tuple[ir.Value, ir.Value]] = []
        for value in (a, b):
            scaled = builder.fmul(value, self.like(value, splitter))
            high = builder.fsub(scaled, builder.fsub(scaled, value))
            parts.append((high, builder.fsub(value, high)))
        (a_high, a_low), (b_high, b_low) = parts
        error = builder.fsub(builder.fmul(a_high, b_high), product)
        error = builder.fadd(error, builder.fmul(a_high, b_low))
        error = builder.fadd(error, builder.fmul(a_low, b_high))
        error = builder.fadd(error, builder.fmul(a_low, b_low))
        return builder.fadd(builder.fadd(product, c), error)

    def extract(self, vector: ir.Value, lane: int) -> ir.Value:
        return self.builder.extract_element(vector, I32(lane))

    def halves(self, vector: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The lower and the upper half of the lanes."""
        count = vector.type.count // 2
        nothing = undefined(vector.type)
        low, high = (
            ir.Constant(ir.VectorType(I32, count), [I32(start + i) for i in range(count)])
            for start in (0, count)
        )
        shuffle = self.builder.shuffle_vector
        return shuffle(vector, nothing, low), shuffle(vector, nothing, high)

    def join(self, low: ir.Value, high: ir.Value) -> ir.Value:
        """The lanes of ``low``, then those of ``high``, which are as many."""
        order = ir.Constant(
            ir.VectorType(I32, 2 * low.type.count), [I32(i) for i in range(2 * low.type.count)]
        )
        return self.builder.shuffle_vector(low, high, order)

    def horizontal(
        self, vector: ir.Value, combine: Callable[[Core, ir.Value, ir.Value], ir.Value]
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
