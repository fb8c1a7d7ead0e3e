# ruff: noqa: E501
from transforming import Sketch, transform

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.passes.bind_outputs import bind_outputs
from onnxplan.compiler.passes.elide_copies import elide_copies


def test_producers_write_into_concatenations():
    b = Sketch()
    x = b.input("x", 2, 4)
    inner = b.concat([b.scalar("exp", x), x], 1)
    parts = [b.matmul(x, b.weights("w", 4, 3)), b.matmul(x, b.weights("v", 4, 2)), inner]
    transform(
        b.program(y=b.concat(parts, 1)),
        elide_copies,
        """
        %2:float32[2, 4] = map[exp(x0)](x:float32[2, 4])
        %3:float32[2, 4]@0[8, 1] = copy[x0](%2:float32[2, 4])
        %3:float32[2, 4]@4[8, 1] = copy[x0](x:float32[2, 4])
        %4:float32[2, 3] = matmul[accumulator=float32](x:float32[2, 4], w:float32[4, 3])
        %5:float32[2, 2] = matmul[accumulator=float32](x:float32[2, 4], v:float32[4, 2])
        %6:float32[2, 3]@0[13, 1] = copy[x0](%4:float32[2, 3])
        %6:float32[2, 2]@3[13, 1] = copy[x0](%5:float32[2, 2])
        %6:float32[2, 8]@5[13, 1] = copy[x0](%3:float32[2, 8])
        """,
        """
        %6:float32[2, 4]@5[13, 1] = map[exp(x0)](x:float32[2, 4])
        %6:float32[2, 4]@9[13, 1] = copy[x0](x:float32[2, 4])
        %6:float32[2, 3]@0[13, 1] = matmul[accumulator=float32](x:float32[2, 4], w:float32[4, 3])
        %6:float32[2, 2]@3[13, 1] = matmul[accumulator=float32](x:float32[2, 4], v:float32[4, 2])
        """,
    )


def test_heads_are_written_side_by_side():
    b = Sketch()
    heads = b.matmul(b.input("p", 1, 2, 3, 3), b.input("v", 1, 2, 3, 4))
    merged = b.copy(heads.transpose((0, 2, 1, 3))).reshape((3, 8))
    transform(
        b.program(y=b.matmul(merged, b.weights("w", 8, 2))),
        elide_copies,
        """
        %3:float32[1, 2, 3, 4] = matmul[accumulator=float32](p:float32[1, 2, 3, 3], v:float32[1, 2, 3, 4])
        %4:float32[1, 3, 2, 4] = copy[x0](%3:float32[1, 3, 2, 4]@0[24, 4, 12, 1])
        %5:float32[3, 2] = matmul[accumulator=float32](%4:float32[3, 8], w:float32[8, 2])
        """,
        """
        %4:float32[1, 2, 3, 4]@0[0, 4, 8, 1] = matmul[accumulator=float32](p:float32[1, 2, 3, 3], v:float32[1, 2, 3, 4])
        %5:float32[3, 2] = matmul[accumulator=float32](%4:float32[3, 8], w:float32[8, 2])
        """,
    )


def test_outputs_are_written_at_once():
    b = Sketch()
    y = b.reduce("sum", b.input("x", 2, 3, 4), (2,), keepdims=False)
    transform(
        bind_outputs(b.program(y=y.transpose((1, 0)))),
        elide_copies,
        """
        %2:float32[2, 3, 1] = reduce[reduce_sum(x0) over 2](x:float32[2, 3, 4])
        y:float32[3, 2] = copy[x0](%2:float32[3, 2]@0[1, 3])
        """,
        """
        y:float32[2, 3, 1]@0[1, 2, 0] = reduce[reduce_sum(x0) over 2](x:float32[2, 3, 4])
        """,
    )


def test_readers_read_the_source():
    b = Sketch()
    turned = b.copy(b.input("x", 4, 3).transpose((1, 0)))
    transform(
        b.program(y=b.matmul(turned, b.weights("w", 4, 2))),
        elide_copies,
        """
        %2:float32[3, 4] = copy[x0](x:float32[3, 4]@0[1, 3])
        %3:float32[3, 2] = matmul[accumulator=float32](%2:float32[3, 4], w:float32[4, 2])
        """,
        """
        %3:float32[3, 2] = matmul[accumulator=float32](x:float32[3, 4]@0[1, 3], w:float32[4, 2])
        """,
    )


def test_rows_are_not_read_as_columns():
    """A reduction along rows would step from row to row; the copy pays."""
    b = Sketch()
    turned = b.copy(b.input("x", 4, 3).transpose((1, 0)))
    program = b.program(y=b.reduce("sum", turned, (1,), keepdims=False))
    before = str(program)
    assert str(elide_copies(program)) == before


def test_products_do_not_write_columns():
    b = Sketch()
    program = b.program(y=b.copy(b.matmul(b.input("x", 4, 3), b.weights("w", 3, 4)).transpose((1, 0))))
    before = str(program)
    assert str(elide_copies(program)) == before


def test_a_source_that_others_read_is_copied():
    b = Sketch()
    y = b.scalar("exp", b.input("x", 2, 3))
    program = b.program(y=y, z=b.concat([y, b.inputs["x"]], 0))
    before = str(program)
    assert str(elide_copies(program)) == before


def test_copies_of_parts_stay_where_the_whole_is_written():
    b = Sketch()
    y = b.scalar("exp", b.input("x", 4, 3))
    program = b.program(y=b.copy(y.slice(0, 1, 2)))
    before = str(program)
    assert str(elide_copies(program)) == before


def test_what_fills_the_ground_is_not_overtaken():
    """The copy overwrites a part of the fill, so the operation may not write before it."""
    b = Sketch()
    y = b.scalar("exp", b.input("x", 3, 3))
    ground = b.new(DType.FLOAT32, (5, 5))
    b.fill_into(0.0, ground)
    b.copy_into(y, ground.slice(0, 1, 3).slice(1, 1, 3))
    program = b.program(z=ground)
    before = str(program)
    assert str(elide_copies(program)) == before
