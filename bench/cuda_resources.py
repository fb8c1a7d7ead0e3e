"""What generated CUDA kernels take and how they access memory, read off the compiler's output: no GPU needed.

Registers, local and shared memory are those that the compiler reports; widths of accesses and integer
divisions are counted in its PTX. Times are *predicted* from bytes and floating-point operations at the
ceilings of one device's data sheet. Nothing here was measured, and the record says so.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import onnx
import onnx.parser

from bench import record
from onnxplan.compiler.constant_pool import ConstantPool
from onnxplan.compiler.importer import load_model
from onnxplan.compiler.lowering import lower
from onnxplan.compiler.pipeline import compile_program
from onnxplan.compiler.plan import KernelSpec
from onnxplan.kernels.cuda.registry import LIBRARY_FAMILIES, CudaKernels, build
from onnxplan.runtime.cuda.api import load_nvrtc
from onnxplan.runtime.cuda.compiler import OPTIONS
from onnxplan.runtime.cuda.target import assumed_target

ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100", "sm_120")
BANDWIDTH = 4.8e12
FLOPS = 67e12
"""Bytes and float32 operations per second of an NVIDIA H200. Source: its data sheet,
https://www.nvidia.com/en-us/data-center/h200/ (SXM)."""
CEILINGS = "NVIDIA H200 by its data sheet: 4.8 TB/s, 67 TFLOP/s in float32"
PREDICTED = "predicted from bytes and FLOPs at the ceilings, not measured; no GPU was used"

# name -> inputs and their shapes, then the graph's body.
CASES = {
    "add float32": ("float[4096,4096] x, float[4096,4096] y", "z = Add(x, y)"),
    "add float16": ("float16[4096,4096] x, float16[4096,4096] y", "z = Add(x, y)"),
    "bias, gelu float16": (
        "float16[4096,4096] x, float16[4096] b",
        's = Add(x, b) z = Gelu<approximate="tanh">(s)',
    ),
    "silu bfloat16": ("bfloat16[4096,4096] x", "s = Sigmoid(x) z = Mul(x, s)"),
    "cast float32 to float16": ("float[4096,4096] x", "z = Cast<to=10>(x)"),
    "softmax float32, rows of 1024": ("float[16384,1024] x", "z = Softmax<axis=-1>(x)"),
    "softmax float16, rows of 512": ("float16[64,12,512,512] x", "z = Softmax<axis=-1>(x)"),
    "layer norm float32, rows of 768": (
        "float[16384,768] x, float[768] s, float[768] b",
        "z = LayerNormalization<axis=-1>(x, s, b)",
    ),
    "RMS norm float16, rows of 4096": (
        "float16[8192,4096] x, float16[4096] s",
        "z = RMSNormalization<axis=-1>(x, s)",
    ),
    "sum of rows float32": (
        "float[8192,8192] x",
        "a = Constant<value_ints=[1]>() z = ReduceSum<keepdims=0>(x, a)",
    ),
    "sum of columns float32": (
        "float[8192,8192] x",
        "a = Constant<value_ints=[0]>() z = ReduceSum<keepdims=0>(x, a)",
    ),
    "transpose float32": ("float[8192,8192] x", "z = Transpose<perm=[1,0]>(x)"),
    "transpose float16": ("float16[8192,8192] x", "z = Transpose<perm=[1,0]>(x)"),
    "channels last float32": ("float[64,256,56,56] x", "z = Transpose<perm=[0,2,3,1]>(x)"),
}

_ACCESS = re.compile(r"\b(ld|st)\.global((?:\.[\w:]+)*?)(?:\.v(\d))?\.[busf](\d+)\b")
_DIVISION = re.compile(r"\b(?:div|rem)\.[su]\d+\b")
_USAGE = re.compile(
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
    r"[\s\S]*?Used (?P<registers>\d+) registers(?:[^\n]*?(?P<shared>\d+) bytes smem)?"
)


@dataclass(frozen=True, slots=True)
class Resources:
    """One kernel on one architecture. ``loads`` and ``stores`` count accesses of device memory in the code by
    their width in bytes; ``spills`` and ``stack`` are bytes of a thread, ``shared`` of a block."""

    case: str
    architecture: str
    kernel: str
    registers: int
    spills: int
    stack: int
    shared: int
    loads: dict[int, int]
    stores: dict[int, int]
    divisions: int
    bytes: int
    flops: int
    predicted_seconds: float


def model_of(inputs: str, body: str) -> onnx.ModelProto:
    """A model of one output ``z``, whose type is inferred."""
    result = "float16" if inputs.startswith("float16") or "to=10" in body else inputs.partition("[")[0]
    rank = 1 if "ReduceSum" in body else inputs.partition("]")[0].count(",") + 1
    dims = ",".join(f"d{axis}" for axis in range(rank))
    text = f'<ir_version: 10, opset_import: ["" : 23]> case ({inputs}) => ({result}[{dims}] z) {{ {body} }}'
    return onnx.parser.parse_model(text)


def steps_of(model: onnx.ModelProto, architecture: str) -> Iterator[tuple[KernelSpec, int, int]]:
    """Kernel, bytes and FLOPs of each step that has a kernel of ours."""
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in model.graph.input
    }
    pool = ConstantPool()
    program = lower(load_model(model), shapes, pool=pool).program
    for step in compile_program(
        program, CudaKernels(assumed_target(architecture, "strict")), pool
    ).plan.steps:
        if step.kernel.family not in LIBRARY_FAMILIES:
            yield step.kernel, step.bytes, step.flops


def compiled(nvrtc: Any, text: str, *options: str) -> tuple[str, str]:
    """PTX and the log of a compilation."""
    program = nvrtc.createProgram(text, "kernel.cu", (), ())
    try:
        nvrtc.compileProgram(program, (*options, *OPTIONS))
        ptx = nvrtc.getPTX(program)
        return ptx.decode() if isinstance(ptx, bytes) else ptx, nvrtc.getProgramLog(program)
    finally:
        nvrtc.destroyProgram(program)


def widths(ptx: str) -> tuple[dict[int, int], dict[int, int]]:
    """How many loads and stores of device memory there are of each width in bytes."""
    found: dict[str, Counter[int]] = {"ld": Counter(), "st": Counter()}
    for kind, _, count, bits in _ACCESS.findall(ptx):
        found[kind][int(count or 1) * int(bits) // 8] += 1
    return dict(sorted(found["ld"].items())), dict(sorted(found["st"].items()))


def resources(nvrtc: Any, case: str, architecture: str) -> list[Resources]:
    """What the kernels of a case take."""
    found: list[Resources] = []
    for spec, nbytes, flops in steps_of(model_of(*CASES[case]), architecture):
        source = build(spec, assumed_target(architecture, "strict"))
        ptx, _ = compiled(nvrtc, source.text, f"-arch={architecture.replace('sm', 'compute')}")
        _, log = compiled(nvrtc, source.text, f"-arch={architecture}", "--ptxas-options=-v")
        usage = _USAGE.search(log)
        if usage is None:
            raise ValueError(f"{case}: the compiler reports no use of resources: {log}")
        loads, stores = widths(ptx)
        found.append(
            Resources(
                case,
                architecture,
                spec.family,
                int(usage["registers"]),
                int(usage["stores"]) + int(usage["loads"]),
                int(usage["stack"]),
                int(usage["shared"] or 0),
                loads,
                stores,
                len(_DIVISION.findall(ptx)),
                nbytes,
                flops,
                max(nbytes / BANDWIDTH, flops / FLOPS),
            )
        )
    return found


def rows_of(found: Sequence[Resources]) -> list[record.Row]:
    """A row for each kernel on sm_90, whose device the ceilings are of."""
    return [
        record.Row(f"{item.case}: {item.kernel}, predicted", 1e6 * item.predicted_seconds, "us")
        for item in found
        if item.architecture == "sm_90"
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Resources of CUDA kernels, without a GPU.")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--architectures", nargs="*", default=list(ARCHITECTURES))
    parser.add_argument("--no-record", action="store_true", help="do not write the record")
    options = parser.parse_args()
    nvrtc = load_nvrtc()
    found = [
        item
        for case in options.cases
        for architecture in options.architectures
        for item in resources(nvrtc, case, architecture)
    ]
    for item in found:
        print(
            f"{item.case}, {item.architecture}, {item.kernel}: {item.registers} registers, "
            f"{item.spills} B spilled, {item.shared} B shared, loads {item.loads}, stores {item.stores}, "
            f"{item.divisions} divisions, {1e6 * item.predicted_seconds:.1f} us predicted"
        )
    if not options.no_record:
        details = {
            "basis": PREDICTED,
            "ceilings": CEILINGS,
            "nvrtc": list(nvrtc.getVersion()),
            "kernels": [asdict(item) for item in found],
        }
        print(
            record.write("cuda-resources", rows_of(found), device="compiled without a GPU", details=details)
        )


if __name__ == "__main__":
    main()
