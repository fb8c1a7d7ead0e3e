"""The convolutions of ResNet-50 on a GPU, each beside cuDNN's heuristic choice, which PyTorch calls.

Ours has its bias, activation and residual inside. cuDNN's with a residual has them too; without one it is the
convolution alone, which is the least that cuDNN could take: its fused form always reads a residual.

A second row has the same layer in ``math="fast"``, where the plan calls cuDNN for it: products of one tap
without a residual go to cuBLASLt, and few channels to our own kernel, so these have none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

import onnxplan
from bench.cuda_plans import Shapes, borrowed_slot, calls_cudnn, executor_of, steps_launch
from bench.cuda_products import cold_seconds
from bench.cuda_rates import cuda_runtime, torch_on_cuda
from bench.record import Row
from bench.supervised import Settings

Array = npt.NDArray[Any]
Launch = Callable[[int], None]
BATCH = 32
FLUSHED = 4
"""So many times the second cache is overwritten before each launch, which takes longer than to launch."""
TOLERANCE = 5e-3
"""Largest difference from PyTorch, relative to the largest element: results are rounded to float16."""
ROW = "own convolution"
LIBRARY_ROW = "convolution through cuDNN"
PEER = "cuDNN through PyTorch"


@dataclass(frozen=True, slots=True)
class Layer:
    """A square convolution of ``size`` x ``size`` inputs, padded by half its kernel; ReLU comes last."""

    channels: int
    features: int
    kernel: int
    stride: int
    size: int
    residual: bool = False

    @property
    def pad(self) -> int:
        return self.kernel // 2

    @property
    def extent(self) -> int:
        """Rows and columns of the result."""
        return (self.size + 2 * self.pad - self.kernel) // self.stride + 1

    def __str__(self) -> str:
        stride = f" by {self.stride}" if self.stride > 1 else ""
        residual = " + residual" if self.residual else ""
        kernel = f"{self.kernel}x{self.kernel}{stride}"
        return f"{kernel}, {self.channels} to {self.features} of {self.size}{residual}"


def _layers() -> list[Layer]:
    """Each convolution of ResNet-50 version 1.5 once. Source: torchvision.models.resnet50."""
    layers = [Layer(3, 64, 7, 2, 224)]
    channels = 64
    for width, size, stride in ((64, 56, 1), (128, 56, 2), (256, 28, 2), (512, 14, 2)):
        inner = size // stride
        layers += [
            Layer(channels, width, 1, 1, size),
            Layer(width, width, 3, stride, size),
            Layer(channels, 4 * width, 1, stride, size),
            Layer(width, 4 * width, 1, 1, inner, residual=True),
            Layer(4 * width, width, 1, 1, inner),
            Layer(width, width, 3, 1, inner),
        ]
        channels = 4 * width
    return list(dict.fromkeys(layers))


LAYERS = {str(layer): layer for layer in _layers()}


def names(settings: Settings) -> list[str]:
    return list(LAYERS)


def check(name: str, settings: Settings) -> dict[str, Any]:
    """Rows for one layer in float16, channels last, beside cuDNN's where PyTorch has CUDA."""
    torch = torch_on_cuda()
    peer = None if torch is None else partial(TorchLayer, torch, "cuda")
    own = convolution_row(LAYERS[name], settings, BATCH, peer)
    through = library_row(LAYERS[name], settings, BATCH, peer)
    return {"rows": [asdict(row) for row in (own, through) if row is not None]}


def convolution_row(layer: Layer, settings: Settings, batch: int, make_peer: MakePeer | None) -> Row:
    """Microseconds of our steps; raises ``ValueError`` where they compute something else than the peer."""
    row = _row(layer, settings, batch, make_peer, library=False)
    assert row is not None
    return row


def library_row(layer: Layer, settings: Settings, batch: int, make_peer: MakePeer | None) -> Row | None:
    """As :func:`convolution_row` for steps that cuDNN computes; ``None`` where it computes none."""
    return _row(layer, settings, batch, make_peer, library=True)


def _row(
    layer: Layer, settings: Settings, batch: int, make_peer: MakePeer | None, *, library: bool
) -> Row | None:
    runtime = cuda_runtime(settings)
    feeds, weights, bias = operands(layer, batch)
    math = "fast" if library else "strict"
    with onnxplan.InferenceSession(
        model(layer, batch, weights, bias), device=settings.device, math=math
    ) as session:
        found = session.run_sync(feeds)["y"].numpy()
        shapes = {name: array.shape for name, array in feeds.items()}
        if library and not calls_cudnn(executor_of(session, shapes)):
            return None
        peer = make_peer(layer, feeds, weights, bias) if make_peer else None
        if peer is not None:
            compare(found, peer.expected())
        ours, *others = _seconds(runtime, session, shapes, [peer.launch] if peer else [])
    label = f"{LIBRARY_ROW if library else ROW}: {layer}"
    if not others:
        return Row(label, 1e6 * ours, "us")
    return Row(label, 1e6 * ours, "us", PEER, 1e6 * others[0], others[0] / ours)


def model(layer: Layer, batch: int, weights: Array, bias: Array) -> onnx.ModelProto:
    """The layer from channels last to channels last, as it stands inside of a network."""
    inputs = ["x", "z"] if layer.residual else ["x"]
    nodes = [
        *(helper.make_node("Transpose", [name], [f"{name}_nchw"], perm=[0, 3, 1, 2]) for name in inputs),
        helper.make_node(
            "Conv", ["x_nchw", "w", "b"], ["c"], pads=[layer.pad] * 4, strides=[layer.stride] * 2
        ),
        *([helper.make_node("Add", ["c", "z_nchw"], ["s"])] if layer.residual else []),
        helper.make_node("Relu", ["s" if layer.residual else "c"], ["y_nchw"]),
        helper.make_node("Transpose", ["y_nchw"], ["y"], perm=[0, 2, 3, 1]),
    ]
    result = (batch, layer.extent, layer.extent, layer.features)
    shapes = {"x": (batch, layer.size, layer.size, layer.channels), "z": result, "y": result}
    infos = {
        name: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT16, shape)
        for name, shape in shapes.items()
    }
    graph = helper.make_graph(
        nodes,
        "layer",
        [infos[name] for name in inputs],
        [infos["y"]],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def operands(layer: Layer, batch: int) -> tuple[dict[str, Array], Array, Array]:
    """Feeds, weights and bias of about unit variance, the weights scaled so that results are too."""
    generator = np.random.default_rng(0)

    def normal(*shape: int, scale: float = 1.0) -> Array:
        return (scale * generator.standard_normal(shape, np.float32)).astype(np.float16)

    feeds = {"x": normal(batch, layer.size, layer.size, layer.channels)}
    if layer.residual:
        feeds["z"] = normal(batch, layer.extent, layer.extent, layer.features)
    depth = layer.channels * layer.kernel**2
    weights = normal(layer.features, layer.channels, layer.kernel, layer.kernel, scale=depth**-0.5)
    return feeds, weights, normal(layer.features)


def compare(found: Array, expected: Array) -> None:
    """Raises ``ValueError`` where results differ by more than rounding."""
    right = expected.astype(np.float64)
    error = float(np.abs(found.astype(np.float64) - right).max() / (np.abs(right).max() or 1.0))
    if not error <= TOLERANCE:
        raise ValueError(f"the result differs from PyTorch's by {error:.3g} of its scale")


class TorchLayer:
    """A layer in PyTorch on ``place``, channels last; on CUDA its convolutions are cuDNN's."""

    def __init__(
        self, torch: Any, place: str, layer: Layer, feeds: dict[str, Array], weights: Array, bias: Array
    ) -> None:
        self._torch, self._layer = torch, layer

        def tensor(array: Array) -> Any:
            return torch.from_numpy(array).to(place)

        # The permuted view of a dense NHWC array is what PyTorch calls channels last.
        self._feeds = {name: tensor(array).permute(0, 3, 1, 2) for name, array in feeds.items()}
        self._weights = tensor(weights).contiguous(memory_format=torch.channels_last)
        self._bias = tensor(bias)

    def expected(self) -> Array:
        """The result ``(batch, rows, columns, features)``, each operation by itself, from float32 sums."""
        torch, layer = self._torch, self._layer
        x, weights, bias = self._feeds["x"].float(), self._weights.float(), self._bias.float()
        result = torch.nn.functional.conv2d(x, weights, bias, layer.stride, layer.pad)
        if layer.residual:
            result = result + self._feeds["z"].float()
        array: Array = torch.relu(result).permute(0, 2, 3, 1).cpu().numpy()
        return array

    def launch(self, stream: int) -> None:
        """Queues cuDNN's convolution on a CUDA stream."""
        cuda = self._torch.cuda
        with cuda.stream(cuda.ExternalStream(stream)), self._torch.inference_mode():
            self.convolve()

    def convolve(self) -> None:
        """cuDNN's convolution on PyTorch's current stream; the module says what it computes."""
        operators, layer = self._torch.ops.aten, self._layer
        x, weights = self._feeds["x"], self._weights
        strides, pads, dilations = [layer.stride] * 2, [layer.pad] * 2, [1, 1]
        if layer.residual:
            z, alpha = self._feeds["z"], 1.0
            operators.cudnn_convolution_add_relu(
                x, weights, z, alpha, self._bias, strides, pads, dilations, 1
            )
        else:
            # Not timed, not deterministic, no TensorFloat-32: the heuristic's first choice, whatever it is.
            operators.cudnn_convolution(x, weights, pads, strides, dilations, 1, False, False, False)


MakePeer = Callable[[Layer, dict[str, Array], Array, Array], TorchLayer]


def _seconds(
    runtime: Any, session: onnxplan.InferenceSession, shapes: Shapes, others: Sequence[Launch]
) -> list[float]:
    """The time of our steps and then of the others, in turn, on operands that come from memory."""
    executor, purpose = executor_of(session, shapes), "timing a convolution"
    with borrowed_slot(executor, purpose) as slot:
        size = FLUSHED * executor.plan.target.cache_bytes[1]
        flushed = executor.context.allocate(size, purpose)

        def flush(stream: int) -> None:
            runtime.memsetAsync(flushed.ptr, 0, size, stream)

        return cold_seconds(runtime, [steps_launch(slot), *others], flush)
