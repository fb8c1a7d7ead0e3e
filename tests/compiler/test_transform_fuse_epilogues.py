# ruff: noqa: E501
import numpy as np
from transforming import Sketch, transform

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.passes.fuse_epilogues import fuse_epilogues
from onnxplan.compiler.passes.fuse_maps import fuse_maps
from onnxplan.compiler.passes.inline_scalars import inline_scalars
from onnxplan.compiler.primitives import Conv


def conv(b, x, w, pad=0):
    primitive = Conv((1, 1), (1, 1), (pad, pad), 1, DType.FLOAT32)
    return b.emit(primitive, [x, w], [b.new(DType.FLOAT32, (*x.shape[:3], w.shape[-1]))])[0]


def test_bias_and_activation():
    b = Sketch()
    y = b.scalar("add", b.matmul(b.input("x", 4, 4), b.weights("w", 4, 3)), b.weights("bias", 3))
    program = fuse_maps(inline_scalars(b.program(y=b.scalar("max", y, b.number(0)))))
    transform(
        program,
        fuse_epilogues,
        """
        %2:float32[4, 3] = matmul[accumulator=float32](x:float32[4, 4], w:float32[4, 3])
        %4:float32[4, 3] = map[max(add(x0, x1), 0)](%2:float32[4, 3], bias:float32[4, 3]@0[0, 1])
        """,
        """
        %4:float32[4, 3] = matmul[accumulator=float32, epilogue=max(add(x0, x1), 0)](x:float32[4, 4], w:float32[4, 3], bias:float32[4, 3]@0[0, 1])
        """,
    )


def test_epilogues_grow():
    b = Sketch()
    y = b.scalar("add", b.matmul(b.input("x", 4, 4), b.weights("w", 4, 3)), b.weights("bias", 3))
    transform(
        b.program(y=b.scalar("mul", b.scalar("exp", y), b.input("y", 4, 1))),
        fuse_epilogues,
        """
        %2:float32[4, 3] = matmul[accumulator=float32](x:float32[4, 4], w:float32[4, 3])
        %3:float32[4, 3] = map[add(x0, x1)](%2:float32[4, 3], bias:float32[4, 3]@0[0, 1])
        %4:float32[4, 3] = map[exp(x0)](%3:float32[4, 3])
        %6:float32[4, 3] = map[mul(x0, x1)](%4:float32[4, 3], y:float32[4, 3]@0[1, 0])
        """,
        """
        %6:float32[4, 3] = matmul[accumulator=float32, epilogue=mul(exp(add(x0, x1)), x2)](x:float32[4, 4], w:float32[4, 3], bias:float32[4, 3]@0[0, 1], y:float32[4, 3]@0[1, 0])
        """,
    )


def test_a_residual_goes_to_the_later_product_whatever_the_order_of_axes():
    b = Sketch()
    x = b.input("x", 1, 4, 4, 2)
    left = b.scalar("add", conv(b, x, b.weights("v", 1, 1, 2, 2)), b.weights("c", 2))
    activated = b.scalar("max", x, b.number(0))
    right = b.scalar("add", conv(b, activated, b.weights("w", 3, 3, 2, 2), 1), b.weights("d", 2))
    total = b.scalar("add", right.transpose((0, 3, 1, 2)), left.transpose((0, 3, 1, 2)))
    program = b.program(y=b.scalar("max", total, b.number(0)).transpose((0, 2, 3, 1)))
    transform(
        fuse_maps(inline_scalars(program)),
        fuse_epilogues,
        """
        %2:float32[1, 4, 4, 2] = conv[strides=1x1, dilations=1x1, pads=0x0, groups=1, accumulator=float32](x:float32[1, 4, 4, 2], v:float32[1, 1, 2, 2])
        %3:float32[1, 4, 4, 2] = map[add(x0, x1)](%2:float32[1, 4, 4, 2], c:float32[1, 4, 4, 2]@0[0, 0, 0, 1])
        %4:float32[1, 4, 4, 2] = map[max(x0, 0)](x:float32[1, 4, 4, 2])
        %5:float32[1, 4, 4, 2] = conv[strides=1x1, dilations=1x1, pads=1x1, groups=1, accumulator=float32](%4:float32[1, 4, 4, 2], w:float32[3, 3, 2, 2])
        %8:float32[1, 2, 4, 4]@0[32, 1, 8, 2] = map[max(add(add(x0, x1), x2), 0)](%5:float32[1, 2, 4, 4]@0[0, 1, 8, 2], d:float32[1, 2, 4, 4]@0[0, 1, 0, 0], %3:float32[1, 2, 4, 4]@0[32, 1, 8, 2])
        """,
        """
        %3:float32[1, 4, 4, 2] = conv[strides=1x1, dilations=1x1, pads=0x0, groups=1, accumulator=float32, epilogue=add(x0, x1)](x:float32[1, 4, 4, 2], v:float32[1, 1, 2, 2], c:float32[1, 4, 4, 2]@0[0, 0, 0, 1])
        %4:float32[1, 4, 4, 2] = map[max(x0, 0)](x:float32[1, 4, 4, 2])
        %8:float32[1, 4, 4, 2] = conv[strides=1x1, dilations=1x1, pads=1x1, groups=1, accumulator=float32, epilogue=max(add(add(x0, x1), x2), 0)](%4:float32[1, 4, 4, 2], w:float32[3, 3, 2, 2], d:float32[1, 4, 4, 2]@0[0, 0, 0, 1], %3:float32[1, 4, 4, 2])
        """,
    )


def test_sums_are_rounded_before_the_map_sees_them():
    b = Sketch()
    x = b.input("x", 4, 4, dtype=DType.FLOAT16)
    y = b.matmul(x, b.weights("w", 4, 3, dtype=np.float16))
    transform(
        b.program(y=b.scalar("tanh", y)),
        fuse_epilogues,
        """
        %2:float16[4, 3] = matmul[accumulator=float32](x:float16[4, 4], w:float16[4, 3])
        %3:float16[4, 3] = map[tanh(x0)](%2:float16[4, 3])
        """,
        """
        %3:float16[4, 3] = matmul[accumulator=float32, epilogue=tanh(cast<float16>(x0))](x:float16[4, 4], w:float16[4, 3])
        """,
    )


def test_results_may_be_written_into_a_part_of_a_storage():
    b = Sketch()
    x = b.input("x", 4, 4)
    y = b.scalar("neg", b.matmul(x, b.weights("w", 4, 3)))
    transform(
        fuse_maps(b.program(y=b.concat([y, x], 1))),
        fuse_epilogues,
        """
        %2:float32[4, 3] = matmul[accumulator=float32](x:float32[4, 4], w:float32[4, 3])
        %4:float32[4, 3]@0[7, 1] = map[neg(x0)](%2:float32[4, 3])
        %4:float32[4, 4]@3[7, 1] = copy[x0](x:float32[4, 4])
        """,
        """
        %4:float32[4, 3]@0[7, 1] = matmul[accumulator=float32, epilogue=neg(x0)](x:float32[4, 4], w:float32[4, 3])
        %4:float32[4, 4]@3[7, 1] = copy[x0](x:float32[4, 4])
        """,
    )


def test_what_is_no_epilogue():
    """Reading a result twice, in part, repeatedly, or writing its columns apart."""
    b = Sketch()
    x, w = b.input("x", 4, 4), b.weights("w", 4, 4)
    twice, part, turned, spread, shared = (b.matmul(x, w) for _ in range(5))
    program = b.program(
        twice=b.scalar("add", twice, twice.transpose((1, 0))),
        part=b.scalar("neg", part.slice(0, 1, 2)),
        turned=b.copy(turned.transpose((1, 0))),
        spread=b.scalar("add", spread.unsqueeze((0,)), b.input("y", 2, 1, 1)),
        shared=shared,
        reader=b.scalar("neg", shared),
    )
    before = str(program)
    assert str(fuse_epilogues(program)) == before


def test_views_that_the_products_axes_cannot_express():
    """The product's rows are batch and position at once; a factor for each batch has no stride there."""
    b = Sketch()
    y = b.matmul(b.input("x", 2, 3, 4), b.weights("w", 4, 5))
    program = b.program(y=b.scalar("mul", y, b.input("m", 2, 1, 1)))
    before = str(program)
    assert str(fuse_epilogues(program)) == before
