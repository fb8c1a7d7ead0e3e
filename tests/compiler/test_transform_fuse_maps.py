# ruff: noqa: E501
from transforming import Sketch, transform

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.passes.fuse_maps import fuse_maps
from onnxplan.compiler.passes.inline_scalars import inline_scalars
from onnxplan.compiler.trace import cast, index


def test_a_chain_becomes_one_map():
    b = Sketch()
    y = b.scalar("exp", b.scalar("neg", b.input("x", 2, 3)))
    transform(
        inline_scalars(b.program(y=b.scalar("add", y, b.number(1)))),
        fuse_maps,
        """
        %2:float32[2, 3] = map[neg(x0)](x:float32[2, 3])
        %3:float32[2, 3] = map[exp(x0)](%2:float32[2, 3])
        %4:float32[2, 3] = map[add(x0, 1)](%3:float32[2, 3])
        """,
        """
        %4:float32[2, 3] = map[add(exp(neg(x0)), 1)](x:float32[2, 3])
        """,
    )


def test_views_in_between_are_composed():
    b = Sketch()
    y = b.scalar("add", b.input("x", 4, 6), b.input("b", 6))
    seen = y.reshape((2, 2, 6)).transpose((0, 2, 1)).slice(1, 4, 3, -2)
    transform(
        b.program(y=b.scalar("exp", seen)),
        fuse_maps,
        """
        %3:float32[4, 6] = map[add(x0, x1)](x:float32[4, 6], b:float32[4, 6]@0[0, 1])
        %4:float32[2, 3, 2]@0[6, 1, 3] = map[exp(x0)](%3:float32[2, 3, 2]@4[12, -2, 6])
        """,
        """
        %4:float32[2, 3, 2]@0[6, 1, 3] = map[exp(add(x0, x1))](x:float32[2, 3, 2]@4[12, -2, 6], b:float32[2, 3, 2]@4[0, -2, 0])
        """,
    )


def test_axes_are_split_to_follow_the_producer():
    b = Sketch()
    y = b.scalar("add", b.input("x", 4, 6), b.input("b", 6))
    transform(
        b.program(y=b.scalar("exp", y.reshape((24,)))),
        fuse_maps,
        """
        %3:float32[4, 6] = map[add(x0, x1)](x:float32[4, 6], b:float32[4, 6]@0[0, 1])
        %4:float32[24] = map[exp(x0)](%3:float32[24])
        """,
        """
        %4:float32[4, 6] = map[exp(add(x0, x1))](x:float32[4, 6], b:float32[4, 6]@0[0, 1])
        """,
    )


def test_coordinates_are_told_in_the_new_space():
    b = Sketch()
    y = b.map(lambda v: v + cast(index(v, 1), DType.FLOAT32), b.input("x", 4, 6))
    transform(
        b.program(y=b.scalar("exp", y.transpose((1, 0)).slice(0, 5, 3, -2))),
        fuse_maps,
        """
        %2:float32[4, 6] = map[add(x0, cast<float32>(i1))](x:float32[4, 6])
        %3:float32[3, 4]@0[1, 3] = map[exp(x0)](%2:float32[3, 4]@5[-2, 6])
        """,
        """
        %3:float32[3, 4]@0[1, 3] = map[exp(add(x0, cast<float32>(add(mul(i0, -2), 5))))](x:float32[3, 4]@5[-2, 6])
        """,
    )


def test_coordinates_along_split_axes():
    b = Sketch()
    y = b.scalar("add", b.input("x", 4, 6), b.input("b", 6)).reshape((24,))
    y = b.map(lambda v: v + cast(index(v, 0), DType.FLOAT32), y)
    transform(
        b.program(y=y),
        fuse_maps,
        """
        %3:float32[4, 6] = map[add(x0, x1)](x:float32[4, 6], b:float32[4, 6]@0[0, 1])
        %4:float32[24] = map[add(x0, cast<float32>(i0))](%3:float32[24])
        """,
        """
        %4:float32[4, 6] = map[add(add(x0, x1), cast<float32>(add(mul(i0, 6), i1)))](x:float32[4, 6], b:float32[4, 6]@0[0, 1])
        """,
    )


def test_what_strides_cannot_express_stays():
    b = Sketch()
    y = b.scalar("add", b.input("x", 4, 6), b.input("b", 6))
    program = b.program(y=b.scalar("exp", y.reshape((3, 8))))
    before = str(program)
    assert str(fuse_maps(program)) == before


def test_only_cheap_work_is_repeated_along_broadcast_axes():
    b = Sketch()
    x, y = b.input("x", 4, 1), b.input("y", 4, 6)
    outputs = {"y": b.scalar("add", b.scalar("exp", x), y), "z": b.scalar("add", b.scalar("neg", x), y)}
    transform(
        b.program(**outputs),
        fuse_maps,
        """
        %3:float32[4, 1] = map[exp(x0)](x:float32[4, 1])
        %4:float32[4, 6] = map[add(x0, x1)](%3:float32[4, 6]@0[1, 0], y:float32[4, 6])
        %5:float32[4, 1] = map[neg(x0)](x:float32[4, 1])
        %6:float32[4, 6] = map[add(x0, x1)](%5:float32[4, 6]@0[1, 0], y:float32[4, 6])
        """,
        """
        %3:float32[4, 1] = map[exp(x0)](x:float32[4, 1])
        %4:float32[4, 6] = map[add(x0, x1)](%3:float32[4, 6]@0[1, 0], y:float32[4, 6])
        %6:float32[4, 6] = map[add(neg(x0), x1)](x:float32[4, 6]@0[1, 0], y:float32[4, 6])
        """,
    )


def test_cheap_maps_are_computed_by_all_their_readers():
    b = Sketch()
    y = b.scalar("neg", b.input("x", 4))
    transform(
        b.program(a=b.scalar("exp", y), b=b.scalar("abs", y)),
        fuse_maps,
        """
        %2:float32[4] = map[neg(x0)](x:float32[4])
        %3:float32[4] = map[exp(x0)](%2:float32[4])
        %4:float32[4] = map[abs(x0)](%2:float32[4])
        """,
        """
        %3:float32[4] = map[exp(neg(x0))](x:float32[4])
        %4:float32[4] = map[abs(neg(x0))](x:float32[4])
        """,
    )


def test_what_reads_more_than_it_writes_is_stored_for_several_readers():
    b = Sketch()
    y = b.scalar("add", b.input("x", 4), b.input("y", 4))
    program = b.program(a=b.scalar("exp", y), b=b.scalar("abs", y))
    before = str(program)
    assert str(fuse_maps(program)) == before


def test_outputs_of_the_program_are_stored():
    b = Sketch()
    y = b.scalar("neg", b.input("x", 4))
    program = b.program(y=y, z=b.scalar("exp", y))
    before = str(program)
    assert str(fuse_maps(program)) == before


def test_a_diamond_becomes_one_map():
    b = Sketch()
    y = b.scalar("add", b.input("x", 4), b.input("y", 4))
    transform(
        b.program(z=b.scalar("mul", y, b.scalar("sigmoid", y))),
        fuse_maps,
        """
        %3:float32[4] = map[add(x0, x1)](x:float32[4], y:float32[4])
        %4:float32[4] = map[sigmoid(x0)](%3:float32[4])
        %5:float32[4] = map[mul(x0, x1)](%3:float32[4], %4:float32[4])
        """,
        """
        %5:float32[4] = map[t2 = add(x0, x1); mul(t2, sigmoid(t2))](x:float32[4], y:float32[4])
        """,
    )


def test_epilogues_are_not_lost_to_what_cannot_be_one():
    """The addition can be the product's epilogue, a permutation of its columns cannot."""
    b = Sketch()
    y = b.scalar("add", b.matmul(b.input("x", 4, 4), b.weights("w", 4, 4)), b.weights("bias", 4))
    turned = b.copy(y.reshape((4, 2, 2)).transpose((1, 0, 2)))
    transform(
        b.program(y=b.scalar("exp", turned)),
        fuse_maps,
        """
        %2:float32[4, 4] = matmul[accumulator=float32](x:float32[4, 4], w:float32[4, 4])
        %3:float32[4, 4] = map[add(x0, x1)](%2:float32[4, 4], bias:float32[4, 4]@0[0, 1])
        %4:float32[2, 4, 2] = copy[x0](%3:float32[2, 4, 2]@0[2, 4, 1])
        %5:float32[2, 4, 2] = map[exp(x0)](%4:float32[2, 4, 2])
        """,
        """
        %2:float32[4, 4] = matmul[accumulator=float32](x:float32[4, 4], w:float32[4, 4])
        %3:float32[4, 4] = map[add(x0, x1)](%2:float32[4, 4], bias:float32[4, 4]@0[0, 1])
        %5:float32[2, 4, 2] = map[exp(x0)](%3:float32[2, 4, 2]@0[2, 4, 1])
        """,
    )


def test_each_of_two_products_keeps_its_bias():
    b = Sketch()
    x = b.input("x", 4, 4)
    first = b.scalar("add", b.matmul(x, b.weights("v", 4, 4)), b.weights("c", 4))
    second = b.scalar("add", b.matmul(x, b.weights("w", 4, 4)), b.weights("d", 4))
    transform(
        b.program(y=b.scalar("exp", b.scalar("add", first, second))),
        fuse_maps,
        """
        %2:float32[4, 4] = matmul[accumulator=float32](x:float32[4, 4], v:float32[4, 4])
        %3:float32[4, 4] = map[add(x0, x1)](%2:float32[4, 4], c:float32[4, 4]@0[0, 1])
        %4:float32[4, 4] = matmul[accumulator=float32](x:float32[4, 4], w:float32[4, 4])
        %5:float32[4, 4] = map[add(x0, x1)](%4:float32[4, 4], d:float32[4, 4]@0[0, 1])
        %6:float32[4, 4] = map[add(x0, x1)](%3:float32[4, 4], %5:float32[4, 4])
        %7:float32[4, 4] = map[exp(x0)](%6:float32[4, 4])
        """,
        """
        %2:float32[4, 4] = matmul[accumulator=float32](x:float32[4, 4], v:float32[4, 4])
        %3:float32[4, 4] = map[add(x0, x1)](%2:float32[4, 4], c:float32[4, 4]@0[0, 1])
        %4:float32[4, 4] = matmul[accumulator=float32](x:float32[4, 4], w:float32[4, 4])
        %7:float32[4, 4] = map[exp(add(x2, add(x0, x1)))](%4:float32[4, 4], d:float32[4, 4]@0[0, 1], %3:float32[4, 4])
        """,
    )


def test_large_expressions_are_not_fused_without_end():
    b = Sketch()
    y = b.input("x", 4)
    for number in range(40):
        y = b.scalar("add", b.scalar("tanh", y), b.input(f"y{number}", 4))
    program = fuse_maps(b.program(y=y))
    assert 3 < len(program.operations) < 8
    assert max(len(operation.inputs) for operation in program.operations) <= 12
