"""Models of one operator, with the work that they take: products, convolutions, and what memory bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper, shape_inference

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
OPSET = 20
IR_VERSION = 10


@dataclass(frozen=True)
class OpCase:
    """One node. ``inputs`` are the shapes of what is fed, of type ``dtype``; ``constants`` follow them.

    A constant is a shape (of random float32 weights), an array, or None for an input that is left out.
    ``flops`` are those of the direct algorithm; 0 where memory is what counts. ``result`` is its type and
    shape, where the type is not float32 or the operator not one of the standard.
    """

    group: str
    name: str
    op: str
    inputs: tuple[Shape, ...]
    constants: tuple[Shape | Array | np.generic[Any] | None, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    flops: int = 0
    dtype: str = "float32"
    domain: str = ""
    result: tuple[str, Shape] | None = None

    @property
    def multiplies_bytes(self) -> bool:
        return self.group == "quantized"

    def model(self) -> onnx.ModelProto:
        """The model, with the shape of its output ``y``."""
        generator = np.random.default_rng(1)
        fed = [f"x{number}" for number in range(len(self.inputs))]
        named: dict[str, Array] = {}
        names = list(fed)
        for number, constant in enumerate(self.constants):
            names.append("" if constant is None else f"c{number}")
            if isinstance(constant, tuple):
                named[f"c{number}"] = _weights(generator, constant)
            elif constant is not None:
                named[f"c{number}"] = np.asarray(constant)
        node = helper.make_node(self.op, names, ["y"], domain=self.domain, **self.attributes)
        infos = [
            helper.make_tensor_value_info(name, _code(self.dtype), shape)
            for name, shape in zip(fed, self.inputs, strict=True)
        ]
        initializers = [numpy_helper.from_array(array, name) for name, array in named.items()]
        dtype, shape = self.result or ("float32", None)
        result = helper.make_tensor_value_info("y", _code(dtype), shape)
        graph = helper.make_graph([node], "operator", infos, [result], initializers)
        opsets = [helper.make_opsetid("", OPSET)]
        if self.domain:
            opsets.append(helper.make_opsetid(self.domain, 1))
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        return shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)

    def feeds(self) -> dict[str, Array]:
        """Standard normal numbers, or any bytes."""
        generator = np.random.default_rng(0)
        if self.dtype != "float32":
            return {
                f"x{number}": generator.integers(0, 256, shape).astype(self.dtype)
                for number, shape in enumerate(self.inputs)
            }
        return {
            f"x{number}": generator.standard_normal(shape, np.float32)
            for number, shape in enumerate(self.inputs)
        }


def traffic(model: onnx.ModelProto) -> int:
    """Bytes of a model's inputs, weights and outputs: each must move once where none is in a cache."""
    graph = model.graph
    moved = sum(
        math.prod(int(dim.dim_value) for dim in info.type.tensor_type.shape.dim)
        * helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type).itemsize
        for info in (*graph.input, *graph.output)
    )
    return moved + sum(int(numpy_helper.to_array(weight).nbytes) for weight in graph.initializer)


def _code(dtype: str) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _weights(generator: np.random.Generator, shape: Shape) -> Array:
    """Such that sums of products stay near 1."""
    scale = math.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 1.0
    return generator.standard_normal(shape, np.float32) * np.float32(scale)


def products() -> Iterator[OpCase]:
    """GEMM with constant right sides, as in networks, then fed ones: transposed and batched."""
    shapes = [
        ("square", 512, 512, 512),
        ("square", 1536, 1536, 1536),
        ("tall", 8192, 256, 256),
        ("wide", 64, 1024, 8192),
        ("odd", 383, 509, 761),
        ("K a power of two", 384, 1024, 1024),
        ("K a power of two", 384, 4096, 1024),
        *(("decoding", rows, 4096, 4096) for rows in range(1, 9)),
    ]
    for kind, rows, depth, columns in shapes:
        name = f"{kind} {rows}x{depth}x{columns}"
        yield _product(name, "MatMul", ((rows, depth),), ((depth, columns),), 2 * rows * depth * columns)
    for first in (0, 1):
        for second in (0, 1):
            attributes = {"transA": first, "transB": second}
            name = f"1024x1024x1024, both fed, transA={first} transB={second}"
            yield _product(name, "Gemm", ((1024, 1024), (1024, 1024)), (), 2 * 1024**3, attributes)
    for batch, rows, depth, columns in ((96, 128, 64, 128), (96, 128, 128, 64), (12, 1, 64, 1024)):
        fed = ((batch, rows, depth), (batch, depth, columns))
        work = 2 * batch * rows * depth * columns
        yield _product(f"batched {batch}x{rows}x{depth}x{columns}", "MatMul", fed, (), work)


def _product(
    name: str,
    op: str,
    inputs: tuple[Shape, ...],
    constants: tuple[Shape, ...],
    flops: int,
    attributes: Mapping[str, Any] | None = None,
) -> OpCase:
    return OpCase("gemm", name, op, inputs, constants, attributes or {}, flops)


CONVOLUTIONS: tuple[tuple[str, int, int, int, int, int], ...] = (
    ("ResNet stem", 3, 64, 224, 7, 2),
    ("ResNet", 64, 64, 56, 1, 1),
    ("ResNet", 256, 64, 56, 1, 1),
    ("ResNet", 64, 64, 56, 3, 1),
    ("ResNet", 128, 128, 56, 3, 2),
    ("ResNet", 128, 128, 28, 3, 1),
    ("ResNet", 256, 512, 56, 1, 2),
    ("ResNet", 256, 256, 14, 3, 1),
    ("ResNet", 1024, 256, 14, 1, 1),
    ("ResNet", 512, 512, 7, 3, 1),
    ("MobileNet stem", 3, 32, 224, 3, 2),
    ("MobileNet", 16, 96, 112, 1, 1),
    ("MobileNet", 144, 24, 56, 1, 1),
    ("MobileNet", 64, 384, 14, 1, 1),
    ("MobileNet", 320, 1280, 7, 1, 1),
    ("EfficientNet", 240, 40, 28, 1, 1),
    ("EfficientNet", 112, 672, 14, 1, 1),
    ("EfficientNet", 1152, 192, 7, 1, 1),
    ("U-Net", 64, 64, 256, 3, 1),
    ("U-Net", 128, 64, 128, 3, 1),
    ("U-Net", 256, 256, 64, 3, 1),
    ("U-Net", 512, 512, 32, 3, 1),
)
"""Network, channels in and out, height and width, kernel, stride."""

DEPTHWISE: tuple[tuple[str, int, int, int, int], ...] = (
    ("MobileNet", 32, 112, 3, 1),
    ("MobileNet", 96, 112, 3, 2),
    ("MobileNet", 144, 56, 3, 1),
    ("MobileNet", 384, 14, 3, 1),
    ("MobileNet", 960, 7, 3, 1),
    ("EfficientNet", 240, 28, 5, 1),
    ("EfficientNet", 672, 14, 5, 2),
    ("EfficientNet", 1152, 7, 5, 1),
    ("ConvNeXt", 192, 28, 7, 1),
)
"""Network, channels, height and width, kernel, stride."""


def convolutions() -> Iterator[OpCase]:
    for network, channels, results, extent, kernel, stride in CONVOLUTIONS:
        name = f"{network} {channels}->{results}, {extent}x{extent}"
        yield _convolution("conv", name, channels, results, extent, kernel, stride, 1)


def depthwise() -> Iterator[OpCase]:
    for network, channels, extent, kernel, stride in DEPTHWISE:
        name = f"{network} {channels}, {extent}x{extent}"
        yield _convolution("depthwise", name, channels, channels, extent, kernel, stride, channels)


def _convolution(
    group: str, name: str, channels: int, results: int, extent: int, kernel: int, stride: int, groups: int
) -> OpCase:
    """A convolution of one image with bias, padded such that stride 1 keeps the extent."""
    pad = kernel // 2
    positions = ((extent + 2 * pad - kernel) // stride + 1) ** 2
    taps = channels // groups * kernel**2
    return OpCase(
        group,
        f"{name}, {kernel}x{kernel}/{stride}",
        "Conv",
        ((1, channels, extent, extent),),
        ((results, channels // groups, kernel, kernel), (results,)),
        {"pads": [pad] * 4, "strides": [stride] * 2, "group": groups},
        2 * positions * results * taps,
    )


def memory_bound() -> Iterator[OpCase]:
    """Tensors of 64 MiB and more, beyond the caches."""
    rows, image, heads = (16384, 1024), (16, 64, 128, 128), (8, 2048, 16, 64)
    plain: Sequence[tuple[str, str, Shape, Mapping[str, Any]]] = (
        ("softmax", "Softmax", rows, {"axis": -1}),
        ("softmax of rows of 77", "Softmax", (217_891, 77), {"axis": -1}),
        ("gelu, erf", "Gelu", rows, {}),
        ("gelu, tanh", "Gelu", rows, {"approximate": "tanh"}),
        ("transpose, matrix", "Transpose", (4096, 4096), {"perm": [1, 0]}),
        ("transpose, NCHW to NHWC", "Transpose", image, {"perm": [0, 2, 3, 1]}),
        ("transpose, NHWC to NCHW", "Transpose", image, {"perm": [0, 3, 1, 2]}),
        ("transpose, attention heads", "Transpose", heads, {"perm": [0, 2, 1, 3]}),
        ("max pool 3x3/2", "MaxPool", image, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}),
        ("average pool 2x2/2", "AveragePool", image, {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("global average pool", "GlobalAveragePool", image, {}),
    )
    for name, op, shape, attributes in plain:
        yield OpCase("memory", name, op, (shape,), (), attributes)
    yield OpCase("memory", "layer norm", "LayerNormalization", (rows,), ((1024,), (1024,)), {"axis": -1})
    for name, op, axes in (
        ("sum of rows", "ReduceSum", [1]),
        ("sum of columns", "ReduceSum", [0]),
        ("sum of all", "ReduceSum", [0, 1]),
        ("maximum of rows", "ReduceMax", [1]),
        ("mean of columns", "ReduceMean", [0]),
    ):
        yield OpCase("memory", name, op, (rows,), (np.array(axes),), {"keepdims": 0})
    scales = np.array([1, 1, 2, 2], np.float32)
    for mode, coordinates in (("nearest", "asymmetric"), ("linear", "half_pixel")):
        attributes = {"mode": mode, "coordinate_transformation_mode": coordinates}
        shape = (4, 64, 128, 128)
        yield OpCase("memory", f"resize, {mode}, twice", "Resize", (shape,), (None, scales), attributes)


def few_bits() -> Iterator[OpCase]:
    """MatMulNBits in float32: decoding, a few tokens at once, a prompt; blocks of 32 weights."""
    depth, columns, block = 4096, 4096, 32
    blocks = depth // block
    for bits, rows in ((4, 1), (4, 4), (4, 8), (4, 128), (8, 1), (8, 128)):
        generator = np.random.default_rng(2)
        packed = generator.integers(0, 256, (columns, blocks, block * bits // 8), np.uint8)
        scales = generator.uniform(0, 1 / 2**bits / depth**0.5, (columns, blocks)).astype(np.float32)
        zeros = generator.integers(0, 256, (columns, blocks * bits // 8), np.uint8)
        yield OpCase(
            "few_bits",
            f"{bits} bits, {rows}x{depth}x{columns}",
            "MatMulNBits",
            ((rows, depth),),
            (packed, scales, zeros),
            {"K": depth, "N": columns, "bits": bits, "block_size": block, "accuracy_level": 1},
            2 * rows * depth * columns,
            "float32",
            "com.microsoft",
            ("float32", (rows, columns)),
        )


QUANTIZED_PRODUCTS = ((1, 768, 3072), (128, 768, 3072), (512, 1024, 1024))
"""Rows, depth, columns."""

QUANTIZED_CONVOLUTIONS: tuple[tuple[str, int, int, int, int, int, int], ...] = (
    ("ResNet stem", 3, 64, 224, 7, 2, 1),
    ("ResNet", 64, 64, 56, 3, 1, 1),
    ("ResNet", 64, 256, 56, 1, 1, 1),
    ("ResNet", 128, 128, 56, 3, 2, 1),
    ("ResNet", 128, 128, 28, 3, 1, 1),
    ("ResNet", 256, 256, 14, 3, 1, 1),
    ("ResNet", 1024, 256, 14, 1, 1, 1),
    ("MobileNet depthwise", 32, 32, 112, 3, 1, 32),
    ("MobileNet depthwise", 144, 144, 56, 3, 1, 144),
    ("MobileNet depthwise", 384, 384, 14, 3, 1, 384),
    ("EfficientNet depthwise", 240, 240, 28, 5, 1, 240),
)
"""Network, channels in and out, height and width, kernel, stride, groups."""


def quantized() -> Iterator[OpCase]:
    """Products and convolutions of uint8 by constant int8, which is symmetric and scaled by column."""
    generator = np.random.default_rng(2)
    for rows, depth, columns in QUANTIZED_PRODUCTS:
        weights = generator.integers(-128, 128, (depth, columns)).astype(np.int8)
        scales, zeros = np.full(columns, 0.01, np.float32), np.zeros(columns, np.int8)
        size = f"{rows}x{depth}x{columns}"
        flops = 2 * rows * depth * columns
        fed = ((rows, depth),)
        own, other = (np.float32(0.02), np.uint8(120)), (np.float32(5), np.uint8(110))
        yield OpCase(
            "quantized", f"integers {size}", "MatMulInteger", fed, (weights, own[1], np.int8(0)), {}, flops,
            "uint8", "", ("int32", (rows, columns)),
        )  # fmt: skip
        yield OpCase(
            "quantized", f"requantised {size}", "QLinearMatMul", fed, (*own, weights, scales, zeros, *other),
            {}, flops, "uint8", "", ("uint8", (rows, columns)),
        )  # fmt: skip
        yield OpCase(
            "quantized", f"dynamic {size}", "DynamicQuantizeMatMul", fed, (weights, scales, zeros), {}, flops,
            "float32", "com.microsoft", ("float32", (rows, columns)),
        )  # fmt: skip
    for network, channels, features, extent, kernel, stride, groups in QUANTIZED_CONVOLUTIONS:
        yield _quantized_convolution(generator, network, channels, features, extent, kernel, stride, groups)


def _quantized_convolution(
    generator: np.random.Generator,
    network: str,
    channels: int,
    features: int,
    extent: int,
    kernel: int,
    stride: int,
    groups: int,
) -> OpCase:
    """A convolution of one image with bias; zero points are not 0."""
    plain = _convolution("quantized", network, channels, features, extent, kernel, stride, groups)
    weights = generator.integers(-128, 128, (features, channels // groups, kernel, kernel)).astype(np.int8)
    constants = (
        np.float32(0.02), np.uint8(120), weights, np.full(features, 0.01, np.float32),
        np.zeros(features, np.int8), np.float32(5), np.uint8(110),
        generator.integers(-999, 999, features).astype(np.int32),
    )  # fmt: skip
    outputs = (extent + 2 * (kernel // 2) - kernel) // stride + 1
    name = f"{network} {channels}->{features}, {extent}x{extent}, {kernel}x{kernel}/{stride}"
    return OpCase(
        "quantized", name, "QLinearConv", plain.inputs, constants, plain.attributes, plain.flops,
        "uint8", "", ("uint8", (1, features, outputs, outputs)),
    )  # fmt: skip


GROUPS: Mapping[str, Callable[[], Iterator[OpCase]]] = {
    "gemm": products,
    "conv": convolutions,
    "depthwise": depthwise,
    "memory": memory_bound,
    "few_bits": few_bits,
    "quantized": quantized,
}
