"""Memory of kernels that are written in Python and compiled by numba: typed loads and stores at addresses."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def _load(numba_type: Any, llvm_type: ir.Type) -> Any:
    @intrinsic
    def load(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
            return builder.load(builder.inttoptr(arguments[0], llvm_type.as_pointer()))

        return numba_type(types.intp), generate

    return load


def _store(numba_type: Any, llvm_type: ir.Type) -> Any:
    @intrinsic
    def store(typing_context: Any, address: Any, value: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
            builder.store(arguments[1], builder.inttoptr(arguments[0], llvm_type.as_pointer()))
            return context.get_dummy_value()

        return types.void(types.intp, numba_type), generate

    return store


load_float32 = _load(types.float32, ir.FloatType())
"""``load_float32(address)``"""
load_int64 = _load(types.int64, ir.IntType(64))
"""``load_int64(address)``"""
store_int64 = _store(types.int64, ir.IntType(64))
"""``store_int64(address, value)``"""
