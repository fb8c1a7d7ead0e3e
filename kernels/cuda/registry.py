"""What a CUDA device has: which builder writes a kernel family.

Entries are ``"module:function"`` of ``onnxplan.kernels.cuda``, so that only what is needed is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import Attention, Primitive
from onnxplan.compiler.target import Target
from onnxplan.kernels.cuda.source import KernelSource
from onnxplan.kernels.device_kernels import DeviceKernels, resolve

PACKAGE = "onnxplan.kernels.cuda"

# ``build(spec.variant, target)`` for each family; the variant begins with the threads of a block.
FAMILIES: dict[str, str] = {
    "map": "map:build_map",
    "transpose": "transpose:build_transpose",
    "reduce": "reduce:build_reduce",
    "arg_reduce": "arg_reduce:build_arg_reduce",
    "scan": "scan:build_scan",
    "product": "product:build_product",
    "attention": "attention_code:build_attention",
    "conv": "conv:build_conv",
    "conv_matrix": "conv_matrix_code:build_conv_matrix",
    "depthwise": "depthwise:build_depthwise",
    "pool": "pool:build_pool",
    "gather": "gather:build_gather",
    "gather_reduce": "gather_reduce:build_gather_reduce",
    "scatter": "scatter_code:build_scatter",
    "scatter_winners": "scatter_code:build_scatter_winners",
    "sort": "sort:build_sort",
    "resample": "resample:build_resample",
    "recurrent": "recurrent_code:build_recurrent",
    "non_maximum": "non_maximum:build_non_maximum",
}

LIBRARY_FAMILIES = frozenset(["cublaslt", "cudnn", "cudnn_float32", "cudnn_attention"])
"""Families whose steps are calls of libraries."""


def build(spec: KernelSpec, target: Target) -> KernelSource:
    """The CUDA C of the kernel that ``spec`` names; raises ``KeyError`` for an unknown family."""
    source: KernelSource = resolve(PACKAGE, FAMILIES[spec.family])(spec.variant, target)
    return source


class CudaKernels(DeviceKernels):
    """The :class:`~onnxplan.compiler.selection.KernelSelector` of a CUDA device."""

    device = "CUDA"
    package = PACKAGE
    fused: ClassVar[Mapping[type[Primitive], tuple[str, str]]] = {
        Attention: ("attention:prefers_attention", "attention_library:select_attention"),
    }
