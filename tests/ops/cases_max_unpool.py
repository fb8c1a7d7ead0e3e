"""MaxUnpool."""

import numpy as np
from cases import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Case, case, shape_of, uniform


def places(count, shape):
    """``shape`` different elements of a tensor of ``count``."""
    return lambda random: random.permutation(count)[: int(np.prod(shape))].reshape(shape).astype(np.int64)


def unpool(pooled, shape):
    def reference(x, indices, *_):
        flat = np.zeros(int(np.prod(pooled)))
        inside = (indices >= 0) & (indices < flat.size)
        flat[indices[inside]] = x[inside]
        result = np.zeros(shape)
        result[tuple(map(slice, pooled))] = flat.reshape(pooled)
        return result

    return reference


def unpool_case(name, x, pooled, shape=None, *, dtype=FLOAT32, constants=(), opset=22, **attributes) -> Case:
    inputs = {"x": uniform(dtype, *x), "indices": places(int(np.prod(pooled)), x)}
    if shape is not None:
        inputs["shape"] = shape_of(*shape)
    reference = unpool(pooled, shape or pooled)
    settings = {"attributes": attributes, "constants": constants, "opset": opset}
    return case(name, "MaxUnpool", inputs, reference=reference, **settings)


SQUARE = {"kernel_shape": [2, 2], "strides": [2, 2]}

CASES = [
    *(
        unpool_case(f"{dtype}", (2, 3, 2, 3), (2, 3, 4, 6), dtype=dtype, **SQUARE)
        for dtype in (FLOAT32, FLOAT64, FLOAT16, BFLOAT16)
    ),
    unpool_case("opset 9", (1, 1, 2, 2), (1, 1, 4, 4), opset=9, **SQUARE),
    unpool_case("opset 11", (1, 1, 2, 2), (1, 1, 4, 4), opset=11, **SQUARE),
    unpool_case("unit strides", (1, 2, 3, 3), (1, 2, 4, 5), kernel_shape=[2, 3]),
    unpool_case("pads", (1, 2, 3, 3), (1, 2, 6, 5), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 1]),
    unpool_case("larger", (1, 2, 2, 2), (1, 2, 4, 4), (1, 2, 5, 7), **SQUARE),
    unpool_case("larger constant", (1, 2, 2, 2), (1, 2, 4, 4), (1, 2, 5, 7), constants=("shape",), **SQUARE),
    unpool_case("smaller", (1, 2, 2, 2), (1, 2, 3, 4), (1, 2, 3, 4), **SQUARE),
    unpool_case("one axis", (2, 3, 4), (2, 3, 8), kernel_shape=[2], strides=[2]),
    unpool_case("volumes", (1, 2, 2, 1, 2), (1, 2, 4, 2, 4), kernel_shape=[2, 2, 2], strides=[2, 2, 2]),
    unpool_case("nothing", (0, 3, 2, 2), (0, 3, 4, 4), **SQUARE),
    case(
        "out of range",
        "MaxUnpool",
        {"x": uniform(FLOAT32, 1, 1, 2, 2), "indices": np.array([[[[3, 16], [-1, 0]]]], np.int64)},
        attributes=SQUARE,
        reference=unpool((1, 1, 4, 4), (1, 1, 4, 4)),
    ),
]
