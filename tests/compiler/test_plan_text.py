import numpy as np
from fake_selector import FakeSelector

from onnxplan.compiler.builder import Builder, ConstantPool
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.pipeline import compile_program
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.plan_text import binary, duration, kernel_name, metric
from onnxplan.compiler.program import Program
from onnxplan.compiler.trace import apply, reduce, trace


def test_a_plan_as_text():
    b = Builder(ConstantPool())
    x = b.new(DType.FLOAT32, (20, 30))
    x.storage.name = "x"
    b.node = "Gemm_0"
    y = b.matmul(x, b.constant(np.ones((30, 40), np.float32)))
    b.node = "Softmax_1"
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
