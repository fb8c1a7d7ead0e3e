"""What breaks the standard, or is not supported, is refused with the node's name and the reason."""

import numpy as np
import pytest
from cases import case, shape_of, tensor_code
from onnx import TensorProto

from onnxplan.compiler.errors import InvalidModelError
from onnxplan.compiler.importer import load_model
from onnxplan.compiler.lowering import lower

X = np.zeros((2, 3), np.float32)
STRINGS = np.array(["a", "b"], object)

BROKEN = [
    ("Add", {"x": X, "y": np.zeros((2, 4), np.float32)}, {}, "cannot broadcast"),
    ("Add", {"x": X, "y": np.zeros((2, 3), np.int32)}, {}, "types differ"),
    ("Add", {"x": X, "y": np.zeros((3,), np.float32)}, {"opset": 6}, "broadcast"),
    ("Cast", {"x": X}, {"attributes": {"to": TensorProto.COMPLEX64}}, "complex64"),
    ("Cast", {"x": X}, {"attributes": {"to": 99}}, "99"),
    ("Gelu", {"x": X}, {"attributes": {"approximate": "none of these"}}, "approximate"),
    (
        "BitShift",
        {"x": np.ones(2, np.uint8), "y": np.ones(2, np.uint8)},
        {"attributes": {"direction": "UP"}},
        "UP",
    ),
    # Operands that kernels would take for what they are not.
    (
        "LSTM",
        {
            "x": np.zeros((2, 1, 2), np.float32),
            "w": np.zeros((1, 4, 2), np.float32),
            "r": np.zeros((1, 4, 1), np.float32),
            "b": None,
            "lengths": None,
            "h": None,
            "c": None,
            "p": np.zeros((1, 3), np.float64),
        },
        {"attributes": {"hidden_size": 1}},
        "float64, not float32",
    ),
    (
        "LpPool",
        {"x": np.zeros((1, 1, 3, 3), np.float32)},
        {"attributes": {"kernel_shape": [3, 0], "auto_pad": "SAME_LOWER"}},
        "kernel",
    ),
    (
        "BitShift",
        {"x": np.ones(2, np.uint8), "y": STRINGS},
        {"attributes": {"direction": "LEFT"}, "constants": ()},
        "string",
    ),
    (
        "ConvTranspose",
        {"x": np.zeros((1, 1, 3), np.float32), "w": np.zeros((1, 1, 2), np.float32)},
        {"attributes": {"strides": [1 << 40]}},
        "convolutions",
    ),
    ("Reshape", {"x": X, "shape": shape_of(4, -1)}, {}, "6 elements"),
    ("Reshape", {"x": X, "shape": shape_of(-1, -1)}, {}, "more than one -1"),
    ("Reshape", {"x": X, "shape": shape_of(5)}, {}, "reshape"),
    ("Reshape", {"x": X, "shape": shape_of(1, 1, 0)}, {}, "axis 2"),
    ("Squeeze", {"x": X, "axes": shape_of(0)}, {}, "extent 1"),
    ("Unsqueeze", {"x": X, "axes": shape_of(0, 0)}, {}, "repeat"),
    ("Transpose", {"x": X}, {"attributes": {"perm": [0, 0]}}, "repeat"),
    ("Concat", {"x": X, "y": np.zeros((3, 3), np.float32)}, {"attributes": {"axis": 1}}, "differ"),
    ("Concat", {"x": X}, {"attributes": {"axis": 2}}, "axis 2"),
    ("Concat", {"x": X, "y": np.zeros((3, 0), np.float32)}, {"attributes": {"axis": 0}}, "differ"),
    ("Concat", {"x": X, "y": np.zeros(0, np.float32)}, {"attributes": {"axis": 0}}, "differ"),
    ("Split", {"x": X, "split": shape_of(1, 1)}, {"attributes": {"axis": 1}, "outputs": 2}, "add up to 3"),
    ("Split", {"x": X}, {"attributes": {"axis": 1}, "outputs": 2, "opset": 13}, "equal parts"),
    (
        "Slice",
        {"x": X, "s": shape_of(0), "e": shape_of(1), "a": shape_of(0), "t": shape_of(0)},
        {},
        "step is 0",
    ),
    ("Pad", {"x": X, "pads": shape_of(1, 1)}, {}, "2 pads"),
    ("Pad", {"x": X, "pads": shape_of(-3, 0, 0, 0)}, {}, "remove more"),
    ("Pad", {"x": X, "pads": shape_of(1, 0, 0, 0)}, {"attributes": {"mode": "mirror"}}, "mirror"),
    ("Expand", {"x": X, "shape": shape_of(2, 4)}, {}, "cannot broadcast"),
    ("Tile", {"x": X, "repeats": shape_of(2)}, {}, "1 repeats"),
    (
        "Range",
        {"a": np.array(1), "b": np.array(2), "c": np.array(0)},
        {"constants": tuple("abc")},
        "delta is 0",
    ),
    (
        "DepthToSpace",
        {"x": np.zeros((1, 3, 2, 2), np.float32)},
        {"attributes": {"blocksize": 2}},
        "3 channels",
    ),
    ("ReduceSum", {"x": X, "axes": shape_of(2)}, {}, "axis 2"),
    ("ReduceSum", {"x": X, "axes": shape_of(1, -1)}, {}, "repeat"),
    ("ArgMax", {"x": np.zeros((0, 2), np.float32)}, {}, "no elements"),
    ("Softmax", {"x": X}, {"attributes": {"axis": -3}}, "axis -3"),
    ("GroupNormalization", {"x": X, "s": X[0], "b": X[0]}, {"attributes": {"num_groups": 2}}, "groups"),
    ("MatMul", {"x": X, "y": X}, {}, "cannot multiply"),
    ("MatMul", {"x": X, "y": np.zeros((), np.float32)}, {}, "scalar"),
    ("Gemm", {"x": X, "y": np.zeros((3, 2), np.float32), "c": np.zeros(5, np.float32)}, {}, "broadcast"),
    ("Einsum", {"x": X, "y": X}, {"attributes": {"equation": "ij,jk->ik"}}, "'j'"),
    ("Einsum", {"x": X}, {"attributes": {"equation": "ijk->i"}}, "rank 2"),
    ("Einsum", {"x": X}, {"attributes": {"equation": "ij->ii"}}, "repeats"),
    ("Einsum", {"x": X}, {"attributes": {"equation": "ij,jk->ik"}}, "2 terms"),
    ("Einsum", {"x": X}, {"attributes": {"equation": "i1->i"}}, "letters"),
    ("BitCast", {"x": X}, {"attributes": {"to": tensor_code(np.dtype(np.int64))}}, "32 bits, int64 64"),
    ("BitCast", {"x": X}, {"attributes": {"to": tensor_code(STRINGS.dtype)}}, "no bits"),
    ("Det", {"x": X}, {}, "no square matrices"),
    (
        "Col2Im",
        {"x": np.zeros((1, 4, 5), np.float32), "i": shape_of(3, 3), "b": shape_of(2, 2)},
        {},
        r"at \[2, 2\] positions",
    ),
    (
        "MaxUnpool",
        {"x": np.zeros((1, 1, 2, 2), np.float32), "i": np.zeros((1, 1, 2, 3), np.int64)},
        {"attributes": {"kernel_shape": [2, 2]}},
        "indices of shape",
    ),
    (
        "DeformConv",
        {
            "x": np.zeros((1, 1, 3, 3), np.float32),
            "w": np.zeros((1, 1, 2, 2), np.float32),
            "o": np.zeros((1, 4, 2, 2), np.float32),
        },
        {},
        "offsets of shape",
    ),
    ("RandomUniformLike", {"x": np.zeros(3, np.int32)}, {}, "floats, not int32"),
    ("Multinomial", {"x": X[0]}, {}, "rank 2"),
    (
        "ArrayFeatureExtractor",
        {"x": X, "i": shape_of(3)},
        {"domain": "ai.onnx.ml"},
        "out of range for 3",
    ),
    (
        "Adagrad",
        {"r": np.zeros((), np.float32), "t": np.zeros((), np.int64), "x": X, "g": X, "h": X[0]},
        {"domain": "ai.onnx.preview.training", "outputs": ["y0", "h1"]},
        "parameter 0 differ",
    ),
]


@pytest.mark.parametrize(("op_type", "inputs", "settings", "reason"), BROKEN)
def test_reason(op_type, inputs, settings, reason):
    broken = case("", op_type, inputs, **{"constants": tuple(inputs)[1:], **settings})
    model = load_model(broken.model())
    feeds = broken.feeds()
    texts = {name: array.reshape(-1).tolist() for name, array in feeds.items() if array.dtype == object}
    with pytest.raises(InvalidModelError, match=f"'y0' .{op_type} of .*{reason}"):
        lower(model, {name: array.shape for name, array in feeds.items()}, texts=texts)
