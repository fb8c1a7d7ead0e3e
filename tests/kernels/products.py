"""Random operands and references for products: views with gaps, permuted axes, broadcasts; epilogues."""

import numpy as np
from harness import array_of

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import ExpressionBuilder, Instruction, constant
from onnxplan.compiler.view import Storage, View

TOLERANCE = {DType.FLOAT64: 1e-14, DType.FLOAT32: 2e-6, DType.FLOAT16: 2e-3, DType.BFLOAT16: 1e-2}


def random_values(rng, dtype, size):
    if dtype.is_float:
        return rng.standard_normal(size).astype(dtype.numpy)
    limits = np.iinfo(dtype.numpy)
    return rng.integers(limits.min, limits.max, size, dtype=dtype.numpy, endpoint=True)


def place(rng, shape, dtype, layout="any"):
    """A view of ``shape`` in a storage of its own.

    ``layout``: ``dense``; ``gaps`` after axes; ``swapped`` last axes; ``stepped``, also along the last axis;
    or any of them.
    """
    if layout == "any":
        layout = rng.choice(["dense", "gaps", "swapped", "stepped"])
    rank = len(shape)
    order = list(range(rank))
    if layout == "swapped" and rank >= 2:
        order[-1], order[-2] = order[-2], order[-1]
    steps = [int(rng.integers(1, 3)) if layout == "stepped" else 1 for _ in shape]
    strides, size = [0] * rank, 1
    for axis in reversed(order):
        strides[axis] = size * steps[axis]
        gap = int(rng.integers(0, 3)) if layout in ("gaps", "stepped") else 0
        size *= max(1, shape[axis] * steps[axis] + gap)
    return View(Storage(dtype, size + 8, layout), 4, tuple(shape), tuple(strides))


def broadcast(rng, shape, dtype, chance=0.3, layout="any"):
    """As :func:`place`, with some axes of stride 0."""
    own = [1 if rng.random() < chance else extent for extent in shape]
    return place(rng, own, dtype, layout).expand(tuple(shape))


def fill(rng, views):
    """Elements for the storages of ``views``."""
    return {view.storage: random_values(rng, view.dtype, view.storage.size) for view in views}


def as_constant(view, values):
    """The view on a constant of the same elements."""
    storage = Storage(view.dtype, view.storage.size, "constant", values[view.storage].copy(), "constant")
    return View(storage, view.offset, view.shape, view.strides)


def epilogue(accumulator, output, extras):
    """``max(cast(sum) + x1 ..., 0)``: every other extra is multiplied instead of added."""
    builder = ExpressionBuilder()
    value = builder.add(Instruction("input", (0,), accumulator))
    if accumulator is not output:
        value = builder.add(Instruction("cast", (value,), output))
    for number in range(extras):
        extra = builder.add(Instruction("input", (1 + number,), output))
        value = builder.add(Instruction("mul" if number % 2 else "add", (value, extra), output))
    if extras:
        value = builder.add(Instruction("max", (value, builder.add(constant(0, output))), output))
    return builder.build((value,))


def apply_epilogue(total, magnitude, extras, output):
    """The same in NumPy; ``magnitude`` bounds the size of what was summed, for the tolerance."""
    if output.is_float:
        total = total.astype(output.numpy).astype(np.float64)
    for number, extra in enumerate(extras):
        extra = extra.astype(np.float64) if output.is_float else extra
        total = total * extra if number % 2 else total + extra
        if output.is_float:
            magnitude = magnitude * np.abs(extra) if number % 2 else magnitude + np.abs(extra)
    return (np.maximum(total, 0) if extras else total), magnitude


def assert_close(got, want, magnitude, dtype):
    if not dtype.is_float:
        np.testing.assert_array_equal(got, want)
        return
    error = np.abs(got.astype(np.float64) - want)
    limit = TOLERANCE[dtype] * (magnitude + 1e-30)
    assert (error <= limit).all(), (
        f"error {np.nanmax(error / limit)} times the limit, {np.isnan(error).sum()} NaN"
    )


def arrays(views, values):
    return [array_of(view, values[view.storage]) for view in views]
