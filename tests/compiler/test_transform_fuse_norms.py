# ruff: noqa: E501
from transforming import Sketch, transform

from onnxplan.compiler.passes.fuse_epilogues import fuse_epilogues
from onnxplan.compiler.passes.fuse_maps import fuse_maps
from onnxplan.compiler.passes.fuse_norms import fuse_norms
from onnxplan.compiler.passes.inline_scalars import inline_scalars
from onnxplan.compiler.trace import reduce


def prepared(program):
    return fuse_epilogues(fuse_maps(inline_scalars(program)))


def mean(b, x):
    return b.compute(lambda v: reduce("sum", v) * (1 / x.shape[-1]), (x,), (x.rank - 1,))[0]


def test_layer_norm_with_its_residual_kept():
    b = Sketch()
    total = b.scalar("add", b.input("x", 2, 5, 8), b.input("y", 2, 5, 8))
    centered = b.scalar("sub", total, mean(b, total))
    variance = mean(b, b.scalar("mul", centered, centered))
    root = b.scalar("sqrt", b.scalar("add", variance, b.number(1e-5)))
    scaled = b.scalar("mul", b.scalar("div", centered, root), b.weights("gamma", 8))
    y = b.matmul(b.scalar("add", scaled, b.weights("beta", 8)), b.weights("w", 8, 8))
    transform(
        prepared(b.program(y=b.scalar("add", y, total))),
        fuse_norms,
        """
        %3:float32[2, 5, 8] = map[add(x0, x1)](x:float32[2, 5, 8], y:float32[2, 5, 8])
        %4:float32[2, 5, 1] = reduce[mul(reduce_sum(x0), 0.125) over 2](%3:float32[2, 5, 8])
        %5:float32[2, 5, 8] = map[sub(x0, x1)](%3:float32[2, 5, 8], %4:float32[2, 5, 8]@0[5, 1, 0])
        %6:float32[2, 5, 8] = map[mul(x0, x0)](%5:float32[2, 5, 8])
        %7:float32[2, 5, 1] = reduce[mul(reduce_sum(x0), 0.125) over 2](%6:float32[2, 5, 8])
        %9:float32[2, 5, 1] = map[sqrt(add(x0, 9.99999975e-06))](%7:float32[2, 5, 1])
        %12:float32[2, 5, 8] = map[add(mul(div(x0, x1), x2), x3)](%5:float32[2, 5, 8], %9:float32[2, 5, 8]@0[5, 1, 0], gamma:float32[2, 5, 8]@0[0, 0, 1], beta:float32[2, 5, 8]@0[0, 0, 1])
        %14:float32[10, 8] = matmul[accumulator=float32, epilogue=add(x0, x1)](%12:float32[10, 8], w:float32[8, 8], %3:float32[10, 8])
        """,
        """
        %3:float32[2, 5, 8], %12:float32[2, 5, 8] = norm[t2 = add(x0, x1); t6 = sub(t2, mul(reduce_sum(t2), 0.125)); t2, add(mul(div(t6, sqrt(add(mul(reduce_sum(mul(t6, t6)), 0.125), 9.99999975e-06))), x2), x3) over 2](x:float32[2, 5, 8], y:float32[2, 5, 8], gamma:float32[2, 5, 8]@0[0, 0, 1], beta:float32[2, 5, 8]@0[0, 0, 1])
        %14:float32[10, 8] = matmul[accumulator=float32, epilogue=add(x0, x1)](%12:float32[10, 8], w:float32[8, 8], %3:float32[10, 8])
        """,
    )


def test_softmax_with_scale_and_mask():
    b = Sketch()
    scores = b.scalar("mul", b.input("x", 2, 3, 4, 5), b.number(0.5))
    scores = b.scalar("add", scores, b.input("mask", 2, 1, 1, 5))
    e = b.scalar("exp", b.scalar("sub", scores, b.reduce("max", scores, (3,), keepdims=True)))
    y = b.scalar("div", e, b.reduce("sum", e, (3,), keepdims=True))
    transform(
        prepared(b.program(y=y)),
        fuse_norms,
        """
        %4:float32[2, 3, 4, 5] = map[add(mul(x0, 0.5), x1)](x:float32[2, 3, 4, 5], mask:float32[2, 3, 4, 5]@0[5, 0, 0, 1])
        %5:float32[2, 3, 4, 1] = reduce[reduce_max(x0) over 3](%4:float32[2, 3, 4, 5])
        %7:float32[2, 3, 4, 5] = map[exp(sub(x0, x1))](%4:float32[2, 3, 4, 5], %5:float32[2, 3, 4, 5]@0[12, 4, 1, 0])
        %8:float32[2, 3, 4, 1] = reduce[reduce_sum(x0) over 3](%7:float32[2, 3, 4, 5])
        %9:float32[2, 3, 4, 5] = map[div(x0, x1)](%7:float32[2, 3, 4, 5], %8:float32[2, 3, 4, 5]@0[12, 4, 1, 0])
        """,
        """
        %9:float32[2, 3, 4, 5] = norm[t4 = add(mul(x0, 0.5), x1); t7 = exp(sub(t4, reduce_max(t4))); div(t7, reduce_sum(t7)) over 3](x:float32[2, 3, 4, 5], mask:float32[2, 3, 4, 5]@0[5, 0, 0, 1])
        """,
    )


def test_reduced_axes_that_were_dropped():
    b = Sketch()
    x = b.input("x", 2, 3, 4)
    root = b.scalar("sqrt", b.reduce("sum", x, (1,), keepdims=False))
    transform(
        b.program(y=b.scalar("div", x, root.unsqueeze((1,)))),
        fuse_norms,
        """
        %2:float32[2, 1, 4] = reduce[reduce_sum(x0) over 1](x:float32[2, 3, 4])
        %3:float32[2, 4] = map[sqrt(x0)](%2:float32[2, 4])
        %4:float32[2, 3, 4] = map[div(x0, x1)](x:float32[2, 3, 4], %3:float32[2, 3, 4]@0[4, 0, 1])
        """,
        """
        %4:float32[2, 3, 4] = norm[div(x0, sqrt(reduce_sum(x0))) over 1](x:float32[2, 3, 4])
        """,
    )


def test_reshaped_rows():
    """Two reduced axes, of which the map sees one."""
    b = Sketch()
    x = b.input("x", 2, 3, 4)
    total = b.reduce("sum", x, (1, 2), keepdims=False)
    flat = b.scalar("sub", x.reshape((2, 12)), total.unsqueeze((1,)))
    transform(
        b.program(y=flat),
        fuse_norms,
        """
        %2:float32[2, 1, 1] = reduce[reduce_sum(x0) over 1x2](x:float32[2, 3, 4])
        %3:float32[2, 12] = map[sub(x0, x1)](x:float32[2, 12], %2:float32[2, 12]@0[1, 0])
        """,
        """
        %3:float32[2, 3, 4] = norm[sub(x0, reduce_sum(x0)) over 1x2](x:float32[2, 3, 4])
        """,
    )


def test_reductions_over_other_axes_stay_apart():
    b = Sketch()
    x = b.input("x", 4, 4)
    columns = b.reduce("sum", x, (0,), keepdims=True)
    rows = b.reduce("sum", b.scalar("exp", b.scalar("sub", x, columns)), (1,), keepdims=True)
    transform(
        prepared(b.program(y=rows)),
        fuse_norms,
        """
        %2:float32[1, 4] = reduce[reduce_sum(x0) over 0](x:float32[4, 4])
        %4:float32[4, 4] = map[exp(sub(x0, x1))](x:float32[4, 4], %2:float32[4, 4]@0[0, 1])
        %5:float32[4, 1] = reduce[reduce_sum(x0) over 1](%4:float32[4, 4])
        """,
        """
        %4:float32[4, 4] = norm[exp(sub(x0, reduce_sum(x0))) over 0](x:float32[4, 4])
        %5:float32[4, 1] = reduce[reduce_sum(x0) over 1](%4:float32[4, 4])
        """,
    )


def test_reductions_over_one_element_mix_with_no_others():
    b = Sketch()
    x = b.input("x", 1, 2)
    first = b.reduce("sum", x, (0,), keepdims=True)
    y = b.scalar("sub", first, b.reduce("sum", first, (1,), keepdims=True))
    transform(
        b.program(y=y),
        fuse_norms,
        """
        %2:float32[1, 2] = reduce[reduce_sum(x0) over 0](x:float32[1, 2])
        %3:float32[1, 1] = reduce[reduce_sum(x0) over 1](%2:float32[1, 2])
        %4:float32[1, 2] = map[sub(x0, x1)](%2:float32[1, 2], %3:float32[1, 2]@0[1, 0])
        """,
        """
        %2:float32[1, 2] = reduce[reduce_sum(x0) over 0](x:float32[1, 2])
        %4:float32[1, 2] = norm[sub(x0, reduce_sum(x0)) over 1](%2:float32[1, 2])
        """,
    )


def test_a_broadcast_reduction_has_no_full_result():
    b = Sketch()
    program = b.program(y=b.copy(b.reduce("sum", b.input("x", 4, 4), (1,), keepdims=True).expand((4, 4))))
    before = str(program)
    assert str(fuse_norms(program)) == before


def test_a_single_long_row_is_left_to_several_threads():
    b = Sketch()
    x = b.input("x", 40000)
    program = b.program(y=b.scalar("sub", x, b.reduce("max", x, (0,), keepdims=True)))
    before = str(program)
    assert str(fuse_norms(program)) == before


def test_merged_operations_stand_between_what_they_read_and_what_reads_them():
    b = Sketch()
    e = b.scalar("exp", b.input("x", 4, 4))
    product = b.matmul(e, b.weights("w", 4, 4))
    centered = b.scalar("sub", e, b.reduce("max", e, (1,), keepdims=True))
    weighted = b.compute(lambda v, u: reduce("sum", v * u), (e, product), (1,))[0]
    transform(
        b.program(y=b.scalar("add", product, centered), z=weighted),
        fuse_norms,
        """
        %2:float32[4, 4] = map[exp(x0)](x:float32[4, 4])
        %3:float32[4, 4] = matmul[accumulator=float32](%2:float32[4, 4], w:float32[4, 4])
        %4:float32[4, 1] = reduce[reduce_max(x0) over 1](%2:float32[4, 4])
        %5:float32[4, 4] = map[sub(x0, x1)](%2:float32[4, 4], %4:float32[4, 4]@0[1, 0])
        %6:float32[4, 1] = reduce[reduce_sum(mul(x0, x1)) over 1](%2:float32[4, 4], %3:float32[4, 4])
        %7:float32[4, 4] = map[add(x0, x1)](%3:float32[4, 4], %5:float32[4, 4])
        """,
        """
        %2:float32[4, 4], %5:float32[4, 4] = norm[t1 = exp(x0); t1, sub(t1, reduce_max(t1)) over 1](x:float32[4, 4])
        %3:float32[4, 4] = matmul[accumulator=float32](%2:float32[4, 4], w:float32[4, 4])
        %6:float32[4, 1] = reduce[reduce_sum(mul(x0, x1)) over 1](%2:float32[4, 4], %3:float32[4, 4])
        %7:float32[4, 4] = map[add(x0, x1)](%3:float32[4, 4], %5:float32[4, 4])
        """,
    )
