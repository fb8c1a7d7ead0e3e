"""Models that onnxruntime's quantiser writes: a convolution net and a transformer, in all its formats."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

import onnxplan

OPSET = 17
FORMATS = {"QDQ": QuantFormat.QDQ, "QOperator": QuantFormat.QOperator}
TYPES = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}


class Network:
    """Nodes and random weights; every method returns the name of its result."""

    def __init__(self):
        self.random = np.random.default_rng(0)
        self.nodes, self.weights = [], []

    def weight(self, *shape):
        depth = np.prod(shape[1:]) if len(shape) > 2 else shape[0]
        array = self.random.standard_normal(shape) / np.sqrt(depth)
        return self.constant(array.astype(np.float32))

    def constant(self, array):
        self.weights.append(numpy_helper.from_array(np.asarray(array), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def node(self, op_type, *inputs, **attributes):
        result = f"{op_type}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [result], name=result, **attributes))
        return result

    def model(self, shape, result, result_shape):
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(result, TensorProto.FLOAT, result_shape)],
            self.weights,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets, ir_version=9))


def convolution_net():
    n = Network()

    def conv(x, channels, results, kernel, group=1):
        pads = [kernel // 2] * 4
        weights = n.weight(results, channels // group, kernel, kernel)
        return n.node("Conv", x, weights, n.weight(results), group=group, pads=pads)

    first = n.node("Relu", conv("x", 3, 8, 3))
    x = n.node("Clip", conv(first, 8, 8, 3, 8), n.constant(np.float32(0)), n.constant(np.float32(6)))
    x = n.node("LeakyRelu", n.node("Add", conv(x, 8, 8, 1), first), alpha=0.1)
    x = n.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    gate = conv(x, 8, 8, 3)
    x = n.node("Concat", n.node("Mul", gate, n.node("Sigmoid", gate)), x, axis=1)
    x = n.node("Flatten", n.node("GlobalAveragePool", x))
    y = n.node("Gemm", x, n.weight(10, 16), n.weight(10), transB=1)
    return n.model([2, 3, 12, 12], y, [2, 10])


def transformer(rows=6, width=16, heads=2):
    n = Network()

    def linear(x, columns, depth=width):
        return n.node("Add", n.node("MatMul", x, n.weight(depth, columns)), n.weight(columns))

    def split(x, order=(0, 2, 1, 3)):
        shape = n.constant(np.array([0, 0, heads, width // heads]))
        return n.node("Transpose", n.node("Reshape", x, shape), perm=list(order))

    def norm(x):
        mean = n.node("ReduceMean", x, axes=[-1])
        centred = n.node("Sub", x, mean)
        variance = n.node("ReduceMean", n.node("Mul", centred, centred), axes=[-1])
        deviation = n.node("Sqrt", n.node("Add", variance, n.constant(np.float32(1e-5))))
        return n.node("Div", centred, deviation)

    scores = n.node("MatMul", split(linear("x", width)), split(linear("x", width), (0, 2, 3, 1)))
    weights = n.node("Softmax", n.node("Mul", scores, n.constant(np.float32(0.35))), axis=-1)
    mixed = n.node("Transpose", n.node("MatMul", weights, split(linear("x", width))), perm=[0, 2, 1, 3])
    x = n.node("Reshape", mixed, n.constant(np.array([0, 0, width])))
    x = norm(n.node("Add", linear(x, width), "x"))
    inner = linear(x, 2 * width)
    erf = n.node("Erf", n.node("Mul", inner, n.constant(np.float32(np.sqrt(0.5)))))
    gelu = n.node("Mul", inner, n.node("Add", erf, n.constant(np.float32(1))))
    y = n.node("Add", linear(gelu, width, 2 * width), x)
    return n.model([2, rows, width], y, [2, rows, width])


NETWORKS = {"convolutions": convolution_net, "transformer": transformer}


class Calibration(CalibrationDataReader):
    def __init__(self, shape):
        random = np.random.default_rng(1)
        self.feeds = iter([{"x": random.standard_normal(shape).astype(np.float32)} for _ in range(4)])

    def get_next(self):
        return next(self.feeds, None)


def input_shape(model):
    return [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]


def compare(path, shape):
    """Outputs within a quantum of onnxruntime's, nearly all of them equal.

    That is told not to optimise: its integer softmax differs from the float meaning of the graph.
    """
    feeds = {"x": np.random.default_rng(2).standard_normal(shape).astype(np.float32)}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    peer = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (right,) = peer.run(None, feeds)
    with onnxplan.InferenceSession(str(path), threads=1) as session:
        (found,) = (tensor.numpy() for tensor in session.run_sync(feeds).values())
    distance = np.abs(found - right) / (np.ptp(right) / 255)
    # The range of the calibration is a little wider than that of one output.
    assert distance.max() < 1.5
    assert np.count_nonzero(distance > 1e-3) <= distance.size // 50


@pytest.mark.parametrize(
    ("name", "form", "dtype", "per_channel"),
    [
        ("convolutions", "QDQ", "uint8", False),
        ("convolutions", "QDQ", "int8", True),
        ("convolutions", "QOperator", "uint8", True),
        ("convolutions", "QOperator", "int8", False),
        ("transformer", "QDQ", "uint8", True),
        ("transformer", "QDQ", "int8", False),
        ("transformer", "QOperator", "uint8", False),
    ],
)
def test_static_quantisation(name, form, dtype, per_channel, tmp_path):
    model = NETWORKS[name]()
    shape = input_shape(model)
    path = tmp_path / "quantized.onnx"
    quantize_static(
        model,
        path,
        Calibration(shape),
        quant_format=FORMATS[form],
        per_channel=per_channel,
        activation_type=TYPES[dtype],
        weight_type=QuantType.QInt8,
    )
    compare(path, shape)


@pytest.mark.parametrize(
    ("name", "dtype", "per_channel"), [("convolutions", "uint8", False), ("transformer", "int8", True)]
)
def test_dynamic_quantisation(name, dtype, per_channel, tmp_path):
    model = NETWORKS[name]()
    path = tmp_path / "quantized.onnx"
    quantize_dynamic(model, path, per_channel=per_channel, weight_type=TYPES[dtype])
    compare(path, input_shape(model))
