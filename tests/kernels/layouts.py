"""Views of one shape laid out in memory in different ways, and operations run over them."""

import numpy as np
from harness import Recorder, array_of, run_operation, selector

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.evaluate import evaluate
from onnxplan.compiler.program import Operation
from onnxplan.compiler.view import Storage, View, dense_strides

LAYOUTS = ("dense", "permuted", "gaps", "holes", "reversed")


def laid_out(dtype, shape, kind="dense", name=""):
    """A view of a new storage: dense, first axis innermost, part of a larger tensor, every second element of
    one, or backwards along all axes."""
    shape = tuple(shape)
    offset = 0
    if kind == "permuted":
        strides = dense_strides(shape[::-1])[::-1]
        size = int(np.prod(shape))
    elif kind == "gaps":
        outer = tuple(extent + 2 for extent in shape)
        strides, size = dense_strides(outer), int(np.prod(outer))
        offset = sum(strides)
    elif kind == "holes":
        strides = tuple(2 * stride for stride in dense_strides(tuple(2 * extent for extent in shape)))
        size = int(np.prod([2 * extent for extent in shape]))
    else:
        strides, size = dense_strides(shape), int(np.prod(shape))
        if kind == "reversed" and size:
            offset = sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True))
            strides = tuple(-stride for stride in strides)
    return View(Storage(dtype, size, name), offset, shape, strides)


def run(primitive, inputs, outputs, arrays, isa, rng):
    """Runs ``primitive`` on views filled with ``arrays`` (constants keep theirs): what the kernels gave, and
    what :func:`evaluate` gives."""
    values = {}
    for view, array in zip(inputs, arrays, strict=True):
        if view.storage.constant is None:
            elements = np.zeros(view.storage.size, view.dtype.numpy)
            array_of(view, elements)[...] = array
            values[view.storage] = elements
    operation = Operation(primitive, tuple(inputs), tuple(outputs))
    found = run_operation(operation, values, isa, rng)
    expected = evaluate(primitive, arrays, [view.shape for view in outputs])
    return found, expected


def select(primitive, inputs, outputs, isa):
    """The steps that are selected for ``primitive``."""
    recorder = Recorder()
    operation = Operation(primitive, tuple(inputs), tuple(outputs))
    selector(isa).select(operation, recorder)
    return recorder.steps


def assert_close(found, expected, tolerance):
    """Equality, or closeness of floats by ``tolerance``, NaN and infinities included."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    if DType.from_numpy(found.dtype).is_float:
        wide = [array.astype(np.float64) for array in (found, expected)]
        np.testing.assert_allclose(*wide, rtol=tolerance, atol=tolerance)
    else:
        np.testing.assert_array_equal(found, expected)
