import numpy as np
import pytest
from transforming import Sketch, operations_text, transform

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.passes.inline_scalars import inline_scalars
from onnxplan.compiler.passes.move_factors import move_factors


def scores(b, q, k, factor=0.25):
    """Both operands scaled, as in exported attention; ``k`` is transposed behind its scaling."""
    number = b.number(factor, q.dtype.numpy)
    return b.matmul(b.scalar("mul", q, number), b.scalar("mul", number, k).transpose((0, 2, 1)))


def unchanged(program):
    before = operations_text(program)
    return operations_text(move_factors(program)) == before


def test_scaled_keys_become_twice_scaled_queries():
    b = Sketch()
    q, k = b.input("q", 2, 1, 3), b.input("k", 2, 5, 3)
    transform(
        inline_scalars(b.program(y=scores(b, q, k))),
        move_factors,
        """
        %3:float32[2, 1, 3] = map[mul(x0, 0.25)](q:float32[2, 1, 3])
        %4:float32[2, 5, 3] = map[mul(0.25, x0)](k:float32[2, 5, 3])
        %5:float32[2, 1, 5] = matmul[accumulator=float32](%3:float32[2, 1, 3], %4:float32[2, 3, 5]@0[15, 1, 3])
        """,  # noqa: E501
        """
        %3:float32[2, 1, 3] = map[mul(mul(x0, 0.25), 0.25)](q:float32[2, 1, 3])
        %5:float32[2, 1, 5] = matmul[accumulator=float32](%3:float32[2, 1, 3], k:float32[2, 3, 5]@0[15, 1, 3])
        """,
    )


def test_any_map_takes_the_factor():
    b = Sketch()
    q, r, k = b.input("q", 2, 2, 3), b.input("r", 2, 2, 3), b.input("k", 2, 5, 3)
    left, right = b.scalar("sub", q, r), b.scalar("mul", k, b.number(0.5))
    transform(
        inline_scalars(b.program(y=b.matmul(left, right.transpose((0, 2, 1))))),
        move_factors,
        """
        %4:float32[2, 2, 3] = map[sub(x0, x1)](q:float32[2, 2, 3], r:float32[2, 2, 3])
        %5:float32[2, 5, 3] = map[mul(x0, 0.5)](k:float32[2, 5, 3])
        %6:float32[2, 2, 5] = matmul[accumulator=float32](%4:float32[2, 2, 3], %5:float32[2, 3, 5]@0[15, 1, 3])
        """,  # noqa: E501
        """
        %4:float32[2, 2, 3] = map[mul(sub(x0, x1), 0.5)](q:float32[2, 2, 3], r:float32[2, 2, 3])
        %6:float32[2, 2, 5] = matmul[accumulator=float32](%4:float32[2, 2, 3], k:float32[2, 3, 5]@0[15, 1, 3])
        """,
    )


@pytest.mark.parametrize("rows", [5, 6])
def test_the_larger_operand_takes_no_factor(rows):
    b = Sketch()
    assert unchanged(inline_scalars(b.program(y=scores(b, b.input("q", 2, rows, 3), b.input("k", 2, 5, 3)))))


@pytest.mark.parametrize("factor", [0.0, -0.5, 1.5, 2.0**-17, np.inf, np.nan])
def test_factors_that_might_change_more_than_rounding_stay(factor):
    b = Sketch()
    program = b.program(y=scores(b, b.input("q", 2, 1, 3), b.input("k", 2, 5, 3), factor))
    assert unchanged(inline_scalars(program))


def test_small_floats_stay():
    b = Sketch()
    q, k = (b.input(name, 2, rows, 3, dtype=DType.FLOAT16) for name, rows in (("q", 1), ("k", 5)))
    assert unchanged(inline_scalars(b.program(y=scores(b, q, k))))


def test_scaled_keys_that_others_read_stay():
    b = Sketch()
    q, k = b.input("q", 2, 1, 3), b.input("k", 2, 5, 3)
    scaled = b.scalar("mul", k, b.number(0.25))
    left = b.scalar("exp", q)
    program = b.program(y=b.matmul(left, scaled.transpose((0, 2, 1))), z=scaled)
    assert unchanged(inline_scalars(program))


def test_queries_that_others_read_stay():
    b = Sketch()
    q, k = b.input("q", 2, 1, 3), b.input("k", 2, 5, 3)
    left = b.scalar("exp", q)
    product = b.matmul(left, b.scalar("mul", k, b.number(0.25)).transpose((0, 2, 1)))
    assert unchanged(inline_scalars(b.program(y=product, z=left)))


def test_a_factor_for_each_column_stays():
    b = Sketch()
    q, k = b.input("q", 2, 1, 3), b.input("k", 2, 5, 3)
    product = b.matmul(b.scalar("exp", q), b.scalar("mul", k, b.weights("w", 3)).transpose((0, 2, 1)))
    assert unchanged(inline_scalars(b.program(y=product)))
