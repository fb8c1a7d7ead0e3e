from dataclasses import replace

import numpy as np
from fake_selector import FakeSelector

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.constant_pool import ConstantPool
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.graphs import HOST_FAMILIES, GraphRange, graph_ranges, host_copies
from onnxplan.compiler.pipeline import compile_program
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.plan_text import binary, duration, kernel_name, metric
from onnxplan.compiler.program import Program
from onnxplan.compiler.target import Target
from onnxplan.compiler.trace import apply, reduce, trace


def test_a_plan_as_text():
    b = Builder(ConstantPool())
    x = b.new(DType.FLOAT32, (20, 30))
    x.storage.name = "x"
    b.labels = ("Gemm_0",)
    y = b.matmul(x, b.constant(np.ones((30, 40), np.float32)))
    b.labels = ("Softmax_1",)
    e = b.scalar("exp", b.scalar("sub", y, b.reduce("max", y, (1,), keepdims=True)))
    y = b.scalar("div", e, b.reduce("sum", e, (1,), keepdims=True))
    program = Program({"x": x}, {"y": y.slice(0, 0, 10)}, b.operations)
    text = str(compile_program(program, FakeSelector(), ConstantPool(), optimize=1).plan)
    assert text == EXPECTED.strip("\n")


EXPECTED = """
plan for fake generic, 1 threads, math=strict
  input      in0   x: float32[20, 30]
  output     out0  y: float32[10, 40]
  arena      6.4 KiB (lower bound 6.4 KiB)
  constants  1, 4.7 KiB
  scratch    64 B a thread

step    time  FLOPs     bytes  tiles  kernel     operands                                                                            nodes
   0  1.0 us    800  10.2 KiB    800  matmul[0]  arena[0:3200] f32[20x40] <- in0 f32[20x30] const0 f32[30x40]                        Gemm_0
   1  648 ns    820   6.3 KiB    820  norm[1]    arena[3200:6400] f32[20x40] arena[6400:6480] f32[20x1] <- arena[0:3200] f32[20x40]  Softmax_1
   2  480 ns    400   4.7 KiB    400  map[2]     out0 f32[10x40] <- arena[3200:4800] f32[10x40] arena[6400:6440] f32[10x40]          Softmax_1

total: 3 steps, 3 kernels, 2.0 kFLOP, 21.2 KiB moved, 2.2 us on one thread
"""  # noqa: E501


def test_units():
    assert [binary(n) for n in (0, 1023, 1536, 20 << 20, 3 << 30)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "20.0 MiB",
        "3.0 GiB",
    ]
    assert [metric(n) for n in (0, 999, 1500, 2_000_000)] == ["0 ", "999 ", "1.5 k", "2.0 M"]
    assert [duration(s) for s in (0, 8.5e-8, 1.5e-6, 0.02, 3)] == [
        "0 ns",
        "85 ns",
        "1.5 us",
        "20.0 ms",
        "3.0 s",
    ]


def test_kernel_names_are_short():
    gelu = trace(lambda v: v * 0.5 * (apply("erf", v * 0.70710678) + 1), (DType.FLOAT32,))
    assert kernel_name(KernelSpec("map", (gelu, "float32"))) == "map[mul mul erf add mul, f32]"
    total = trace(lambda v: reduce("sum", v), (DType.INT8,))
    assert kernel_name(KernelSpec("reduce", (total, ("uint8", 3)))) == "reduce[reduce_sum(x0), (u8 3)]"
    assert kernel_name(KernelSpec("pack")) == "pack"
    long = KernelSpec("matmul", tuple(f"part{n}" for n in range(30)))
    assert kernel_name(long).endswith("...")
    assert len(kernel_name(long)) == 44


CUDA = Target(
    "cuda", "sm_90", 128, 255, (227 << 10, 50 << 20), 132, alignment=256, flops=6e13, bandwidth=3e12
)


class CudaSelector(FakeSelector):
    """Products go to cuBLASLt; norms and maps are generated kernels of 256 threads a block."""

    def select(self, operation, emit):
        if operation.primitive.name == "matmul":
            variant = ("float32", "float32", "float32", False, False, "none")
            kernel = KernelSpec("cublaslt", variant)
            tiles = scratch = 1
        else:
            kernel, tiles, scratch = KernelSpec(operation.primitive.name, (256, "float32")), 20, 2048
        operands = (*operation.outputs, *operation.inputs)
        outputs = tuple(range(len(operation.outputs)))
        emit.step(kernel, operands, outputs, (), tiles=tiles, scratch=scratch, flops=1000, bytes_moved=4096)


def cuda_plan():
    b = Builder(ConstantPool())
    x = b.new(DType.FLOAT32, (20, 30))
    x.storage.name = "x"
    b.labels = ("Gemm_0",)
    y = b.matmul(x, b.constant(np.ones((30, 40), np.float32)))
    b.labels = ("Softmax_1",)
    e = b.scalar("exp", b.scalar("sub", y, b.reduce("max", y, (1,), keepdims=True)))
    y = b.scalar("div", e, b.reduce("sum", e, (1,), keepdims=True))
    program = Program({"x": x}, {"y": y}, b.operations)
    return compile_program(program, CudaSelector(CUDA), ConstantPool(), optimize=1).plan


def test_a_plan_for_cuda_as_text():
    assert str(cuda_plan()) == CUDA_EXPECTED.strip("\n")


CUDA_EXPECTED = """
plan for cuda sm_90, 132 multiprocessors, math=strict
  input      in0   x: float32[20, 30]
  output     out0  y: float32[20, 40]
  arena      3.2 KiB (lower bound 3.2 KiB)
  constants  1, 4.7 KiB
  graph      0: steps 0 to 1
  copies between host and device inside the plan: 0

step  graph  time  FLOPs    bytes  blocks  threads   shared  kernel                                       operands                                                      nodes
   0      0  1 ns  1.0 k  4.0 KiB       -        -        -  cublaslt[f32, f32, f32, False, False, none]  arena[0:3200] f32[20x40] <- in0 f32[20x30] const0 f32[30x40]  Gemm_0
   1      0  1 ns  1.0 k  4.0 KiB      20      256  2.0 KiB  norm[256, f32]                               out0 f32[20x40] <- arena[0:3200] f32[20x40]                   Softmax_1

total: 2 steps, 2 kernels, 2.0 kFLOP, 8.0 KiB moved, 3 ns on the device
"""  # noqa: E501


def test_steps_of_the_host_are_between_graphs(monkeypatch):
    plan = cuda_plan()
    assert graph_ranges(plan) == (GraphRange(0, len(plan.steps) - 1),)
    assert host_copies(plan) == 0
    monkeypatch.setitem(HOST_FAMILIES, "norm", "the host computes norms")
    norm = next(number for number, step in enumerate(plan.steps) if step.kernel.family == "norm")
    assert graph_ranges(plan) == (
        GraphRange(0, norm - 1),
        GraphRange(norm, norm, "the host computes norms"),
    )
    assert [part.captured for part in graph_ranges(plan)] == [True, False]
    copies = len(plan.steps[norm].operands)
    assert host_copies(plan) == copies
    text = str(plan)
    assert f"  no graph   step {norm}: the host computes norms" in text
    assert f"copies between host and device inside the plan: {copies}" in text
    (row,) = (line for line in text.splitlines() if line.split()[:1] == [str(norm)])
    assert row.split()[1] == "-"


def test_a_plan_without_steps_has_no_graph():
    plan = replace(cuda_plan(), steps=())
    assert graph_ranges(plan) == ()
    assert "copies between host and device inside the plan: 0" in str(plan)
