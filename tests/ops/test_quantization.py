"""Quantised operators: what is refused, and what is left to run where the weights are constants."""

import ml_dtypes
import numpy as np
import pytest
from cases import case, tensor_code

from onnxplan.compiler.errors import InvalidModelError
from onnxplan.compiler.importer import load_model
from onnxplan.compiler.lowering import lower
from onnxplan.compiler.primitives import BlockMatMul, Conv, MapReduce, MatMul

X = np.zeros((2, 6), np.float32)
Q = np.zeros((2, 6), np.uint8)
SCALE = np.float32(0.5)
ZERO = np.uint8(3)
WEIGHTS = np.arange(12, dtype=np.uint8).reshape(6, 2)
CONTRIB = {"domain": "com.microsoft"}
PACKED = {
    "a": np.zeros((2, 64), np.float32),
    "w": np.zeros((5, 4, 8), np.uint8),
    "s": np.ones((5, 4), np.float32),
}
SIZES = {"K": 64, "N": 5, "block_size": 16}


def quantize(**attributes):
    return {"attributes": attributes}


BROKEN = [
    ("QuantizeLinear", {"x": X, "s": np.ones(3, np.float32)}, {}, r"scale of shape \[3\] for 6 elements"),
    ("QuantizeLinear", {"x": X, "s": np.ones(6, np.float32), "z": ZERO}, {}, "zero point of"),
    ("QuantizeLinear", {"x": X, "s": np.ones((2, 4), np.float32)}, quantize(block_size=2), "blocks of 2"),
    ("QuantizeLinear", {"x": X, "s": np.ones((2, 3), np.float32)}, quantize(block_size=-2), "not positive"),
    (
        "QuantizeLinear",
        {"x": X, "s": SCALE, "z": ZERO},
        quantize(output_dtype=tensor_code(np.dtype(np.int8))),
        "uint8",
    ),
    ("QuantizeLinear", {"x": X, "s": SCALE}, quantize(output_dtype=tensor_code(X.dtype)), "to float32"),
    (
        "QuantizeLinear",
        {"x": X, "s": SCALE},
        quantize(precision=tensor_code(np.dtype(np.int32))),
        "precision int32",
    ),
    ("DequantizeLinear", {"x": Q, "s": np.array(1).astype(ml_dtypes.float8_e8m0fnu)}, {}, "to float8e8m0"),
    (
        "QLinearAdd",
        {"a": Q, "as": SCALE, "az": np.int8(0), "b": Q, "bs": SCALE, "bz": ZERO, "s": SCALE},
        CONTRIB,
        "int8",
    ),
    (
        "QLinearConcat",
        {"s": SCALE, "z": ZERO, "x": Q, "xs": SCALE},
        {**CONTRIB, **quantize(axis=0)},
        "triples",
    ),
    ("MatMulNBits", PACKED, {**CONTRIB, **quantize(**SIZES, bits=3)}, "3 bits"),
    ("MatMulNBits", PACKED, {**CONTRIB, **quantize(**SIZES, bits=8)}, "packed weights of shape"),
    ("MatMulNBits", PACKED, {**CONTRIB, **quantize(**{**SIZES, "K": 60}, bits=4)}, "rows of 60"),
]


@pytest.mark.parametrize(("op_type", "inputs", "settings", "reason"), BROKEN)
def test_reason(op_type, inputs, settings, reason):
    broken = case("", op_type, inputs, **{"constants": tuple(inputs)[1:], **settings})
    model = load_model(broken.model())
    with pytest.raises(InvalidModelError, match=f"'y0' .*{op_type}.* of .*{reason}"):
        lower(model, {name: array.shape for name, array in broken.feeds().items()})


LINEAR = {"a": Q, "as": SCALE, "az": ZERO, "w": WEIGHTS, "ws": SCALE, "wz": ZERO, "s": SCALE, "z": ZERO}
IMAGE = {**LINEAR, "a": np.zeros((1, 2, 5, 5), np.uint8), "w": np.ones((3, 2, 3, 3), np.uint8)}
FOLDED = [
    ("MatMulInteger", {"a": Q, "w": WEIGHTS}, {}, [MatMul]),
    ("MatMulInteger", {"a": Q, "w": WEIGHTS, "az": np.uint8(0), "wz": ZERO}, {}, [MatMul]),
    ("MatMulInteger", {"a": Q, "w": WEIGHTS, "az": ZERO, "wz": ZERO}, {}, [MatMul, MapReduce]),
    ("QLinearMatMul", LINEAR, {}, [MatMul, MapReduce, MapReduce]),
    ("QLinearConv", IMAGE, {}, [Conv, MapReduce, MapReduce]),
    ("MatMulNBits", PACKED, {**CONTRIB, **quantize(**SIZES)}, [BlockMatMul]),
    (
        "QuantizeLinear",
        {"x": X, "s": np.ones((2, 3), np.float32), "z": np.ones((2, 3), np.uint8)},
        quantize(block_size=2),
        [MapReduce],
    ),
]


@pytest.mark.parametrize(("op_type", "inputs", "settings", "primitives"), FOLDED)
def test_constant_weights_are_prepared_at_plan_time(op_type, inputs, settings, primitives):
    item = case("", op_type, inputs, **{"constants": tuple(inputs)[1:], **settings})
    stage = lower(load_model(item.model()), {name: array.shape for name, array in item.feeds().items()})
    assert [type(operation.primitive) for operation in stage.program.operations] == primitives
