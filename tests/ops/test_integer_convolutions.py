"""ConvInteger of bytes of either sign, with zero points, which pad too, large enough for all kernels."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxplan

BYTES = [np.dtype(np.uint8), np.dtype(np.int8)]
ONNX_TYPES = {np.dtype(np.uint8): TensorProto.UINT8, np.dtype(np.int8): TensorProto.INT8}
CASES = [
    # channels of a group, features of a group, groups, strides, dilations, pads
    (64, 40, 1, (1, 1), (1, 1), (1, 1, 1, 1)),
    (24, 33, 1, (2, 1), (1, 2), (1, 2, 0, 2)),
    (3, 64, 1, (2, 2), (1, 1), (1, 1, 1, 1)),
    (40, 48, 2, (1, 2), (2, 1), (2, 1, 2, 0)),
]


def exact(x, w, strides, dilations, pads, groups):
    """Sums of 64 bits of channels-first numbers that are centred already."""
    x = np.pad(x.astype(np.int64), ((0, 0), (0, 0), pads[0::2], pads[1::2]))
    features, channels = w.shape[0] // groups, w.shape[1]
    reach = [(extent - 1) * step + 1 for extent, step in zip(w.shape[2:], dilations, strict=True)]
    extents = [
        (size - span) // step + 1 for size, span, step in zip(x.shape[2:], reach, strides, strict=True)
    ]
    total = np.zeros((x.shape[0], w.shape[0], *extents), np.int64)
    for i, j in np.ndindex(*w.shape[2:]):
        rows = slice(i * dilations[0], i * dilations[0] + (extents[0] - 1) * strides[0] + 1, strides[0])
        columns = slice(j * dilations[1], j * dilations[1] + (extents[1] - 1) * strides[1] + 1, strides[1])
        read = x[:, :, rows, columns]
        for group in range(groups):
            part = read[:, group * channels : (group + 1) * channels]
            own = slice(group * features, (group + 1) * features)
            total[:, own] += np.einsum("nchw,fc->nfhw", part, w[own, :, i, j].astype(np.int64))
    return total


@pytest.mark.parametrize("left", BYTES, ids=str)
@pytest.mark.parametrize("right", BYTES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}to{case[1]}")
def test_sums_are_exact(left, right, case):
    channels, features, groups, strides, dilations, pads = case
    rng = np.random.default_rng(0)
    limits = {dtype: (np.iinfo(dtype).min, np.iinfo(dtype).max + 1) for dtype in BYTES}
    x = rng.integers(*limits[left], (2, groups * channels, 19, 21)).astype(left)
    w = rng.integers(*limits[right], (groups * features, channels, 3, 3)).astype(right)
    zeros = [np.array(limits[dtype][0] + shift, dtype) for dtype, shift in ((left, 77), (right, 128))]
    node = helper.make_node(
        "ConvInteger", ["x", "w", "x_zero", "w_zero"], ["y"],
        strides=strides, dilations=dilations, pads=pads, group=groups,
    )  # fmt: skip
    constants = [
        numpy_helper.from_array(array, name)
        for name, array in zip(("w", "x_zero", "w_zero"), (w, *zeros), strict=True)
    ]
    graph = helper.make_graph(
        [node],
        "convolution",
        [helper.make_tensor_value_info("x", ONNX_TYPES[left], x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT32, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    centred = [array.astype(np.int64) - zero for array, zero in zip((x, w), zeros, strict=True)]
    want = exact(*centred, strides, dilations, pads, groups).astype(np.int32)
    for threads in (1, 2):
        with onnxplan.InferenceSession(model, threads=threads, cache=False) as session:
            np.testing.assert_array_equal(session.run_sync({"x": x})["y"].numpy(), want)
