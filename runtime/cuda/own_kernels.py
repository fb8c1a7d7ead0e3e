"""The runtime's own kernels: one that proves that a device works, and one that makes tensors contiguous."""

from __future__ import annotations

import math

from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target

PROBE = KernelSpec("probe")
PROBE_THREADS = 64
MOST_AXES = 8
COPY_THREADS = 256
MOST_COPY_BLOCKS = 4096
ELEMENTS = {
    1: "unsigned char",
    2: "unsigned short",
    4: "unsigned int",
    8: "unsigned long long",
    16: "Pair",
}


@dataclass(frozen=True, slots=True)
class OwnSource:
    """CUDA C and the name of the kernel in it."""

    symbol: str
    text: str


def copy_spec(itemsize: int) -> KernelSpec:
    """The kernel that copies elements of this size from a strided tensor to a contiguous one."""
    return KernelSpec("copy_strided", (COPY_THREADS, itemsize))


def generate(spec: KernelSpec, target: Target) -> OwnSource:
    if spec == PROBE:
        return OwnSource("onnxplan_probe", _PROBE_TEXT)
    itemsize = spec.variant[1]
    assert isinstance(itemsize, int)
    return OwnSource("onnxplan_copy_strided", _COPY_TEXT.replace("ELEMENT", ELEMENTS[itemsize]))


def copy_words(
    source: int, target: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> tuple[int, tuple[int, ...]]:
    """Blocks and argument words of a copy; strides in elements. ``ValueError`` for too many axes."""
    axes: list[tuple[int, int]] = []
    for extent, stride in zip(shape, strides, strict=True):
        if extent == 1:
            continue
        if axes and axes[-1][1] == extent * stride:
            axes[-1] = axes[-1][0] * extent, stride
        else:
            axes.append((extent, stride))
    if len(axes) > MOST_AXES:
        raise ValueError(f"a tensor of {len(shape)} axes in this order cannot be copied; make it contiguous")
    axes = [(1, 0)] * (MOST_AXES - len(axes)) + axes
    count = math.prod(shape)
    blocks = min(MOST_COPY_BLOCKS, -(-count // COPY_THREADS))
    words = (source, target, count, *(extent for extent, _ in axes), *(stride for _, stride in axes))
    return blocks, words


_PROBE_TEXT = f"""
struct Arguments {{ long long words[2]; }};
extern "C" __global__ void __launch_bounds__({PROBE_THREADS})
onnxplan_probe(const __grid_constant__ Arguments arguments) {{
    long long* target = (long long*)(arguments.words[0]);
    target[threadIdx.x] = arguments.words[1] + 3 * (long long)threadIdx.x;
}}
"""

_COPY_TEXT = f"""
struct Pair {{ unsigned long long low, high; }};
struct Arguments {{ long long words[{3 + 2 * MOST_AXES}]; }};
extern "C" __global__ void __launch_bounds__({COPY_THREADS})
onnxplan_copy_strided(const __grid_constant__ Arguments arguments) {{
    const ELEMENT* source = (const ELEMENT*)(arguments.words[0]);
    ELEMENT* target = (ELEMENT*)(arguments.words[1]);
    const long long count = arguments.words[2];
    const long long step = (long long)gridDim.x * {COPY_THREADS};
    for (long long i = (long long)blockIdx.x * {COPY_THREADS} + threadIdx.x; i < count; i += step) {{
        long long rest = i, place = 0;
        for (int axis = {MOST_AXES - 1}; axis >= 0; --axis) {{
            const long long extent = arguments.words[3 + axis], outer = rest / extent;
            place += (rest - outer * extent) * arguments.words[{3 + MOST_AXES} + axis];
            rest = outer;
        }}
        target[i] = source[place];
    }}
}}
"""
