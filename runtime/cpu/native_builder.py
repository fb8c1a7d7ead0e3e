"""Native functions written as structured code: 64-bit words, loops, conditions and atomic memory operations.

A thin layer over ``llvmlite.ir`` for the few functions of the runtime that must run without the interpreter.
Every value is a 64-bit word: an integer or an address. Imported only when such a function must be compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import llvmlite.binding as llvm
import llvmlite.ir as ir

WORD = ir.IntType(64)


class Word:
    """A value of the function being built; operators emit instructions. Comparisons are signed."""

    __slots__ = ("function", "value")

    def __init__(self, function: NativeFunction, value: Any) -> None:
        self.function = function
        self.value = value

    def _emit(self, instruction: str, other: Word | int) -> Word:
        builder = self.function.builder
        return Word(self.function, getattr(builder, instruction)(self.value, self.function.value(other)))

    def __add__(self, other: Word | int) -> Word:
        return self._emit("add", other)

    def __sub__(self, other: Word | int) -> Word:
        return self._emit("sub", other)

    def __mul__(self, other: Word | int) -> Word:
        return self._emit("mul", other)

    def __mod__(self, other: Word | int) -> Word:
        """The unsigned remainder."""
        return self._emit("urem", other)

    def __and__(self, other: Word | int) -> Word:
        return self._emit("and_", other)

    def __or__(self, other: Word | int) -> Word:
        return self._emit("or_", other)

    def __xor__(self, other: Word | int) -> Word:
        return self._emit("xor", other)

    def __lshift__(self, other: Word | int) -> Word:
        return self._emit("shl", other)

    def __rshift__(self, other: Word | int) -> Word:
        return self._emit("lshr", other)

    def __invert__(self) -> Word:
        return self ^ -1

    def _compare(self, relation: str, other: Word | int) -> Condition:
        builder = self.function.builder
        return Condition(self.function, builder.icmp_signed(relation, self.value, self.function.value(other)))

    def __lt__(self, other: Word | int) -> Condition:
        return self._compare("<", other)

    def __ge__(self, other: Word | int) -> Condition:
        return self._compare(">=", other)

    def __gt__(self, other: Word | int) -> Condition:
        return self._compare(">", other)

    def equals(self, other: Word | int) -> Condition:
        return self._compare("==", other)

    def differs(self, other: Word | int) -> Condition:
        return self._compare("!=", other)

    def trailing_zeros(self) -> Word:
        """The number of zero bits below the lowest set bit; the word must not be zero."""
        return Word(self.function, self.function.builder.cttz(self.value, ir.Constant(ir.IntType(1), 1)))

    def count_ones(self) -> Word:
        return Word(self.function, self.function.builder.ctpop(self.value))


class Condition:
    """A truth value of the function being built. ``&`` and ``|`` evaluate both sides."""

    __slots__ = ("function", "value")

    def __init__(self, function: NativeFunction, value: Any) -> None:
        self.function = function
        self.value = value

    def __and__(self, other: Condition) -> Condition:
        return Condition(self.function, self.function.builder.and_(self.value, other.value))

    def __or__(self, other: Condition) -> Condition:
        return Condition(self.function, self.function.builder.or_(self.value, other.value))

    def negated(self) -> Condition:
        return Condition(self.function, self.function.builder.not_(self.value))

    def choose(self, when_true: Word | int, when_false: Word | int) -> Word:
        function = self.function
        return Word(
            function,
            function.builder.select(self.value, function.value(when_true), function.value(when_false)),
        )


class Variable:
    """A word that changes."""

    __slots__ = ("function", "place")

    def __init__(self, function: NativeFunction, place: Any) -> None:
        self.function = function
        self.place = place

    def get(self) -> Word:
        return Word(self.function, self.function.builder.load(self.place))

    def set(self, value: Word | int) -> None:
        self.function.builder.store(self.function.value(value), self.place)

    def add(self, value: Word | int) -> None:
        self.set(self.get() + value)


class Loop:
    """Runs its body until :meth:`leave` or :meth:`leave_if`."""

    __slots__ = ("_body", "_end", "_function")

    def __init__(self, function: NativeFunction, body: Any, end: Any) -> None:
        self._function = function
        self._body = body
        self._end = end

    def leave_if(self, condition: Condition) -> None:
        self._function.branch_if(condition, self._end)

    def repeat_if(self, condition: Condition) -> None:
        self._function.branch_if(condition, self._body)

    def leave(self) -> None:
        self._function.builder.branch(self._end)

    def repeat(self) -> None:
        self._function.builder.branch(self._body)


class NativeFunction:
    """A function of words that returns a word, under construction.

    Without ``body`` it is only declared: its address is given when the object code is loaded.
    """

    def __init__(
        self, module: Any, name: str, arguments: int, *, exported: bool = False, body: bool = True
    ) -> None:
        self.native = ir.Function(module, ir.FunctionType(WORD, [WORD] * arguments), name)
        if body and not exported:
            self.native.linkage = "internal"
        if not body:
            return
        self._entry = self.native.append_basic_block("entry")
        start = self.native.append_basic_block("start")
        ir.IRBuilder(self._entry).branch(start)
        self.builder = ir.IRBuilder(start)

    @property
    def arguments(self) -> tuple[Word, ...]:
        return tuple(Word(self, argument) for argument in self.native.args)

    def value(self, word: Word | int) -> Any:
        return word.value if isinstance(word, Word) else ir.Constant(WORD, word)

    def word(self, value: int) -> Word:
        return Word(self, ir.Constant(WORD, value))

    def variable(self, value: Word | int) -> Variable:
        # Allocated in the entry block, so that a variable made inside a loop does not grow the stack.
        place = ir.IRBuilder(self._entry)
        place.position_before(self._entry.terminator)
        variable = Variable(self, place.alloca(WORD))
        variable.set(value)
        return variable

    def buffer(self, words: int) -> Word:
        """The address of ``words`` words on the stack, for as long as the function runs."""
        place = ir.IRBuilder(self._entry)
        place.position_before(self._entry.terminator)
        return Word(self, place.ptrtoint(place.alloca(WORD, words), WORD))

    def _pointer(self, address: Word, index: int) -> Any:
        return self.builder.inttoptr((address + 8 * index if index else address).value, WORD.as_pointer())

    def load(self, address: Word, index: int = 0) -> Word:
        """The ``index``-th word at ``address``, read plainly: nobody writes it meanwhile."""
        return Word(self, self.builder.load(self._pointer(address, index)))

    def store(self, address: Word, index: int, value: Word | int) -> None:
        self.builder.store(self.value(value), self._pointer(address, index))

    def atomic_load(self, address: Word, index: int = 0, ordering: str = "acquire") -> Word:
        return Word(self, self.builder.load_atomic(self._pointer(address, index), ordering, 8))

    def atomic_store(self, address: Word, index: int, value: Word | int, ordering: str = "release") -> None:
        self.builder.store_atomic(self.value(value), self._pointer(address, index), ordering, 8)

    def atomic(
        self, operation: str, address: Word, index: int, value: Word | int, ordering: str = "seq_cst"
    ) -> Word:
        """Applies ``operation`` (``add``, ``sub``, ``and``, ``or``, ``xchg``); the word as it was before."""
        pointer = self._pointer(address, index)
        return Word(self, self.builder.atomic_rmw(operation, pointer, self.value(value), ordering))

    def fence(self) -> None:
        """Orders the writes before it and the reads after it, as all threads see them."""
        self.builder.fence("seq_cst")

    def compare_and_swap(
        self, address: Word, index: int, expected: Word | int, value: Word | int
    ) -> Condition:
        """Writes ``value`` if the word is ``expected``; true if it was."""
        pair = self.builder.cmpxchg(
            self._pointer(address, index), self.value(expected), self.value(value), "seq_cst", "seq_cst"
        )
        return Condition(self, self.builder.extract_value(pair, 1))

    def call(self, target: NativeFunction | Word, *arguments: Word | int) -> Word:
        """Calls a function of this module, or the one at an address (a result that is void is rubbish)."""
        values = [self.value(argument) for argument in arguments]
        if isinstance(target, NativeFunction):
            return Word(self, self.builder.call(target.native, values))
        kind = ir.FunctionType(WORD, [WORD] * len(values))
        return Word(self, self.builder.call(self.builder.inttoptr(target.value, kind.as_pointer()), values))

    def branch_if(self, condition: Condition, target: Any) -> None:
        following = self.native.append_basic_block()
        self.builder.cbranch(condition.value, target, following)
        self.builder.position_at_end(following)

    @contextmanager
    def when(self, condition: Condition) -> Iterator[None]:
        with self.builder.if_then(condition.value):
            yield

    @contextmanager
    def either(self, condition: Condition) -> Iterator[tuple[Any, Any]]:
        """Two context managers, for the code to run when the condition holds and when it does not."""
        with self.builder.if_else(condition.value) as branches:
            yield branches

    @contextmanager
    def loop(self) -> Iterator[Loop]:
        body, end = self.native.append_basic_block("loop"), self.native.append_basic_block("end")
        self.builder.branch(body)
        self.builder.position_at_end(body)
        yield Loop(self, body, end)
        if not self.builder.block.is_terminated:
            self.builder.branch(body)
        self.builder.position_at_end(end)

    @contextmanager
    def count(self, number: Word | int) -> Iterator[Word]:
        """Runs the body for 0, 1, ... ``number - 1``."""
        counter = self.variable(0)
        with self.loop() as loop:
            loop.leave_if(counter.get() >= number)
            current = counter.get()
            counter.set(current + 1)
            yield current

    def give(self, value: Word | int) -> None:
        """Returns ``value``."""
        self.builder.ret(self.value(value))

    def give_if(self, condition: Condition, value: Word | int) -> None:
        with self.when(condition):
            self.give(value)

    def pause(self) -> None:
        """Tells the processor that this is a spinning loop."""
        triple = llvm.get_default_triple()
        void = ir.VoidType()
        if triple.startswith(("x86_64", "i386", "i686", "amd64")):
            self._intrinsic("llvm.x86.sse2.pause", ir.FunctionType(void, []), ())
        elif triple.startswith(("aarch64", "arm64")):
            number = ir.IntType(32)
            self._intrinsic("llvm.aarch64.hint", ir.FunctionType(void, [number]), (ir.Constant(number, 1),))

    def _intrinsic(self, name: str, kind: Any, arguments: Sequence[Any]) -> None:
        module = self.native.module
        function = module.globals.get(name) or ir.Function(module, kind, name)
        self.builder.call(function, arguments)


def compile_module(name: str, build: Callable[[Any], None]) -> bytes:
    """Object code, for this machine, of the module that ``build`` fills."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = ir.Module(name)
    module.triple = llvm.get_default_triple()
    build(module)
    machine = llvm.Target.from_triple(module.triple).create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=2,
        reloc="pic",
        jit=True,
    )
    module.data_layout = str(machine.target_data)
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
    passes.getModulePassManager().run(parsed, passes)
    return bytes(machine.emit_object(parsed))
