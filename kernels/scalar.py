"""THE table of scalar operations: how CPU code and CUDA code say each of ``onnxplan.compiler.scalar``.

The CPU side names a function ``f(emitter, operand type, result type, *vectors)`` of ``onnxplan.kernels.cpu``
as ``"module:function"``, so that reading the table imports no compiler. The CUDA side is a function
``f(operand type, result type, *arguments) -> text`` that gives a CUDA C expression of C expressions without
side effects; what takes more than an expression is a device function of :mod:`onnxplan.kernels.scalar_cuda`.
Small floats stand as ``float`` on both sides, booleans as ``i1`` and ``bool``.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass
from onnxplan.kernels import scalar_cuda as cuda

CudaText = Callable[..., str]


@dataclass(frozen=True, slots=True)
class ScalarCode:
    """One operation for both devices."""

    cpu: str
    cuda: CudaText


SCALAR_CODE: dict[str, ScalarCode] = {
    "add": ScalarCode("arithmetic:add", cuda.wrapping("+")),
    "sub": ScalarCode("arithmetic:sub", cuda.wrapping("-")),
    "mul": ScalarCode("arithmetic:mul", cuda.wrapping("*")),
    "div": ScalarCode("arithmetic:div", cuda.float_or("({0} / {1})", "onnxplan_div({0}, {1})")),
    "mod": ScalarCode("arithmetic:mod", cuda.template("onnxplan_mod({0}, {1})")),
    "remainder": ScalarCode("arithmetic:remainder", cuda.template("onnxplan_remainder({0}, {1})")),
    "pow": ScalarCode("math_power:power", cuda.template("onnxplan_pow({0}, {1})")),
    "min": ScalarCode("arithmetic:minimum", cuda.template("onnxplan_min({0}, {1})")),
    "max": ScalarCode("arithmetic:maximum", cuda.template("onnxplan_max({0}, {1})")),
    "neg": ScalarCode("arithmetic:neg", cuda.negate),
    "abs": ScalarCode("arithmetic:absolute", cuda.template("onnxplan_abs({0})")),
    "sign": ScalarCode("arithmetic:sign", cuda.template("onnxplan_sign({0})")),
    "sqrt": ScalarCode("arithmetic:sqrt", cuda.mathematical("sqrt")),
    "exp": ScalarCode("math_exponential:exp", cuda.mathematical("exp")),
    "expm1": ScalarCode("math_exponential:expm1", cuda.mathematical("expm1")),
    "log": ScalarCode("math_logarithm:log", cuda.mathematical("log")),
    "log1p": ScalarCode("math_logarithm:log1p", cuda.mathematical("log1p")),
    "erf": ScalarCode("math_exponential:erf", cuda.mathematical("erf")),
    "tanh": ScalarCode("math_exponential:tanh", cuda.mathematical("tanh")),
    "sigmoid": ScalarCode("math_exponential:sigmoid", cuda.template("onnxplan_sigmoid({0})")),
    "sin": ScalarCode("math_trigonometric:sin", cuda.mathematical("sin")),
    "cos": ScalarCode("math_trigonometric:cos", cuda.mathematical("cos")),
    "tan": ScalarCode("math_trigonometric:tan", cuda.through_double("tan")),
    "asin": ScalarCode("math_inverse:asin", cuda.mathematical("asin")),
    "acos": ScalarCode("math_inverse:acos", cuda.mathematical("acos")),
    "atan": ScalarCode("math_inverse:atan", cuda.mathematical("atan")),
    "sinh": ScalarCode("math_exponential:sinh", cuda.through_double("sinh")),
    "cosh": ScalarCode("math_exponential:cosh", cuda.mathematical("cosh")),
    "asinh": ScalarCode("math_logarithm:asinh", cuda.through_double("asinh")),
    "acosh": ScalarCode("math_logarithm:acosh", cuda.through_double("acosh")),
    "atanh": ScalarCode("math_logarithm:atanh", cuda.through_double("atanh")),
    "floor": ScalarCode("arithmetic:floor", cuda.mathematical("floor")),
    "ceil": ScalarCode("arithmetic:ceil", cuda.mathematical("ceil")),
    "round": ScalarCode("arithmetic:round_even", cuda.mathematical("rint")),
    "isnan": ScalarCode("arithmetic:isnan", cuda.template("({0} != {0})")),
    "isinf": ScalarCode("arithmetic:isinf", cuda.template("(isinf({0}) != 0)")),
    "equal": ScalarCode("arithmetic:equal", cuda.template("({0} == {1})")),
    "not_equal": ScalarCode("arithmetic:not_equal", cuda.template("({0} != {1})")),
    "less": ScalarCode("arithmetic:less", cuda.template("({0} < {1})")),
    "less_equal": ScalarCode("arithmetic:less_equal", cuda.template("({0} <= {1})")),
    "greater": ScalarCode("arithmetic:greater", cuda.template("({0} > {1})")),
    "greater_equal": ScalarCode("arithmetic:greater_equal", cuda.template("({0} >= {1})")),
    "and": ScalarCode("arithmetic:bit_and", cuda.template("({0} && {1})")),
    "or": ScalarCode("arithmetic:bit_or", cuda.template("({0} || {1})")),
    "xor": ScalarCode("arithmetic:bit_xor", cuda.template("({0} != {1})")),
    "not": ScalarCode("arithmetic:bit_not", cuda.template("(!{0})")),
    "bitwise_and": ScalarCode("arithmetic:bit_and", cuda.narrowing("{0} & {1}")),
    "bitwise_or": ScalarCode("arithmetic:bit_or", cuda.narrowing("{0} | {1}")),
    "bitwise_xor": ScalarCode("arithmetic:bit_xor", cuda.narrowing("{0} ^ {1}")),
    "bitwise_not": ScalarCode("arithmetic:bit_not", cuda.narrowing("~{0}")),
    "shift_left": ScalarCode("arithmetic:shift_left", cuda.template("onnxplan_shift_left({0}, {1})")),
    "shift_right": ScalarCode("arithmetic:shift_right", cuda.template("onnxplan_shift_right({0}, {1})")),
    "select": ScalarCode("arithmetic:select", cuda.template("({0} ? {1} : {2})")),
    "cast": ScalarCode("arithmetic:cast", cuda.cast),
    "cast_saturate": ScalarCode("arithmetic:cast_saturate", cuda.cast_saturate),
}


@functools.cache
def cpu_function(op: str) -> Callable[..., Any]:
    """The function that emits vector code for ``op``; see the table above."""
    module, name = SCALAR_CODE[op].cpu.split(":")
    function: Callable[..., Any] = getattr(importlib.import_module(f"onnxplan.kernels.cpu.{module}"), name)
    return function


def cuda_expression(op: str, operand: DType, result: DType, *arguments: str) -> str:
    """CUDA C for ``op`` of ``arguments``; needs :data:`onnxplan.kernels.scalar_cuda.PRELUDE`."""
    return SCALAR_CODE[op].cuda(operand, result, *arguments)
