"""Matrix products of a plan: steps of the family ``cublaslt`` bound to descriptors and an algorithm.

cuBLASLt counts in columns. A row-major matrix read as a column-major one is its transpose, so the row-major
product ``d = a b`` is asked for as the column-major product ``d^T = b^T a^T``: cuBLASLt's A is ``b``, its B
is ``a``, and its bias, one value for each row of ``d^T``, is one for each column of ``d``.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import DeviceError, UnsupportedOperatorError
from onnxplan.compiler.plan import ExecutionPlan, Step
from onnxplan.compiler.records import dataclass
from onnxplan.runtime.cuda.cublaslt import (
    CUBLAS_COMPUTE_32F,
    CUBLAS_COMPUTE_32F_FAST_TF32,
    CUBLAS_COMPUTE_64F,
    CUBLAS_OP_N,
    CUBLAS_OP_T,
    CUDA_R_16BF,
    CUDA_R_16F,
    CUDA_R_32F,
    CUDA_R_64F,
    CublasLt,
    CublasLtError,
    Descriptor,
    DescriptorAttribute,
    Epilogue,
    HeuristicResult,
    Layout,
    LayoutAttribute,
    Preference,
    PreferenceAttribute,
    Status,
)
from onnxplan.runtime.cuda.tuning import Candidates, Tuner

FAMILY = "cublaslt"
SYMBOL = "cublaslt algorithm"
TYPES = {"float32": CUDA_R_32F, "float64": CUDA_R_64F, "float16": CUDA_R_16F, "bfloat16": CUDA_R_16BF}
EPILOGUES = {
    "none": Epilogue.DEFAULT,
    "relu": Epilogue.RELU,
    "bias": Epilogue.BIAS,
    "relu_bias": Epilogue.RELU_BIAS,
}
TILE = 128
"""Rows and columns of a result that a block of cuBLASLt's larger kernels computes."""
TIMED_ALGORITHMS = 8
"""How many are asked for where they are timed."""
ALGORITHMS = 4
"""How many algorithms are asked for; the first that can be used is."""


def workspace_limit(isa: str) -> int:
    """The most workspace a product may have, in bytes.

    Source: https://docs.nvidia.com/cuda/cublas/#cublassetworkspace (32 MiB for Hopper and Blackwell, else 4).
    """
    return (32 if int(isa.removeprefix("sm_")) >= 90 else 4) << 20


@dataclass(frozen=True, slots=True)
class Product:
    """A step of the family ``cublaslt``, in row-major terms; see the contract of the family's parameters.

    ``alignments`` are bytes that the addresses of a, b, the bias (that of d where there is none) and d are
    multiples of.
    """

    types: tuple[str, str, str]
    trans_a: bool
    trans_b: bool
    epilogue: str
    alignments: tuple[int, int, int, int]
    batch: int
    m: int
    n: int
    k: int
    lda: int
    ldb: int
    ldd: int
    stride_a: int
    stride_b: int
    stride_d: int

    @staticmethod
    def of(step: Step, plan: ExecutionPlan) -> Product:
        a_type, b_type, d_type, trans_a, trans_b, epilogue = step.kernel.variant
        offsets = [plan.buffers[o.buffer].offset + o.offset for o in step.operands]
        alignment = [math.gcd(plan.target.alignment, offset) for offset in offsets]
        return Product(
            (str(a_type), str(b_type), str(d_type)),
            bool(trans_a),
            bool(trans_b),
            str(epilogue),
            (alignment[0], alignment[1], alignment[2], alignment[-1]),
            *step.parameters,
        )

    @property
    def has_bias(self) -> bool:
        return self.epilogue in ("bias", "relu_bias")

    @property
    def blocks(self) -> int:
        """Roughly how many blocks cuBLASLt cuts it into."""
        return self.batch * -(-self.m // TILE) * -(-self.n // TILE)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to compute."""
        return not (self.batch and self.m and self.n)

    def __str__(self) -> str:
        a, b, d = self.types
        return (
            f"product {self.batch} x ({self.m} x {self.k}) ({self.k} x {self.n}), {a} x {b} -> {d}, "
            f"epilogue {self.epilogue}"
        )


class BoundProduct:
    """A product with its layouts and the algorithm for them; shared by all slots of an executor.

    Raises :class:`UnsupportedOperatorError` where cuBLASLt has no algorithm, naming ``step``.
    """

    def __init__(
        self,
        library: CublasLt,
        handle: int,
        product: Product,
        step: str,
        *,
        fast: bool,
        workspace: int,
        tuner: Tuner | None = None,
    ) -> None:
        self.product = product
        self._library = library
        self._handle = handle
        self._compute, self._scale = _arithmetic(product, fast)
        p = product
        type_a, type_b, type_d = p.types
        rows_b, cols_b = (p.k, p.n) if p.trans_b else (p.n, p.k)
        rows_a, cols_a = (p.m, p.k) if p.trans_a else (p.k, p.m)
        self._layouts = (
            self._layout(type_b, rows_b, cols_b, p.ldb, p.stride_b),
            self._layout(type_a, rows_a, cols_a, p.lda, p.stride_a),
            self._layout(type_d, p.n, p.m, p.ldd, p.stride_d),
        )
        kind: type[Any] = ctypes.c_double if self._scale == CUDA_R_64F else ctypes.c_float
        self._scalars = (kind(1.0), kind(0.0))
        try:
            self._algorithm, self.workspace_bytes = self._choose(step, workspace, tuner)
        except BaseException:
            self.close()
            raise

    def _layout(self, dtype: str, rows: int, columns: int, distance: int, stride: int) -> Layout:
        # A single column may come with any distance of columns, which cuBLASLt still checks.
        distance = distance if columns > 1 else max(distance, rows)
        layout = Layout(self._library, TYPES[dtype], rows, columns, distance)
        if self.product.batch != 1:
            layout.set(LayoutAttribute.BATCH_COUNT, self.product.batch)
            layout.set(LayoutAttribute.STRIDED_BATCH_OFFSET, stride)
        return layout

    def descriptor(self, bias: int) -> Descriptor:
        """A descriptor for the product with the bias at that address, if it has one."""
        product = self.product
        descriptor = Descriptor(self._library, self._compute, self._scale)
        descriptor.set(DescriptorAttribute.TRANSA, CUBLAS_OP_T if product.trans_b else CUBLAS_OP_N)
        descriptor.set(DescriptorAttribute.TRANSB, CUBLAS_OP_T if product.trans_a else CUBLAS_OP_N)
        descriptor.set(DescriptorAttribute.EPILOGUE, EPILOGUES[product.epilogue])
        if product.has_bias:
            descriptor.set(DescriptorAttribute.BIAS_POINTER, bias)
        return descriptor

    def _choose(self, step: str, workspace: int, tuner: Tuner | None) -> tuple[Any, int]:
        """The algorithm that the heuristic ranks first, or that ``tuner`` finds to be the fastest, and the
        workspace that it needs."""
        usable = self.algorithms(ALGORITHMS if tuner is None else TIMED_ALGORITHMS, workspace)
        if not usable:
            raise UnsupportedOperatorError(f"{step}: cuBLASLt has no algorithm for the {self.product}")
        return usable[0] if tuner is None else usable[self._timed(tuner, usable)]

    def algorithms(self, wanted: int, workspace: int) -> list[tuple[Any, int]]:
        """Up to so many algorithms as the heuristic ranks them, which do with ``workspace`` bytes, and the
        bytes that they need."""
        align_a, align_b, align_bias, align_d = self.product.alignments
        results, found = (HeuristicResult * wanted)(), ctypes.c_int()
        b, a, d = (layout.handle for layout in self._layouts)
        with Preference(self._library) as preference, self.descriptor(align_bias) as descriptor:
            preference.set(PreferenceAttribute.MAX_WORKSPACE_BYTES, workspace)
            preference.set(PreferenceAttribute.MIN_ALIGNMENT_A_BYTES, align_b)
            preference.set(PreferenceAttribute.MIN_ALIGNMENT_B_BYTES, align_a)
            preference.set(PreferenceAttribute.MIN_ALIGNMENT_C_BYTES, align_d)
            preference.set(PreferenceAttribute.MIN_ALIGNMENT_D_BYTES, align_d)
            try:
                self._library.call(
                    "cublasLtMatmulAlgoGetHeuristic", self._handle, descriptor.handle, b, a, d, d,
                    preference.handle, wanted, ctypes.addressof(results), ctypes.addressof(found),
                )  # fmt: skip
            except CublasLtError as error:
                if error.status not in (Status.NOT_SUPPORTED, Status.INVALID_VALUE):
                    raise
                found.value = 0
        return [
            (result.algo, int(result.workspaceSize))
            for result in results[: found.value]
            if result.state == Status.SUCCESS and result.workspaceSize <= workspace
        ]

    def _timed(self, tuner: Tuner, usable: Sequence[tuple[Any, int]]) -> int:
        """The number of the algorithm that ``tuner`` chooses."""

        def launch(addresses: Sequence[int], number: int, stream: int) -> None:
            a, b, bias, d, workspace = addresses
            with self.descriptor(bias) as descriptor:
                self.launcher(a, b, d, descriptor, workspace, usable[number])(stream)

        return tuner.choose(
            Candidates(
                SYMBOL,
                repr(alike(self.product)),
                str(self.product),
                operand_sizes(self.product),
                [bytes(algorithm) for algorithm, _ in usable],
                [nbytes for _, nbytes in usable],
                launch,
            )
        )

    def launcher(
        self,
        a: int,
        b: int,
        d: int,
        descriptor: Descriptor,
        workspace: int,
        choice: tuple[Any, int] | None = None,
    ) -> Callable[[int], None]:
        """``launch(stream)`` for operands and a workspace at these addresses; ``choice`` is another one of
        :meth:`algorithms`."""
        algorithm, nbytes = choice or (self._algorithm, self.workspace_bytes)
        matmul = self._library.function("cublasLtMatmul")
        layout_b, layout_a, layout_d = (layout.handle for layout in self._layouts)
        alpha, beta = map(ctypes.addressof, self._scalars)
        arguments = (
            self._handle, descriptor.handle, alpha, b, layout_b, a, layout_a, beta, d, layout_d, d, layout_d,
            ctypes.addressof(algorithm), workspace if nbytes else 0, nbytes,
        )  # fmt: skip

        def launch(stream: int, _kept: object = algorithm) -> None:
            status = matmul(*arguments, stream)
            if status:
                raise CublasLtError(f"cublasLtMatmul of the {self.product}", int(status))

        return launch

    def close(self) -> None:
        for layout in self._layouts:
            layout.close()


def _arithmetic(product: Product, fast: bool) -> tuple[int, int]:
    """Compute type, and the type of alpha and beta."""
    types = set(product.types)
    if not types <= TYPES.keys():
        raise DeviceError(f"cuBLASLt has no {product}")
    if types == {"float64"}:
        return CUBLAS_COMPUTE_64F, CUDA_R_64F
    tf32 = fast and product.types[:2] == ("float32", "float32")
    return (CUBLAS_COMPUTE_32F_FAST_TF32 if tf32 else CUBLAS_COMPUTE_32F), CUDA_R_32F


def alike(product: Product) -> tuple[Any, ...]:
    """What products that share an algorithm have in common: all but the rows, up to the next power of two.

    The first one of a kind is timed, later ones take its algorithm if the heuristic offers it for them too.
    """
    p = product
    rows = 1 << (p.m - 1).bit_length()
    return p.types, p.trans_a, p.trans_b, p.epilogue, p.alignments, p.batch, rows, p.n, p.k


def operand_sizes(product: Product) -> list[tuple[int, DType]]:
    """Bytes and element types of a, b, the bias and d."""
    p = product
    a, b, d = (DType.from_label(label) for label in p.types)
    rows = (p.k if p.trans_a else p.m, p.n if p.trans_b else p.k, p.m)
    sizes = [
        (p.batch - 1) * stride + count * distance
        for stride, count, distance in zip(
            (p.stride_a, p.stride_b, p.stride_d), rows, (p.lda, p.ldb, p.ldd), strict=True
        )
    ]
    found = [(sizes[0], a), (sizes[1], b), (p.n, d), (sizes[2], d)]
    return [(max(size, 1) * dtype.itemsize, dtype) for size, dtype in found]
