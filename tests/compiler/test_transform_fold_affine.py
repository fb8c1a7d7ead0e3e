# ruff: noqa: E501
import numpy as np
from transforming import Sketch, transform

from onnxplan.compiler.constant_pool import ConstantPool
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expressions import scalar_expression
from onnxplan.compiler.passes.bind_outputs import bind_outputs
from onnxplan.compiler.passes.fold_affine import fold_affine
from onnxplan.compiler.primitives import Conv, MapReduce


def fold(program):
    return fold_affine(program, ConstantPool())


def convolution(b):
    """Bias, then BatchNormalization in channels-first order, then ReLU."""
    x = b.input("x", 1, 4, 4, 2)
    primitive = Conv((1, 1), (1, 1), (0, 0), 1, DType.FLOAT32)
    result = b.new(DType.FLOAT32, (1, 2, 2, 3))
    y = b.emit(primitive, [x, b.weights("w", 3, 3, 2, 3)], [result])[0]
    y = b.scalar("add", y, b.weights("bias", 3)).transpose((0, 3, 1, 2))
    y = b.map(lambda v, s, t: v * s + t, y, b.weights("scale", 3, 1, 1), b.weights("shift", 3, 1, 1))
    return b.program(y=b.scalar("max", y, b.number(0)))


def product(b):
    return b.matmul(b.input("x", 2, 4), b.weights("w", 4, 3))


def test_batch_normalization_moves_into_the_weights():
    transform(
        convolution(Sketch()),
        fold,
        """
        %2:float32[1, 2, 2, 3] = conv[strides=1x1, dilations=1x1, pads=0x0, groups=1, accumulator=float32](x:float32[1, 4, 4, 2], w:float32[3, 3, 2, 3])
        %3:float32[1, 2, 2, 3] = map[add(x0, x1)](%2:float32[1, 2, 2, 3], bias:float32[1, 2, 2, 3]@0[0, 0, 0, 1])
        %4:float32[1, 3, 2, 2]@0[12, 1, 6, 3] = map[add(mul(x0, x1), x2)](%3:float32[1, 3, 2, 2]@0[12, 1, 6, 3], scale:float32[1, 3, 2, 2]@0[0, 1, 0, 0], shift:float32[1, 3, 2, 2]@0[0, 1, 0, 0])
        %5:float32[1, 3, 2, 2]@0[12, 1, 6, 3] = map[max(x0, x1)](%4:float32[1, 3, 2, 2]@0[12, 1, 6, 3], number:float32[1, 3, 2, 2]@0[0, 0, 0, 0])
        """,
        """
        %4:float32[1, 2, 2, 3] = conv[strides=1x1, dilations=1x1, pads=0x0, groups=1, accumulator=float32, epilogue=add(x0, x1)](x:float32[1, 4, 4, 2], w:scaled:float32[3, 3, 2, 3], w:shift:float32[1, 2, 2, 3]@0[0, 0, 0, 1])
        %5:float32[1, 3, 2, 2]@0[12, 1, 6, 3] = map[max(x0, x1)](%4:float32[1, 3, 2, 2]@0[12, 1, 6, 3], number:float32[1, 3, 2, 2]@0[0, 0, 0, 0])
        """,
    )


def test_weights_are_folded_once_for_all_plans():
    pool = ConstantPool()
    folded = []
    for _ in range(2):
        program = convolution(Sketch())
        for operation in program.operations:
            for view in operation.inputs:
                if view.storage.name == "w":
                    view.storage.key = "initializer:w"
        folded.append(fold_affine(program, pool).operations[0].inputs[1])
    assert folded[0].storage is folded[1].storage


def test_weights_are_computed_in_float64():
    b = Sketch()
    w, s = b.weights("w", 4, 3), b.weights("s", 3)
    expected = w.numpy().astype(np.float64) * s.numpy()
    program = fold(b.program(y=b.scalar("mul", b.matmul(b.input("x", 2, 4), w), s)))
    folded = program.operations[0].inputs[1].numpy()
    np.testing.assert_array_equal(folded, expected.astype(np.float32))


def test_all_kinds_of_steps():
    b = Sketch()
    y = b.scalar("sub", b.number(1), b.scalar("div", product(b), b.weights("d", 3)))
    transform(
        b.program(y=b.scalar("neg", b.scalar("mul", b.weights("m", 3), y))),
        fold,
        """
        %2:float32[2, 3] = matmul[accumulator=float32](x:float32[2, 4], w:float32[4, 3])
        %3:float32[2, 3] = map[div(x0, x1)](%2:float32[2, 3], d:float32[2, 3]@0[0, 1])
        %4:float32[2, 3] = map[sub(x0, x1)](number:float32[2, 3]@0[0, 0], %3:float32[2, 3])
        %5:float32[2, 3] = map[mul(x0, x1)](m:float32[2, 3]@0[0, 1], %4:float32[2, 3])
        %6:float32[2, 3] = map[neg(x0)](%5:float32[2, 3])
        """,
        """
        %2:float32[2, 3] = matmul[accumulator=float32](x:float32[2, 4], w:scaled:float32[4, 3])
        %6:float32[2, 3] = map[add(x0, x1)](%2:float32[2, 3], w:shift:float32[2, 3]@0[0, 1])
        """,
    )


def test_a_scale_alone_leaves_a_copy():
    b = Sketch()
    transform(
        b.program(y=b.scalar("neg", b.scalar("div", product(b), b.number(4)))),
        fold,
        """
        %2:float32[2, 3] = matmul[accumulator=float32](x:float32[2, 4], w:float32[4, 3])
        %3:float32[2, 3] = map[div(x0, x1)](%2:float32[2, 3], number:float32[2, 3]@0[0, 0])
        %4:float32[2, 3] = map[neg(x0)](%3:float32[2, 3])
        """,
        """
        %2:float32[2, 3] = matmul[accumulator=float32](x:float32[2, 4], w:scaled:float32[4, 3])
        %4:float32[2, 3] = copy[x0](%2:float32[2, 3])
        """,
    )


def test_a_bias_alone_stays():
    b = Sketch()
    transform(
        b.program(y=b.scalar("add", product(b), b.weights("bias", 3))),
        fold,
        """
        %2:float32[2, 3] = matmul[accumulator=float32](x:float32[2, 4], w:float32[4, 3])
        %3:float32[2, 3] = map[add(x0, x1)](%2:float32[2, 3], bias:float32[2, 3]@0[0, 1])
        """,
        """
        %2:float32[2, 3] = matmul[accumulator=float32](x:float32[2, 4], w:float32[4, 3])
        %3:float32[2, 3] = map[add(x0, x1)](%2:float32[2, 3], bias:float32[2, 3]@0[0, 1])
        """,
    )


def test_a_bias_alone_becomes_the_epilogue_of_a_convolution():
    b = Sketch()
    primitive = Conv((1,), (1,), (0,), 1, DType.FLOAT32)
    x, w = b.input("x", 1, 4, 2), b.weights("w", 3, 2, 3)
    y = b.emit(primitive, [x, w], [b.new(DType.FLOAT32, (1, 2, 3))])[0]
    transform(
        b.program(y=b.scalar("add", y, b.weights("bias", 3))),
        fold,
        """
        %2:float32[1, 2, 3] = conv[strides=1, dilations=1, pads=0, groups=1, accumulator=float32](x:float32[1, 4, 2], w:float32[3, 2, 3])
        %3:float32[1, 2, 3] = map[add(x0, x1)](%2:float32[1, 2, 3], bias:float32[1, 2, 3]@0[0, 0, 1])
        """,
        """
        %3:float32[1, 2, 3] = conv[strides=1, dilations=1, pads=0, groups=1, accumulator=float32, epilogue=add(x0, x1)](x:float32[1, 4, 2], w:float32[3, 2, 3], bias:float32[1, 2, 3]@0[0, 0, 1])
        """,
    )


def test_a_bias_that_is_written_between_zeros_stays_a_map():
    b = Sketch()
    primitive = Conv((1,), (1,), (0,), 1, DType.FLOAT32)
    x, w = b.input("x", 1, 4, 2), b.weights("w", 3, 2, 3)
    y = b.emit(primitive, [x, w], [b.new(DType.FLOAT32, (1, 2, 3))])[0]
    padded = b.new(DType.FLOAT32, (1, 4, 3))
    for start, length in ((0, 1), (3, 1)):
        b.fill_into(0, padded.slice(1, start, length))
    inputs = [y, b.weights("bias", 3).expand(y.shape)]
    expression = scalar_expression("add", (DType.FLOAT32,) * 2)
    b.emit_into(MapReduce(expression, y.shape), inputs, padded.slice(1, 1, 2))
    program = b.program(y=padded)
    before = str(program)
    assert str(fold(program)) == before


def test_a_copy_into_another_order_stays_behind_the_bias():
    b = Sketch()
    y = b.scalar("add", product(b), b.weights("bias", 3)).transpose((1, 0))
    text = """
    %2:float32[2, 3] = matmul[accumulator=float32](x:float32[2, 4], w:float32[4, 3])
    %3:float32[2, 3] = map[add(x0, x1)](%2:float32[2, 3], bias:float32[2, 3]@0[0, 1])
    y:float32[3, 2] = copy[x0](%3:float32[3, 2]@0[1, 3])
    """
    transform(bind_outputs(b.program(y=y)), fold, text, text)


def test_nothing_folds_where_the_sum_is_read_twice():
    b = Sketch()
    y = product(b)
    program = b.program(y=b.scalar("mul", y, b.weights("s", 3)), z=b.scalar("exp", y))
    before = str(program)
    assert str(fold(program)) == before


def test_nothing_folds_that_differs_by_row():
    b = Sketch()
    program = b.program(y=b.scalar("mul", product(b), b.weights("s", 2, 1)))
    before = str(program)
    assert str(fold(program)) == before


def test_nothing_folds_that_is_not_constant_or_not_finite():
    b = Sketch()
    program = b.program(
        y=b.scalar("mul", product(b), b.input("s", 3)),
        z=b.scalar("mul", b.matmul(b.inputs["x"], b.weights("v", 4, 3)), b.number(np.inf)),
    )
    before = str(program)
    assert str(fold(program)) == before
