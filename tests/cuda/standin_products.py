"""What cuBLASLt accepts, and the product itself, with NumPy.

Source: https://docs.nvidia.com/cuda/cublas/#cublasltmatmul (supported types, alignment, workspace) and
https://docs.nvidia.com/cuda/cublas/#cublasltmatmuldescattributes-t.
"""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
from standin_errors import StrictError
from standin_memory import POISON, MemoryMap
from standin_order import READ, WRITE, Access
from standin_streams import Busy, Run

INVALID_VALUE, NOT_SUPPORTED = 7, 15
R_32F, R_64F, R_16F, R_8I, R_32I, R_16BF = 0, 1, 2, 3, 10, 14
DTYPES: dict[int, Any] = {
    R_32F: np.float32,
    R_64F: np.float64,
    R_16F: np.float16,
    R_8I: np.int8,
    R_32I: np.int32,
    R_16BF: ml_dtypes.bfloat16,
}
COMPUTE_16F, COMPUTE_32F, COMPUTE_32F_PEDANTIC, COMPUTE_64F, COMPUTE_64F_PEDANTIC = 64, 68, 69, 70, 71
COMPUTE_32I, COMPUTE_FAST_16F, COMPUTE_FAST_16BF, COMPUTE_FAST_TF32 = 72, 74, 75, 77
FAST = (COMPUTE_FAST_16F, COMPUTE_FAST_16BF, COMPUTE_FAST_TF32)
# (compute types, scale type): (types of A and B, types of D)
SUPPORTED = {
    (COMPUTE_16F,): (R_16F, {R_16F: {R_16F}}),
    (COMPUTE_32F, COMPUTE_32F_PEDANTIC): (
        R_32F,
        {R_16F: {R_16F, R_32F}, R_16BF: {R_16BF, R_32F}, R_32F: {R_32F}, R_8I: {R_32F}},
    ),
    FAST: (R_32F, {R_32F: {R_32F}}),
    (COMPUTE_64F, COMPUTE_64F_PEDANTIC): (R_64F, {R_64F: {R_64F}}),
    (COMPUTE_32I,): (R_32I, {R_8I: {R_32I}}),
}
DEFAULT, RELU, BIAS, RELU_BIAS = 1, 2, 4, 6
ORDER_COLUMN, ORDER_ROW = 0, 1
WORKSPACE_BYTES = 8192
_ALGORITHM = 0x414C474F


@dataclass(frozen=True)
class Matrix:
    """A ``cublasLtMatrixLayout_t``, in elements."""

    type: int
    order: int
    rows: int
    columns: int
    distance: int
    batch: int
    stride: int

    def ok(self) -> bool:
        """Whether the layout is one of a matrix with elements."""
        least = self.rows if self.order == ORDER_COLUMN else self.columns
        return (
            self.order in (ORDER_COLUMN, ORDER_ROW)
            and self.rows > 0
            and self.columns > 0
            and self.distance >= least
            and self.batch > 0
            and self.stride >= 0
        )

    @property
    def one(self) -> int:
        """Elements from the first to the last of one matrix, both included."""
        lines, length = self.columns, self.rows
        if self.order == ORDER_ROW:
            lines, length = length, lines
        return (lines - 1) * self.distance + length

    @property
    def nbytes(self) -> int:
        """Bytes from the first to the last element of all matrices, both included."""
        return ((self.batch - 1) * self.stride + self.one) * np.dtype(DTYPES[self.type]).itemsize

    def view(self, address: int) -> np.ndarray:
        """The matrices at an address, as an array (batch, rows, columns)."""
        dtype = np.dtype(DTYPES[self.type])
        flat = np.frombuffer((ctypes.c_char * self.nbytes).from_address(address), dtype)
        steps = (1, self.distance) if self.order == ORDER_COLUMN else (self.distance, 1)
        strides = [step * dtype.itemsize for step in (self.stride, *steps)]
        return np.lib.stride_tricks.as_strided(flat, (self.batch, self.rows, self.columns), strides)


@dataclass(frozen=True)
class WorkspaceLimits:
    """Of a ``cublasLtMatmulPreference_t``: bytes of workspace, and of which A, B, C, D are multiples."""

    workspace_bytes: int
    alignments: tuple[int, ...]


@dataclass(frozen=True)
class Product:
    """A ``cublasLtMatmulDesc_t`` with the layouts it is used with."""

    compute: int
    scale: int
    pointer_mode: int
    transposes: tuple[int, int, int]
    epilogue: int
    bias: int
    bias_stride: int
    bias_type: int
    a: Matrix
    b: Matrix
    c: Matrix
    d: Matrix

    def problem(self) -> int:
        """The status cuBLASLt refuses the product with, or 0."""
        if not all(matrix.ok() for matrix in (self.a, self.b, self.c, self.d)):
            return INVALID_VALUE
        a, b, d = self.a, self.b, self.d
        m, k = (a.columns, a.rows) if self.transposes[0] else (a.rows, a.columns)
        k_b, n = (b.columns, b.rows) if self.transposes[1] else (b.rows, b.columns)
        if (m, n, k) != (d.rows, d.columns, k_b) or (self.c.rows, self.c.columns) != (m, n):
            return INVALID_VALUE
        if len({a.batch, b.batch, self.c.batch, d.batch}) != 1:
            return INVALID_VALUE
        if self.pointer_mode or self.transposes[2] or not set(self.transposes) <= {0, 1}:
            return NOT_SUPPORTED
        return 0 if self._types_supported() and self._epilogue_supported() else NOT_SUPPORTED

    def _types_supported(self) -> bool:
        for computes, (scale, types) in SUPPORTED.items():
            if self.compute in computes:
                same = self.a.type == self.b.type and self.c.type == self.d.type
                if not (same and self.scale == scale and self.d.type in types.get(self.a.type, ())):
                    return False
                if self.a.type != R_8I:
                    return True
                extents = (self.a.rows, self.a.columns, self.b.columns, self.a.distance, self.b.distance)
                return self.transposes[:2] == (1, 0) and not any(extent % 4 for extent in extents)
        return False

    def _epilogue_supported(self) -> bool:
        if self.epilogue == DEFAULT:
            return True
        if self.epilogue not in (RELU, BIAS, RELU_BIAS) or self.a.type == R_8I:
            return False
        # A bias type that was not set reads as -1, which means that of D.
        return self.d.order == ORDER_COLUMN and self.bias_type in (-1, self.d.type)

    @property
    def has_bias(self) -> bool:
        return self.epilogue in (BIAS, RELU_BIAS)

    @property
    def digest(self) -> int:
        """What an algorithm is chosen for: all but addresses."""
        return zlib.crc32(repr(replace(self, bias=0)).encode())


@dataclass(frozen=True)
class Algorithm:
    """What the stand-in puts into a ``cublasLtMatmulAlgo_t``."""

    digest: int
    workspace_bytes: int
    alignments: tuple[int, ...]
    number: int = 0

    @staticmethod
    def choose(product: Product, limits: WorkspaceLimits, number: int = 0) -> Algorithm:
        workspace = min(limits.workspace_bytes, WORKSPACE_BYTES)
        return Algorithm(product.digest, workspace, limits.alignments, number)

    def words(self) -> list[int]:
        return [_ALGORITHM, self.digest, self.workspace_bytes, self.number, *self.alignments]

    @staticmethod
    def of_words(words: tuple[int, ...]) -> Algorithm:
        if words[0] != _ALGORITHM:
            raise StrictError("the algorithm does not come from cublasLtMatmulAlgoGetHeuristic")
        return Algorithm(words[1], words[2], words[4:], words[3])


@dataclass(frozen=True)
class ProductLaunch:
    """A product with addresses, as work for a stream."""

    product: Product
    alpha: float
    beta: float
    addresses: tuple[int, int, int, int]
    workspace: int
    workspace_bytes: int
    accesses: tuple[Access, ...]
    over: Callable[[], None] = lambda: None

    label = "a cuBLASLt product"

    def issue(self, busy: Busy) -> Run:
        return self._run

    def _run(self) -> None:
        product = self.product
        self.over()
        if self.workspace_bytes:
            ctypes.memset(self.workspace, POISON, self.workspace_bytes)
        a, b, c, d = (
            matrix.view(address)
            for matrix, address in zip(
                (product.a, product.b, product.c, product.d), self.addresses, strict=True
            )
        )
        bias = None
        if product.has_bias:
            bias_matrix = Matrix(
                product.d.type,
                ORDER_COLUMN,
                product.d.rows,
                1,
                product.d.rows,
                product.d.batch,
                product.bias_stride,
            )
            bias = bias_matrix.view(product.bias)
        d[...] = multiply(product, a, b, c, bias, self.alpha, self.beta)


def multiply(product: Product, a: Any, b: Any, c: Any, bias: Any, alpha: float, beta: float) -> np.ndarray:
    """``epilogue(alpha op(a) op(b) + beta c + bias)``, in float64 or int64, then rounded to D's type."""
    wide = np.int64 if product.compute == COMPUTE_32I else np.float64
    left, right = (_operand(product.compute, matrix).astype(wide) for matrix in (a, b))
    left = left.swapaxes(1, 2) if product.transposes[0] else left
    right = right.swapaxes(1, 2) if product.transposes[1] else right
    with np.errstate(all="ignore"):
        result = left @ right
        if product.compute not in (COMPUTE_64F, COMPUTE_64F_PEDANTIC, COMPUTE_32I):
            result = result.astype(np.float16 if product.compute == COMPUTE_16F else np.float32)
        result = result * result.dtype.type(alpha)
        if beta:
            result = result + result.dtype.type(beta) * c.astype(result.dtype)
        if bias is not None:
            result = result + bias.astype(result.dtype)
        if product.epilogue in (RELU, RELU_BIAS):
            result = np.maximum(result, result.dtype.type(0))
        return result.astype(DTYPES[product.d.type])


def _operand(compute: int, matrix: Any) -> Any:
    """A matrix in the precision that a fast compute type takes it in."""
    if compute == COMPUTE_FAST_16F:
        return matrix.astype(np.float16)
    if compute == COMPUTE_FAST_16BF:
        return matrix.astype(ml_dtypes.bfloat16)
    if compute == COMPUTE_FAST_TF32:
        bits = np.ascontiguousarray(matrix).view(np.uint32)
        rounded = ((bits + np.uint32(0x0FFF) + (bits >> 13 & 1)) & np.uint32(0xFFFFE000)).view(np.float32)
        return np.where(np.isfinite(matrix), rounded, matrix)
    return matrix


def launch(
    memory: MemoryMap,
    product: Product,
    algorithm: Algorithm,
    alpha: int,
    a: int,
    b: int,
    beta: int,
    c: int,
    d: int,
    workspace: int,
    workspace_bytes: int,
) -> ProductLaunch | int:
    """A checked launch, or the status it is refused with."""
    if not (alpha and beta and a and b and d):
        return INVALID_VALUE
    scalar = np.dtype(DTYPES[product.scale])
    scale, keep = (
        np.frombuffer((ctypes.c_char * scalar.itemsize).from_address(address), scalar)[0]
        for address in (alpha, beta)
    )
    if (keep and not c) or (product.has_bias and not product.bias):
        return INVALID_VALUE
    if workspace_bytes < algorithm.workspace_bytes or (workspace_bytes and not workspace):
        return INVALID_VALUE
    if algorithm.digest != product.digest:
        raise StrictError("the algorithm of a cuBLASLt product was chosen for another one")
    _check_aligned(product, algorithm, (a, b, c if keep else d, d), workspace)
    accesses = [
        Access(a, a + product.a.nbytes, READ),
        Access(b, b + product.b.nbytes, READ),
        Access(d, d + product.d.nbytes, WRITE),
    ]
    if keep:
        accesses.append(Access(c, c + product.c.nbytes, READ))
    if product.has_bias:
        size = np.dtype(DTYPES[product.d.type]).itemsize
        count = product.d.rows + (product.d.batch - 1) * product.bias_stride
        accesses.append(Access(product.bias, product.bias + count * size, READ))
    if workspace_bytes:
        accesses.append(Access(workspace, workspace + workspace_bytes, WRITE))
    for access in accesses:
        block = memory.at(access.start, access.end - access.start, ProductLaunch.label)
        if block.kind != "device":
            raise StrictError(f"{ProductLaunch.label} uses {block}")
    _check_apart(product, a, b, c if keep else None, d)
    return ProductLaunch(
        product, scale, keep, (a, b, c if keep else d, d), workspace, workspace_bytes, tuple(accesses)
    )


def _check_aligned(
    product: Product, algorithm: Algorithm, addresses: tuple[int, ...], workspace: int
) -> None:
    for name, address, alignment in zip("ABCD", addresses, algorithm.alignments, strict=True):
        if alignment and address % alignment:
            raise StrictError(
                f"{name} of a cuBLASLt product is at {address:#x}; the algorithm was chosen for"
                f" addresses that are multiples of {alignment}"
            )
    if workspace % 16:
        raise StrictError(f"the workspace of a cuBLASLt product at {workspace:#x} is no multiple of 16")
    if product.has_bias and product.bias % np.dtype(DTYPES[product.d.type]).itemsize:
        raise StrictError(
            f"the bias of a cuBLASLt product at {product.bias:#x} is no multiple of its elements"
        )


def _check_apart(product: Product, a: int, b: int, c: int | None, d: int) -> None:
    """D may be C, and shares no element with others or itself."""
    target = product.d.view(d)
    inner = 0
    # Matrices of a batch may interleave, as those of attention heads do.
    for step, extent in sorted(zip(target.strides, target.shape, strict=True)):
        if extent > 1 and step <= inner:
            raise StrictError("the matrices D of a batched cuBLASLt product overlap")
        inner += step * (extent - 1)
    others = [("A", product.a, a), ("B", product.b, b)]
    if c is not None and (c, product.c) != (d, product.d):
        others.append(("C", product.c, c))
    for name, matrix, address in others:
        try:
            shared = np.shares_memory(matrix.view(address), target, max_work=100_000)
        except np.exceptions.TooHardError:
            continue
        if shared:
            raise StrictError(f"{name} and D of a cuBLASLt product share elements")
