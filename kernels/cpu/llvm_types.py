"""LLVM types of elements, and the signature of kernels."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from onnxplan.compiler.dtypes import DType

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
FLOAT, DOUBLE, HALF = ir.FloatType(), ir.DoubleType(), ir.HalfType()
POINTER = ir.PointerType()
SIGNATURE = ir.FunctionType(ir.VoidType(), [POINTER, POINTER, I64, I64, POINTER])


class VectorConstant(ir.Constant):  # type: ignore[misc]
    """A constant vector in LLVM's short form; llvmlite spells out all lanes, half of a kernel's text."""

    def __init__(self, type_: ir.VectorType, text: str, lanes: Sequence[ir.Constant] | None = None) -> None:
        self.type, self.constant = type_, lanes
        self._text = text

    def _get_reference(self) -> str:
        return self._text


def splat_constant(lane: ir.Constant, lanes: int) -> VectorConstant:
    return VectorConstant(ir.VectorType(lane.type, lanes), f"splat ({lane})", [lane] * lanes)


def zeros(type_: ir.VectorType) -> VectorConstant:
    return VectorConstant(type_, "zeroinitializer", [ir.Constant(type_.element, 0)] * type_.count)


def undefined(type_: ir.VectorType) -> VectorConstant:
    return VectorConstant(type_, "undef")


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


def size_of(element: ir.Type) -> int:
    """Bytes of a scalar LLVM type in memory."""
    if isinstance(element, ir.IntType):
        bits: int = element.width
        return -(-bits // 8)
    return {"half": 2, "float": 4, "double": 8}[str(element)]


def type_suffix(type_: ir.Type) -> str:
    """How LLVM mangles a type into the name of an intrinsic: ``v16f32``."""
    if isinstance(type_, ir.VectorType):
        return f"v{type_.count}{type_suffix(type_.element)}"
    if isinstance(type_, ir.IntType):
        return f"i{type_.width}"
    return {"half": "f16", "float": "f32", "double": "f64"}[str(type_)]
