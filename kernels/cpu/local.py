"""Functions inside a kernel's module."""

from __future__ import annotations

from llvmlite import ir
from onnxplan.kernels.cpu.emitter import Emitter


def local_function(emitter: Emitter, name: str, arguments: list[ir.Type], lanes: int) -> Emitter:
    """Starts a function inside the module of ``emitter``; end it with ``builder.ret_void()``."""
    function = ir.Function(emitter.module, ir.FunctionType(ir.VoidType(), arguments), name)
    function.linkage = "internal"
    function.attributes.add("nounwind")
    function.attributes.add("noinline")
    return Emitter(function, emitter.target, lanes)
