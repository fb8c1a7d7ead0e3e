"""The compiled executor: its functions, and the way Python calls a run with the least delay."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from onnxplan.compiler.records import dataclass
from onnxplan.runtime.cpu.object_layout import object_layout
from onnxplan.runtime.cpu.semaphore import function_address
from onnxplan.runtime.library import LOADER, tool_key
from onnxplan.runtime.store import KernelStore, ObjectCode, StoredCode, content_key

FUNCTIONS = ("call_run", "run", "help_runs", "stop", "spin")
SOURCES = (
    "executor_source.py",
    "claim_source.py",
    "processor_source.py",
    "call_source.py",
    "native_builder.py",
    "layout.py",
)
INTERPRETER_FUNCTIONS = ("PyLong_AsVoidPtr", "PyLong_FromLong", "PyEval_SaveThread", "PyEval_RestoreThread")
METH_FASTCALL = 0x0080

Caller = Callable[..., int]
Supplied = Callable[[str], "Mapping[str, int] | None"]
"""Gives the addresses of :data:`FUNCTIONS` built from sources of a digest, or None."""


class MethodDefinition(ctypes.Structure):
    """``PyMethodDef`` (https://docs.python.org/3/c-api/structures.html#c.PyMethodDef)."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("documentation", ctypes.c_char_p),
    )


@dataclass(frozen=True, slots=True)
class NativeExecutor:
    """Native functions as ctypes callables (they release the interpreter's lock).

    ``run(slot, cancel)`` runs on the addresses that Python wrote into the slot; ``help_runs(team)`` is a
    helper's life; ``stop(team)`` ends it; ``spin(team, count)`` polls. ``definition`` makes callers, see
    :meth:`caller`; it is None where the interpreter does not allow them.
    """

    run: Callable[[int, int], int]
    help_runs: Callable[[int], int]
    stop: Callable[[int], int]
    spin: Callable[[int, int], int]
    definition: MethodDefinition | None

    def caller(self, slot: int) -> Caller | None:
        """``caller(inputs, outputs[, cancel])`` runs the slot at an address on tuples of arrays.

        A built-in function made from native code: no argument is converted, which makes the call four times
        as fast as one through ctypes. None where the interpreter does not allow it.
        """
        if self.definition is None:
            return None
        make = ctypes.pythonapi.PyCFunction_NewEx
        make.argtypes = [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p]
        make.restype = ctypes.py_object
        caller: Caller = make(ctypes.addressof(self.definition), slot, None)
        return caller


def executor_digest() -> str:
    """A digest of the sources that the executor is built from."""
    folder = Path(__file__).parent
    return content_key("executor", *((folder / name).read_bytes() for name in SOURCES))


_known: dict[str, StoredCode] = {}
"""The executor's object code by its key, once this process has read or compiled it: stores may be several."""


def has_executor(store: KernelStore) -> bool:
    """Does :func:`executor_code` need no compiler?"""
    key = _executor_key()
    return key in _known or store.has(key)


def _executor_key() -> str:
    return content_key(executor_digest(), tool_key())


def executor_code(store: KernelStore) -> bytes:
    """The executor's object code, compiled once per machine and kept in ``store``."""
    key = _executor_key()
    stored: ObjectCode | None = store.get(key)
    if stored is None:
        stored = _build_stored(store, key)
    _known[key] = StoredCode(stored.symbol, stored.code)
    return stored.code


def interpreter_imports() -> dict[str, int]:
    """The addresses of the interpreter's functions that the executor calls."""
    return {name: function_address(getattr(ctypes.pythonapi, name)) for name in INTERPRETER_FUNCTIONS}


def load_executor(store: KernelStore, supplied: Supplied | None = None) -> NativeExecutor:
    """The executor that ``supplied(digest)`` gives, or else the one of ``store``, compiled if need be."""
    functions = None if supplied is None else supplied(executor_digest())
    if functions is None:
        addresses = LOADER.load(executor_code(store), FUNCTIONS, interpreter_imports())
    else:
        addresses = tuple(functions[name] for name in FUNCTIONS)
    call_run, run, help_runs, stop, spin = addresses
    word = ctypes.c_int64
    one = ctypes.CFUNCTYPE(word, ctypes.c_void_p)
    return NativeExecutor(
        ctypes.CFUNCTYPE(word, ctypes.c_void_p, ctypes.c_void_p)(run),
        one(help_runs),
        one(stop),
        ctypes.CFUNCTYPE(word, ctypes.c_void_p, word)(spin),
        _method_definition(call_run),
    )


def _build_stored(store: KernelStore, key: str) -> ObjectCode:
    from onnxplan.runtime.shared_build import get_or_build

    return get_or_build(store, key, lambda: _known.get(key) or _build(), "cpu")


def _build() -> StoredCode:
    from onnxplan.runtime.cpu.executor_source import compile_executor

    return StoredCode("run", compile_executor())


def _method_definition(call_run: int) -> MethodDefinition | None:
    if sys.implementation.name != "cpython" or object_layout() is None:
        return None
    definition = MethodDefinition(b"run", call_run, METH_FASTCALL, None)
    keep_for_ever(definition)
    return definition


def keep_for_ever(value: Any) -> None:
    """Helper threads and built-in functions outlive the modules of an interpreter that shuts down."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))
