"""What the kernels with matrix instructions take of a device, and which instructions they are made of."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace

import harness
import pytest
from architectures import ARCHITECTURES, REFERENCE, new_sources
from harness import Recorder, dense
from kernel_specs import target_of
from nvrtc_batches import compile_kernels

from bench import cuda_matrix_resources
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.primitives import Attention, Conv
from onnxplan.compiler.program import Operation
from onnxplan.compiler.trace import apply, cast, trace
from onnxplan.kernels.cuda.registry import CudaKernels, build
from onnxplan.runtime.cuda.compiler import compile_cubin
from onnxplan.runtime.cuda.target import assumed_target

F16, BF16, F32 = DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32
MOST_STACK = 32
"""Bytes of registers that a kernel may spill: only around its inner loops."""
MOST_STACK_OF_SMALL = 128
"""The same for heads of 256 floats where 64 KiB of shared memory leave room for little."""


@pytest.fixture(scope="module")
def nvrtc():
    """CuPy's binding of NVRTC, or a skip with the reason."""
    try:
        from cupy_backends.cuda.libs import nvrtc

        nvrtc.getVersion()
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"NVRTC is not installed: {error}")
    return nvrtc


def steps_of(operation, target):
    recorder = Recorder()
    CudaKernels(target).select(operation, recorder)
    return recorder.steps


def attention(dtype, head, rows=2048):
    """Eight batches of sixteen heads, their rows beside each other as projections leave them."""
    q, k, v = (dense(dtype, (8, rows, 16, head)).transpose((0, 2, 1, 3)) for _ in range(3))
    score = trace(lambda s: s * head**-0.5, (F32,))
    output = dense(dtype, (8, rows, 16, head)).transpose((0, 2, 1, 3))
    return Operation(Attention(F32, score), (q, k.transpose((0, 1, 3, 2)), v), (output,))


def decoding(dtype, head, rows=1):
    """Eight groups of four heads that share a long past; several queries of each head are rows of their own
    strides."""
    q, output = (dense(dtype, (1, rows, 8, 4, head)).transpose((0, 2, 3, 1, 4)) for _ in range(2))
    k, v = (dense(dtype, (1, 8, 1, 1 << 14, head)).expand((1, 8, 4, 1 << 14, head)) for _ in range(2))
    score = trace(lambda s: s * head**-0.5, (F32,))
    return Operation(Attention(F32, score), (q, k.transpose((0, 1, 2, 4, 3)), v), (output,))


def targets(architecture):
    strict = target_of(architecture)
    return strict, replace(strict, math="fast")


def usages(nvrtc, sources_of, architecture, record, config):
    """What kernels take of a thread, but those that are what the reference compiles.

    ``sources_of`` gives the kernels that are chosen for an architecture.
    """
    sources = sources_of(architecture)
    if not config.getoption("all_architectures"):
        sources = new_sources(sources, sources_of(REFERENCE), architecture)
    return dict(
        zip(sources, compile_kernels(nvrtc, list(sources.values()), architecture, record), strict=True)
    )


def attention_sources(architecture, head):
    found = {}
    for target in targets(architecture):
        for dtype in (F16, BF16, F32):
            for operation in (attention(dtype, head), decoding(dtype, head), decoding(dtype, head, 3)):
                if CudaKernels(target).prefers(operation):
                    step = steps_of(operation, target)[0]
                    assert step.scratch <= target.cache_bytes[0]
                    found[step.kernel] = build(step.kernel, target_of(architecture))
    assert len(found) == 3 * (2 if architecture == "sm_75" else 4)
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("head", [32, 64, 96, 128, 256])
def test_attention_fits(nvrtc, architecture, head, pytestconfig):
    def sources_of(architecture):
        return attention_sources(architecture, head)

    record = f"attention-{architecture}-{head}"
    for spec, usage in usages(nvrtc, sources_of, architecture, record, pytestconfig).items():
        small = architecture == "sm_75" and head == 256
        assert usage.stack <= (MOST_STACK_OF_SMALL if small else MOST_STACK), (spec, usage)


def instructions(nvrtc, spec, target):
    """The names of a kernel's machine instructions."""
    from cuda.pathfinder import load_nvidia_dynamic_lib

    folder = load_nvidia_dynamic_lib("nvrtc").abs_path.rsplit("/lib/", 1)[0] + "/bin"
    tool = shutil.which("nvdisasm", path=folder) or shutil.which("nvdisasm")
    if tool is None:
        pytest.skip("nvdisasm is not installed")
    source = build(spec, target)
    path = harness.emulator.HERE.parent.parent / "build" / f"{spec.family}-{target.isa}.cubin"
    path.parent.mkdir(exist_ok=True)
    code = compile_cubin(nvrtc, source.text, source.symbol, target.isa)
    # CuPy leaves out the last byte, a zero.
    path.write_bytes(code + bytes(-len(code) % 8))
    text = subprocess.run([tool, "-c", str(path)], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?\S+\s+)?([\w.]+)", text, re.MULTILINE)
    assert len(found) > 100
    return found


def count(names, *parts):
    return sum(all(part in name for part in parts) for name in names)


@pytest.mark.parametrize(
    ("architecture", "dtype", "math", "multiply"),
    [
        ("sm_75", F16, "strict", "HMMA.1688"),
        ("sm_80", F16, "strict", "HMMA.16816"),
        ("sm_90", BF16, "strict", "HMMA.16816"),
        ("sm_90", F32, "fast", "HMMA.1688"),
        ("sm_90", F32, "strict", "FFMA"),
        ("sm_120", F16, "strict", "HMMA.16816"),
    ],
)
def test_instructions_of_attention(nvrtc, architecture, dtype, math, multiply):
    target = replace(target_of(architecture), math=math)
    (step,) = steps_of(attention(dtype, 64), target)
    names = instructions(nvrtc, step.kernel, target)
    assert count(names, multiply) >= 32
    assert count(names, "LDL") == count(names, "STL") == 0
    wide = "LDG.E.128" if architecture == "sm_75" else "LDGSTS"
    assert count(names, wide) >= 3
    if wide == "LDGSTS":
        assert count(names, "LDGSTS", "128") == count(names, "LDGSTS")
    assert count(names, "LDS.128" if multiply == "FFMA" else "LDSM") >= 8


@pytest.mark.parametrize(
    ("dtype", "math", "multiply"),
    [(F16, "strict", "HMMA.16816"), (F32, "fast", "HMMA.1688"), (F32, "strict", "FFMA")],
)
def test_decoding_reads_sixteen_bytes_at_a_time(nvrtc, dtype, math, multiply):
    target = replace(target_of("sm_90"), math=math)
    step, combined = steps_of(decoding(dtype, 128), target)
    assert combined.kernel.family == "reduce"
    names = instructions(nvrtc, step.kernel, target)
    assert count(names, multiply) >= 32
    assert count(names, "LDL") == count(names, "STL") == 0
    assert count(names, "LDGSTS", "128") == count(names, "LDGSTS") >= 3
    # Neither keys nor values pass through registers.
    assert count(names, "LDG.E") == 0


CONVOLUTIONS = {
    "56": (56, 64, 64, 1),
    "28": (28, 128, 128, 1),
    "14": (14, 256, 256, 1),
    "7": (7, 512, 512, 1),
    "56 strided": (56, 128, 128, 2),
}
"""Extent, channels, features and stride of the 3x3 convolutions of ResNet-50."""


def convolution(dtype, name, batch=64):
    extent, channels, features, stride = CONVOLUTIONS[name]
    after = -(-extent // stride)
    x = dense(dtype, (batch, extent, extent, channels))
    w, output = dense(dtype, (3, 3, channels, features)), dense(dtype, (batch, after, after, features))
    residual = dense(dtype, output.shape)
    chain = trace(lambda s, r: apply("max", s + cast(r, F32), 0.0), (F32, dtype))
    if dtype is not F32:
        chain = trace(lambda s, r: cast(apply("max", s + cast(r, F32), 0.0), dtype), (F32, dtype))
    primitive = Conv((stride, stride), (1, 1), (1, 1), 1, F32, chain)
    return Operation(primitive, (x, w, residual), (output,))


def convolution_sources(architecture):
    found = {}
    for target in targets(architecture):
        for dtype in (F16, BF16, F32):
            for name in CONVOLUTIONS:
                for batch in (1, 64) if name == "7" else (64,):
                    for step in steps_of(convolution(dtype, name, batch), target):
                        if step.kernel.family == "conv_matrix":
                            assert step.scratch <= target.cache_bytes[0]
                            found[step.kernel] = build(step.kernel, target_of(architecture))
    assert len(found) >= 3
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_convolutions_fit(nvrtc, architecture, pytestconfig):
    record = f"convolution-{architecture}"
    for spec, usage in usages(nvrtc, convolution_sources, architecture, record, pytestconfig).items():
        assert usage.stack <= MOST_STACK, (spec, usage)


@pytest.mark.parametrize(
    ("architecture", "dtype", "math", "multiply"),
    [
        ("sm_75", F16, "strict", "HMMA.1688"),
        ("sm_80", F16, "strict", "HMMA.16816"),
        ("sm_90", BF16, "strict", "HMMA.16816"),
        ("sm_90", F32, "fast", "HMMA.1688"),
    ],
)
def test_instructions_of_convolutions(nvrtc, architecture, dtype, math, multiply):
    target = replace(target_of(architecture), math=math)
    (spec,) = (
        step.kernel
        for step in steps_of(convolution(dtype, "28"), target)
        if step.kernel.family == "conv_matrix"
    )
    names = instructions(nvrtc, spec, target)
    assert count(names, multiply) >= 16
    assert count(names, "LDL") == count(names, "STL") == 0
    if architecture == "sm_75":
        assert count(names, "LDG.E.128") >= 3
    else:
        assert count(names, "LDGSTS", "128") == count(names, "LDGSTS") >= 3
    assert count(names, "LDSM") >= 4


def stem(dtype):
    x, w = dense(dtype, (32, 224, 224, 3)), dense(dtype, (7, 7, 3, 64))
    return Operation(Conv((2, 2), (1, 1), (3, 3), 1, F32), (x, w), (dense(dtype, (32, 112, 112, 64)),))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", ["28", "56", "stem", "stem float16"])
def test_convolutions_of_floats_multiply_more_than_they_read(nvrtc, architecture, name):
    """A thread reads its rows and columns of shared memory once, 16 bytes at a time, and spills nothing."""
    target = assumed_target(architecture, "strict")
    operation = stem(F16 if "16" in name else F32) if "stem" in name else convolution(F32, name)
    (spec,) = (step.kernel for step in steps_of(operation, target) if step.kernel.family == "conv")
    names = instructions(nvrtc, spec, target)
    assert count(names, "LDL") == count(names, "STL") == 0
    rows, columns = spec.variant[1][-2:]
    assert (rows, columns) in ((8, 8), (8, 4))
    assert count(names, "FFMA") * (rows + columns) >= count(names, "LDS") * 4 * rows * columns > 0
    assert count(names, "LDS", "128") == count(names, "LDS")
    if name in CONVOLUTIONS:
        # Two operands, before the loop and in it.
        assert count(names, "LDG", "128") >= 4
        assert count(names, "STG", "128") == count(names, "STG")


def test_the_record_of_resources(nvrtc):
    target = target_of("sm_90")
    found = {}
    for name, math, text in cuda_matrix_resources.cases():
        (found[name],) = cuda_matrix_resources.steps_of(text, assumed_target("sm_90", math))
    name = "attention float16, heads of 64"
    resources = cuda_matrix_resources.resources(nvrtc, name, found[name], target)
    assert 64 <= resources.registers <= 255
    assert resources.spilled <= MOST_STACK
    assert 0 < resources.occupancy <= 1
    # A causal mask leaves half of the blocks of keys, and those on the diagonal.
    share = found[f"{name}, causal"].seconds / found[name].seconds
    assert 0.5 < share < 0.6
