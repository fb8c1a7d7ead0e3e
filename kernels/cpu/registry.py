"""What the CPU has: which builder compiles a kernel family.

Entries are ``"module:function"`` of ``onnxplan.kernels.cpu``: selecting imports no compiler back end, and
building imports only what the kernel at hand needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import Attention, BlockMatMul, Conv, ResamplePlane
from onnxplan.compiler.target import Target
from onnxplan.kernels.device_kernels import DeviceKernels, resolve

if TYPE_CHECKING:
    from onnxplan.kernels.cpu.objects import ObjectCode

PACKAGE = "onnxplan.kernels.cpu"

# ``build(spec.variant, target)`` for each family.
FAMILIES: dict[str, str] = {
    "map": "map_code:build_map",
    "transpose": "transpose_code:build_transpose",
    "interleave": "interleave_code:build_interleave",
    "staged_copy": "staged_copy_code:build_staged_copy",
    "reduce": "reduce_code:build_reduce",
    "pack": "pack_code:build_pack",
    "matmul": "matmul_code:build_matmul",
    "block_rows": "block_matmul_code:build_block_rows",
    "block_matmul": "block_matmul_code:build_block_matmul",
    "attention": "attention_code:build_attention",
    "dot": "dot_code:build_dot",
    "row_sums": "row_sums_code:build_row_sums",
    "conv": "conv_code:build_conv",
    "conv_planes": "conv_planes_code:build_conv_planes",
    "depthwise": "depthwise_code:build_depthwise",
    "depthwise_rows": "depthwise_rows_code:build_depthwise_rows",
    "winograd": "winograd_code:build_winograd",
    "pool": "pool_code:build_pool",
    "pool_rows": "pool_rows_code:build_pool_rows",
    "gather": "gather_code:build_gather",
    "gather_reduce": "gather_reduce_code:build_gather_reduce",
    "gather_reduce_planes": "gather_reduce_planes_code:build_gather_reduce_planes",
    "scatter": "scatter_code:build_scatter",
    "sort": "sort_code:build_sort",
    "arg_reduce": "arg_reduce_code:build_arg_reduce",
    "scan": "scan_code:build_scan",
    "resample": "resample_code:build_resample",
    "resample_rows": "resample_rows_code:build_resample_rows",
    "recurrent": "recurrent_code:build_recurrent",
    "non_maximum": "non_maximum:build_non_maximum",
    "recurrent_pack": "recurrent_code:build_recurrent_pack",
}


def build(spec: KernelSpec, target: Target) -> ObjectCode:
    """Compiles the kernel that ``spec`` names; raises ``KeyError`` for an unknown family."""
    code: ObjectCode = resolve(PACKAGE, FAMILIES[spec.family])(spec.variant, target)
    return code


def prepare(target: Target) -> None:
    """Loads what compiling for ``target`` takes."""
    for family in HEAVY_FAMILIES:
        resolve(PACKAGE, FAMILIES[family])
    resolve(PACKAGE, "objects:target_machine")(target.isa)


HEAVY_FAMILIES = {"pool": 1, "matmul": 2, "conv": 3, "winograd": 4, "attention": 4}
"""Those whose kernels take longest to compile: how long, in tenths of a second or so."""


def effort(spec: KernelSpec) -> int:
    """Which kernels take longest to compile: the greater, the longer."""
    return HEAVY_FAMILIES.get(spec.family, 0)


class CpuKernels(DeviceKernels):
    """The CPU's :class:`~onnxplan.compiler.selection.KernelSelector`."""

    device = "CPU"
    package = PACKAGE
    fused: ClassVar = {
        Attention: ("attention:prefers_attention", "attention:select_attention"),
        BlockMatMul: ("block_matmul:prefers_block_matmul", "block_matmul:select_block_matmul"),
        Conv: ("conv:prefers_conv", "conv:select_conv"),
        ResamplePlane: ("resample_rows:prefers_resample_plane", "resample_rows:select_resample_plane"),
    }
