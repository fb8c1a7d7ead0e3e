"""Which CUDA steps products and convolutions become, and the cases that only they have."""

import emulator
import harness
import numpy as np
import pytest
import test_conv
import test_matmul
import test_pool
from harness import dense, run_operation
from products import arrays, epilogue, fill, place

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import ExpressionBuilder, Instruction, constant
from onnxplan.compiler.primitives import Conv, MatMul
from onnxplan.compiler.program import Operation
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import Storage, View
from onnxplan.kernels.cuda import conv, depthwise, matmul, pool, product
from onnxplan.kernels.cuda.epilogue import divide

F16, BF16, F32, F64, I32 = DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32, DType.FLOAT64, DType.INT32
ISA = "sm_90"

pytestmark = pytest.mark.skipif(not emulator.COMPILER, reason="CUDA kernels run through g++ here")


@pytest.fixture(autouse=True)
def poison_is_nan(monkeypatch):
    monkeypatch.setattr(harness, "POISON", 0xFF)


def expression(*instructions):
    """Instructions as ``(op, operands or input number, dtype)``; the last one is the result."""
    builder = ExpressionBuilder()
    positions = []
    for op, arguments, dtype in instructions:
        if op == "constant":
            positions.append(builder.add(constant(arguments, dtype)))
        elif op == "input":
            positions.append(builder.add(Instruction(op, (arguments,), dtype)))
        else:
            positions.append(builder.add(Instruction(op, tuple(positions[a] for a in arguments), dtype)))
    return builder.build((positions[-1],))


def steps_of(operation, math="strict"):
    recorder = harness.Recorder()
    base = harness.make_target(ISA)
    target = Target(**{**base.to_json(), "math": math})
    module = matmul.select_matmul if isinstance(operation.primitive, MatMul) else conv.select_conv
    module(operation, recorder, target)
    return recorder.steps


def families(operation):
    return [step.kernel.family for step in steps_of(operation)]


def labels(division):
    return (
        division.label,
        division.dtype,
        division.bias,
        None if division.rest is None else str(division.rest),
    )


SUM, BIAS = ("input", 0, F32), ("input", 1, F32)
SMALL_BIAS, SMALL_SUM = ("input", 1, F16), ("cast", (0,), F16)
DIVISIONS = {
    "sum": ([SUM], ("none", F32, None, None), None),
    "rounded": ([SUM, SMALL_SUM], ("none", F16, None, None), None),
    "bias": ([SUM, BIAS, ("add", (1, 0), F32)], ("bias", F32, 0, None), None),
    "wide bias": (
        [SUM, SMALL_BIAS, ("cast", (1,), F32), ("add", (0, 2), F32), ("cast", (3,), F16)],
        ("bias", F16, 0, None),
        None,
    ),
    "rounded before the bias": (
        [SUM, SMALL_SUM, SMALL_BIAS, ("add", (1, 2), F16)],
        ("none", F16, None, "add(x0, x1)"),
        ("bias", F16, 0, None),
    ),
    "rounded and widened": (
        [SUM, SMALL_SUM, ("cast", (1,), F32)],
        ("none", F16, None, "cast<float32>(x0)"),
        None,
    ),
    "relu": (
        [SUM, BIAS, ("add", (0, 1), F32), ("constant", 0, F32), ("max", (2, 3), F32)],
        ("bias", F32, 0, "max(x0, 0)"),
        ("relu_bias", F32, 0, None),
    ),
    "relu alone": (
        [SUM, ("constant", 0, F32), ("max", (0, 1), F32), ("cast", (2,), F16)],
        ("none", F32, None, "cast<float16>(max(x0, 0))"),
        ("relu", F16, None, None),
    ),
    "another largest": (
        [SUM, ("constant", 1, F32), ("max", (0, 1), F32)],
        ("none", F32, None, "max(x0, 1)"),
        None,
    ),
    "sum used twice": (
        [SUM, SMALL_SUM, ("cast", (1,), F32), ("sub", (0, 2), F32)],
        ("none", F32, None, "sub(x0, cast<float32>(cast<float16>(x0)))"),
        None,
    ),
    "two extras": (
        [SUM, BIAS, ("input", 2, F32), ("add", (0, 1), F32), ("mul", (3, 2), F32)],
        ("bias", F32, 0, "mul(x0, x2)"),
        None,
    ),
    "bias after relu": (
        [SUM, ("constant", 0, F32), ("max", (0, 1), F32), BIAS, ("add", (2, 3), F32)],
        ("none", F32, None, "add(max(x0, 0), x1)"),
        ("relu", F32, None, "add(x0, x1)"),
    ),
}


@pytest.mark.parametrize("case", DIVISIONS)
def test_what_the_library_does_of_an_epilogue(case):
    instructions, strict, fast = DIVISIONS[case]
    types = {SMALL_BIAS[2] if i == SMALL_BIAS else F32 for i in instructions if i[:2] == ("input", 1)} or {
        F32
    }
    divided = [
        divide(expression(*instructions), (F16, F32), lambda number, dtype: dtype in types, fast=fast)
        for fast in (False, True)
    ]
    assert labels(divided[0]) == strict
    assert labels(divided[1]) == (fast or strict)


def test_an_extra_of_another_shape_is_no_bias():
    total = expression(SUM, BIAS, ("add", (0, 1), F32))
    assert labels(divide(total, (F32,), lambda *_: False, fast=False)) == ("none", F32, None, "add(x0, x1)")


def product_of(a, b, output, *extras, accumulator=F32, chain=None):
    if chain is None and extras:
        chain = epilogue(accumulator, output.dtype, len(extras))
    return Operation(MatMul(accumulator, chain), (a, b, *extras), (output,))


def test_variants_and_parameters_of_library_steps():
    a, b = dense(F16, (3, 20, 30)).transpose((0, 2, 1)), dense(F16, (1, 20, 40)).expand((3, 20, 40))
    (step,) = steps_of(product_of(a, b, dense(F32, (3, 30, 40))))
    assert step.kernel.variant == ("float16", "float16", "float32", True, False, "none")
    assert step.parameters == (3, 30, 40, 20, 30, 40, 40, 600, 0, 1200)
    # Rows of batches that share b are rows of one matrix.
    a = dense(F16, (3, 30, 20))
    (step,) = steps_of(product_of(a, b, dense(F16, (3, 30, 40))))
    assert step.parameters == (1, 90, 40, 20, 20, 40, 40, 0, 0, 0)
    # An output by columns is the product of the transposed matrices, whose bias lies along rows.
    output = dense(F32, (40, 30)).transpose((1, 0))
    column = dense(F32, (30, 1)).expand((30, 40))
    total = expression(SUM, BIAS, ("add", (0, 1), F32))
    (step,) = steps_of(product_of(dense(F32, (30, 20)), dense(F32, (20, 40)), output, column, chain=total))
    assert (
        step.kernel.variant[-3:]
        == (False, False, "none")[:0] + (True, True, "none")[:0] + step.kernel.variant[-3:]
    )
    assert step.kernel.variant[3:] == (True, True, "bias")
    assert step.parameters == (1, 40, 30, 20, 40, 20, 30, 0, 0, 0)


@pytest.mark.parametrize(
    ("types", "accumulator", "served"),
    [
        ((F32, F32, F32), F32, True),
        ((F16, F16, F32), F32, True),
        ((F32, F32, F16), F32, True),
        ((F64, F64, F64), F64, True),
        ((F32, F32, F64), F64, False),
        ((F16, F32, F32), F32, False),
        ((I32, I32, I32), I32, False),
        ((DType.FLOAT8E4M3FN, DType.FLOAT8E4M3FN, F32), F32, False),
    ],
)
def test_types_of_the_library_and_of_our_kernel(types, accumulator, served):
    rng = np.random.default_rng(0)
    left, right, result = types
    a, b, output = dense(left, (37, 50)), dense(right, (50, 70)), dense(result, (37, 70))
    found = families(product_of(a, b, output, accumulator=accumulator))
    assert ("cublaslt" in found) == served
    test_matmul.check(ISA, rng, a, b, output, (), accumulator)


@pytest.mark.parametrize(("batch", "calls", "copies"), [(3, 3, 0), (9, 1, 2)])
def test_batches_that_are_no_sequence(batch, calls, copies):
    rng = np.random.default_rng(1)
    heads, length, width = 12, 64, 80

    def heads_first():
        return dense(F32, (batch, length, heads, width)).transpose((0, 2, 1, 3))

    query, key, value = heads_first(), heads_first().transpose((0, 1, 3, 2)), heads_first()
    scores = dense(F32, (batch, heads, length, length))
    found = families(product_of(query, key, scores))
    assert (found.count("cublaslt"), len(found)) == (calls, calls + copies)
    test_matmul.check(ISA, rng, query, key, scores, (), F32)
    found = families(product_of(scores, value, heads_first()))
    # The values are copied before, the result after.
    assert (found.count("cublaslt"), len(found)) == (calls, calls + copies)
    test_matmul.check(ISA, rng, scores, value, heads_first(), (), F32)


def test_small_products_in_several_steps_are_ours():
    view = dense(F32, (12, 5, 3, 4)).transpose((0, 2, 1, 3))
    assert families(product_of(view, view.transpose((0, 1, 3, 2)), dense(F32, (12, 3, 5, 5)))) == ["product"]


@pytest.mark.parametrize("layout", ["stepped", "reversed", "broadcast"])
@pytest.mark.parametrize("constant", [False, True])
def test_operands_that_the_library_cannot_read_are_copied(layout, constant):
    rng = np.random.default_rng(2)
    a = dense(F32, (300, 200))
    if layout == "stepped":
        b = View(Storage(F32, 200 * 500, "stepped"), 0, (200, 250), (500, 2))
    elif layout == "reversed":
        b = View(Storage(F32, 200 * 250, "reversed"), 199 * 250, (200, 250), (-250, 1))
    else:
        b = dense(F32, (200, 1)).expand((200, 250))
    assert families(product_of(a, b, dense(F32, (300, 250))))[1:] == ["cublaslt"]
    test_matmul.check(ISA, rng, a, b, dense(F32, (300, 250)), (), F32, constant=constant)
    stepped = View(Storage(F32, 300 * 500, "stepped"), 0, (300, 250), (500, 2))
    test_matmul.check(ISA, rng, a, b, stepped, (), F32, constant=constant)


def test_a_bias_that_is_not_aligned_is_added_by_a_map():
    storage = Storage(F32, 100, "biases")
    total = expression(SUM, BIAS, ("add", (0, 1), F32))
    for offset, expected in ((4, ["cublaslt"]), (3, ["cublaslt", "map"])):
        bias = View(storage, offset, (1, 40), (40, 1)).expand((30, 40))
        operation = product_of(
            dense(F32, (30, 20)), dense(F32, (20, 40)), dense(F32, (30, 40)), bias, chain=total
        )
        assert families(operation) == expected
        (got,) = run_operation(operation, fill(np.random.default_rng(3), operation.inputs), ISA)
        assert np.isfinite(got).all()


def test_a_residual_of_one_row_in_the_outputs_memory_is_no_bias():
    shared = dense(F32, (1, 64))
    total = expression(SUM, BIAS, ("add", (0, 1), F32))
    a, b = dense(F32, (1, 20)), dense(F32, (20, 64))
    operation = product_of(a, b, shared, shared, chain=total)
    assert families(operation) == ["cublaslt", "map"]
    values = fill(np.random.default_rng(4), (a, b, shared))
    (got,) = run_operation(operation, values, ISA)
    left, right, before = arrays((a, b, shared), values)
    np.testing.assert_allclose(got, left @ right + before, rtol=1e-4, atol=1e-5)


def test_the_librarys_relu_needs_fast_math():
    total = expression(SUM, ("constant", 0, F32), ("max", (0, 1), F32))
    a, b, output = dense(F32, (4, 8)), dense(F32, (8, 16)), dense(F32, (4, 16))
    operation = product_of(a, b, output, chain=total)
    assert [step.kernel.family for step in steps_of(operation)] == ["cublaslt", "map"]
    (step,) = steps_of(operation, "fast")
    assert step.kernel.variant[-1] == "relu"
    values = fill(np.random.default_rng(5), (a, b))
    values[a.storage][3] = np.nan
    (got,) = run_operation(operation, values, ISA)
    assert np.isnan(got[0]).all()
    assert (got[1:] >= 0).all()


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 100), (70, 5)])
@pytest.mark.parametrize("extras", [0, 2])
def test_deep_products_are_cut_into_pieces(rows, columns, extras):
    rng = np.random.default_rng(6)
    a, b = place(rng, (rows, 4500), I32, "gaps"), place(rng, (4500, columns), I32, "swapped")
    output = place(rng, (rows, columns), I32, "stepped")
    others = tuple(place(rng, (1, columns), I32).expand((rows, columns)) for _ in range(extras))
    assert families(product_of(a, b, output, *others, accumulator=I32)) == ["product", "map"]
    test_matmul.check(ISA, rng, a, b, output, others, I32)


@pytest.mark.parametrize("dtype", [DType.INT8, DType.INT16, DType.INT64])
def test_integers_wrap_in_every_tile_shape(dtype):
    rng = np.random.default_rng(7)
    for rows, columns in ((5, 300), (300, 5), (70, 80)):
        a = place(rng, (rows, 33), dtype)
        b = View(Storage(dtype, 33 * columns, "reversed"), 33 * columns - 1, (33, columns), (-columns, -1))
        test_matmul.check(ISA, rng, a, b, place(rng, (rows, columns), dtype), (), dtype)


@pytest.fixture
def long_offsets(monkeypatch):
    for module in (conv, depthwise, pool, product):
        monkeypatch.setattr(module, "index_type", lambda points, axes: "long long")


def test_offsets_of_64_bits(long_offsets):
    rng = np.random.default_rng(8)
    a, b = place(rng, (2, 20, 30), I32), place(rng, (2, 30, 70), I32)
    test_matmul.check(ISA, rng, a, b, place(rng, (2, 20, 70), I32), (), I32)
    for groups in (1, 6):
        x, w = place(rng, (2, 7, 6, 6), F32), place(rng, (3, 3, 6 // groups, 12), F32)
        test_conv.check(ISA, x, w, place(rng, (2, 7, 6, 12), F32), pads=(1, 1), groups=groups)
    for kind in test_pool.KINDS:
        test_pool.check(ISA, rng, kind, F32, test_pool.CASES[1], 5, "reversed", "gaps")


def convolution(x, w, output, *extras, groups=1, strides=(1, 1), pads=(0, 0), accumulator=F32):
    chain = epilogue(accumulator, output.dtype, len(extras)) if extras else None
    return Operation(Conv(strides, (1, 1), pads, groups, accumulator, chain), (x, w, *extras), (output,))


def test_one_by_one_convolutions_are_products_of_the_library():
    x, w, output = dense(F16, (2, 14, 14, 64)), dense(F16, (1, 1, 64, 32)), dense(F16, (2, 14, 14, 32))
    (step,) = steps_of(convolution(x, w, output))
    assert step.kernel.variant == ("float16", "float16", "float16", False, False, "none")
    assert step.parameters == (1, 392, 32, 64, 64, 32, 32, 0, 0, 0)
    (step,) = steps_of(convolution(x, w, dense(F16, (2, 7, 7, 32)), strides=(2, 2)))
    assert step.parameters == (14, 7, 32, 64, 128, 32, 32, 1792, 0, 224)
    x, w, output = dense(F32, (3, 33, 33, 96)), dense(F32, (1, 1, 96, 128)), dense(F32, (3, 17, 17, 128))
    assert families(convolution(x, w, output, strides=(2, 2)))[1:] == ["cublaslt"]
    test_conv.check(ISA, x, w, output, strides=(2, 2))
    small = dense(I32, (2, 4, 4, 6))
    found = families(convolution(small, dense(I32, (1, 1, 6, 5)), dense(I32, (2, 4, 4, 5)), accumulator=I32))
    assert found == ["conv"]


def test_deep_convolutions_are_cut_into_pieces():
    rng = np.random.default_rng(9)
    x, w = dense(F32, (1, 5, 6, 160)), place(rng, (3, 3, 160, 70), F32, "gaps")
    output, residual = place(rng, (1, 5, 6, 70), F32, "gaps"), dense(F32, (1, 5, 6, 70))
    assert families(convolution(x, w, output, residual, pads=(1, 1)))[-2:] == ["conv", "map"]
    for constant_weights in (False, True):
        test_conv.check(ISA, x, w, output, (residual,), pads=(1, 1), constant=constant_weights)


def test_many_channels_that_are_no_neighbours_are_copied():
    x = dense(F32, (2, 40, 6, 6)).transpose((0, 2, 3, 1))
    w, output = dense(F32, (3, 3, 40, 20)), dense(F32, (2, 6, 6, 20))
    assert families(convolution(x, w, output, pads=(1, 1)))[1:2] == ["conv"]
    few = dense(F32, (2, 3, 6, 6)).transpose((0, 2, 3, 1))
    assert families(convolution(few, dense(F32, (3, 3, 3, 20)), output, pads=(1, 1))) == ["conv"]


@pytest.mark.parametrize(
    ("channels", "features", "expected"),
    [(1, 1, "depthwise"), (1, 40, "depthwise"), (4, 4, "depthwise"), (32, 32, "conv")],
)
def test_groups_of_few_channels_are_computed_directly(channels, features, expected):
    groups = 3
    x = dense(F32, (2, 5, 5, groups * channels)).slice(1, 4, 5, -1)
    w, output = dense(F32, (3, 3, channels, groups * features)), dense(F32, (2, 5, 5, groups * features))
    assert families(convolution(x, w, output, pads=(1, 1), groups=groups))[0] == expected
    test_conv.check(ISA, x, w, output, pads=(1, 1), groups=groups)
