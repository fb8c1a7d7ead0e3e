# ruff: noqa: E501
from transforming import Sketch, transform

from onnxplan.compiler.passes.eliminate_dead import eliminate_dead
from onnxplan.compiler.trace import reduce


def test_what_no_output_depends_on_goes():
    b = Sketch()
    y = b.scalar("neg", b.input("x", 4))
    b.scalar("abs", y)
    transform(
        b.program(y=y),
        eliminate_dead,
        """
        %2:float32[4] = map[neg(x0)](x:float32[4])
        %3:float32[4] = map[abs(x0)](%2:float32[4])
        """,
        """
        %2:float32[4] = map[neg(x0)](x:float32[4])
        """,
    )


def test_maps_compute_only_what_is_read():
    b = Sketch()
    total, _ = b.compute(lambda v, w: (reduce("sum", v), v * w), (b.input("x", 2, 3), b.input("w", 3)), (1,))
    transform(
        b.program(total=total),
        eliminate_dead,
        """
        %3:float32[2, 1], %4:float32[2, 3] = norm[reduce_sum(x0), mul(x0, x1) over 1](x:float32[2, 3], w:float32[2, 3]@0[0, 1])
        """,
        """
        %3:float32[2, 1] = reduce[reduce_sum(x0) over 1](x:float32[2, 3])
        """,
    )


def test_maps_that_reduce_no_more_lose_their_axes():
    b = Sketch()
    _, product = b.compute(
        lambda v, w: (reduce("sum", v), v * w), (b.input("x", 2, 3), b.input("w", 3)), (1,)
    )
    program = transform(
        b.program(product=product),
        eliminate_dead,
        """
        %3:float32[2, 1], %4:float32[2, 3] = norm[reduce_sum(x0), mul(x0, x1) over 1](x:float32[2, 3], w:float32[2, 3]@0[0, 1])
        """,
        """
        %4:float32[2, 3] = map[mul(x0, x1)](x:float32[2, 3], w:float32[2, 3]@0[0, 1])
        """,
    )
    assert program.operations[0].primitive.axes == ()


def test_empty_tensors_need_no_work():
    b = Sketch()
    transform(
        b.program(y=b.scalar("neg", b.input("x", 0, 4))),
        eliminate_dead,
        """
        %2:float32[0, 4] = map[neg(x0)](x:float32[0, 4])
        """,
        "",
    )
