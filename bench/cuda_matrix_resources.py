"""What kernels of attention and convolution take of a device, and the times that their tiles are chosen by.

NVRTC's report needs no GPU. Times are estimates from the rates of a multiprocessor's units, the same ones for
all architectures, and were never measured; the record says so. ``python -m bench.cuda_matrix_resources``
writes it to ``bench/results/``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import onnx.parser

from bench.record import Row, show, write
from onnxplan.compiler.constant_pool import ConstantPool
from onnxplan.compiler.importer import load_model
from onnxplan.compiler.lowering import lower
from onnxplan.compiler.pipeline import compile_program
from onnxplan.compiler.plan import Step
from onnxplan.compiler.target import Target
from onnxplan.kernels.cuda.attention_form import FAMILY as ATTENTION
from onnxplan.kernels.cuda.conv import FAMILY as FLOAT_CONVOLUTION
from onnxplan.kernels.cuda.conv_matrix_code import FAMILY as CONVOLUTION
from onnxplan.kernels.cuda.registry import CudaKernels, build
from onnxplan.runtime.cuda.api import load_nvrtc
from onnxplan.runtime.cuda.compiler import OPTIONS
from onnxplan.runtime.cuda.target import assumed_target

FAMILIES = (ATTENTION, CONVOLUTION, FLOAT_CONVOLUTION)
ARCHITECTURES = ("sm_80", "sm_90", "sm_120")
REGISTERS = 1 << 16
MOST_THREADS = {"sm_80": 2048, "sm_90": 2048, "sm_120": 1536}
"""Of a multiprocessor. Source: CUDA C++ Programming Guide, technical specifications."""
TYPES = {"float16": ("float16", "strict"), "TF32": ("float", "fast"), "float32": ("float", "strict")}
USAGE = re.compile(r"(\d+) bytes stack frame.*\s+ptxas info\s+: Used (\d+) registers")

CONVOLUTIONS = {"56x56, 64": (56, 64), "28x28, 128": (28, 128), "14x14, 256": (14, 256), "7x7, 512": (7, 512)}
"""Extent and channels of the 3x3 convolutions of ResNet-50."""


@dataclass(frozen=True, slots=True)
class Resources:
    """One kernel on one architecture; ``spilled`` are bytes of a thread, ``shared`` those of a block,
    ``occupancy`` is the share of a multiprocessor's threads that are resident."""

    case: str
    architecture: str
    tile: tuple[Any, ...]
    blocks: int
    threads: int
    registers: int
    spilled: int
    shared: int
    occupancy: float
    flops: int
    bytes: int
    predicted_seconds: float


def cases() -> Iterator[tuple[str, str, str]]:
    """Name, mode of ``math`` and model of what the project's bars are about."""
    for label, (dtype, math) in TYPES.items():
        for head in (64, 128):
            for causal in (0, 1):
                shape = f"{dtype}[8,16,2048,{head}]"
                name = f"attention {label}, heads of {head}{', causal' if causal else ''}"
                body = f"z = Attention<is_causal={causal}>(q, k, v)"
                yield name, math, _model(f"{shape} q, {shape} k, {shape} v", shape, body)
        # One token of one sequence: eight groups of four heads that share 16,384 keys and values.
        query, past = f"{dtype}[1,32,1,128]", f"{dtype}[1,8,16384,128]"
        inputs = f"{query} q, {past} k, {past} v"
        yield f"decoding {label}", math, _model(inputs, query, "z = Attention(q, k, v)")
        x, w = f"{dtype}[64,3,224,224]", f"{dtype}[64,3,7,7]"
        body = "y = Conv<pads=[3,3,3,3], strides=[2,2]>(x, w) z = Relu(y)"
        if label != "TF32":
            # Of few channels: the same kernel in both modes.
            yield f"stem {label}", math, _model(f"{x} x, {w} w", f"{dtype}[64,64,112,112]", body)
        for name, (extent, channels) in CONVOLUTIONS.items():
            x = f"{dtype}[64,{channels},{extent},{extent}]"
            w = f"{dtype}[{channels},{channels},3,3]"
            body = "y = Conv<pads=[1,1,1,1]>(x, w) z = Relu(y)"
            yield f"convolution {label}, {name}", math, _model(f"{x} x, {w} w", x, body)


def _model(inputs: str, result: str, body: str) -> str:
    return f'<ir_version: 10, opset_import: ["" : 23]> case ({inputs}) => ({result} z) {{ {body} }}'


def steps_of(text: str, target: Target) -> list[Step]:
    """The steps of a model that are attention or a convolution."""
    model = onnx.parser.parse_model(text)
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in model.graph.input
    }
    pool = ConstantPool()
    program = lower(load_model(model), shapes, pool=pool).program
    plan = compile_program(program, CudaKernels(target), pool).plan
    return [step for step in plan.steps if step.kernel.family in FAMILIES]


def resources(nvrtc: Any, case: str, step: Step, target: Target) -> Resources:
    """Compiles the kernel of a step, and reads what the assembler reports."""
    source = build(step.kernel, target)
    program = nvrtc.createProgram(source.text, "kernel.cu", (), ())
    try:
        nvrtc.compileProgram(program, (f"-arch={target.isa}", *OPTIONS, "--ptxas-options=-v"))
        log = nvrtc.getProgramLog(program)
    finally:
        nvrtc.destroyProgram(program)
    found = USAGE.search(log)
    if found is None:
        raise RuntimeError(f"NVRTC does not report the resources of {step.kernel}:\n{log}")
    stack, registers = map(int, found.groups())
    threads, tile = step.kernel.variant[:2]
    assert isinstance(threads, int)
    assert isinstance(tile, tuple)
    most = MOST_THREADS[target.isa]
    by_shared = (target.cache_bytes[0] + 1024) // (step.scratch + 1024)
    resident = min(REGISTERS // (threads * registers), by_shared, most // threads)
    return Resources(
        case,
        target.isa,
        tile,
        step.tiles,
        threads,
        registers,
        stack,
        step.scratch,
        resident * threads / most,
        step.flops,
        step.bytes,
        step.seconds,
    )


def main() -> None:
    nvrtc: Any = load_nvrtc()
    found = [
        resources(nvrtc, name, step, target)
        for name, math, text in cases()
        for target in (assumed_target(architecture, math) for architecture in ARCHITECTURES)
        for step in steps_of(text, target)
    ]
    rows = [
        Row(f"{kernel.case}, {kernel.architecture}", 1e3 * kernel.predicted_seconds, "ms, predicted")
        for kernel in found
    ]
    show("attention and convolution, never measured", rows)
    details = {
        "note": "estimated from rates of units, the same for all architectures; no GPU was used",
        "kernels": [asdict(kernel) for kernel in found],
    }
    print(write("cuda-matrix-resources", rows, device="no GPU, predicted", details=details))


if __name__ == "__main__":
    main()
