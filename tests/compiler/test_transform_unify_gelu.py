"""GELU has one expression, however it was written; what only looks like it stays."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from transforming import Sketch, random_feeds

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.evaluate import evaluate_program
from onnxplan.compiler.passes.fuse_epilogues import fuse_epilogues
from onnxplan.compiler.passes.fuse_maps import fuse_maps
from onnxplan.compiler.passes.inline_scalars import inline_scalars
from onnxplan.compiler.passes.order_operands import order_operands
from onnxplan.compiler.passes.unify_gelu import unify_gelu

ONE_WAY = "mul(add(erf(mul(x0, 0.707106781)), 1), mul(x0, 0.5))"
ROOT = float(np.float32(math.sqrt(2)))


def scaled(b, x, form):
    if form == "quotient":
        return b.scalar("div", x, b.number(ROOT))
    factor = b.number(float(np.float32(math.sqrt(0.5))))
    return b.scalar("mul", *((factor, x) if form == "swapped" else (x, factor)))


def product(b, factors, right):
    first, second, third = factors
    if right:
        return b.scalar("mul", first, b.scalar("mul", second, third))
    return b.scalar("mul", b.scalar("mul", first, second), third)


def expression(program):
    (operation,) = order_operands(unify_gelu(fuse_maps(inline_scalars(program)))).operations
    return str(operation.primitive.expression)


@pytest.mark.parametrize("form", ["quotient", "product", "swapped"])
@pytest.mark.parametrize("right", [False, True])
def test_all_ways_to_write_it_become_one(form, right):
    found = set()
    for order in itertools.permutations(range(3)):
        for one_first in (False, True):
            b = Sketch()
            x = b.input("x", 3, 4)
            error, one = b.scalar("erf", scaled(b, x, form)), b.number(1.0)
            error = b.scalar("add", *((one, error) if one_first else (error, one)))
            factors = [(x, error, b.number(0.5))[number] for number in order]
            found.add(expression(b.program(z=product(b, factors, right))))
    assert found == {ONE_WAY}


def divided(b, x, *, root=ROOT, half=0.5, one=1.0, other=None):
    """``half * x * (one + erf(x / root))``, by the quotient, with another factor in place of ``x``."""
    error = b.scalar("add", b.scalar("erf", b.scalar("div", x, b.number(root))), b.number(one))
    return b.scalar("mul", b.scalar("mul", x if other is None else other, error), b.number(half))


def test_results_stay_the_same():
    b = Sketch()
    program = b.program(z=divided(b, b.input("x", 64, 4)))
    feeds = random_feeds(program)
    feeds["x"].reshape(-1)[:6] = 0, -0.0, np.nan, np.inf, -1e30, 1e-40
    (expected,) = evaluate_program(program, feeds).values()
    (actual,) = evaluate_program(unify_gelu(fuse_maps(inline_scalars(program))), feeds).values()
    np.testing.assert_allclose(actual, expected, rtol=3e-6, atol=1e-7)
    exact = [0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in feeds["x"].reshape(-1)[6:].tolist()]
    was, now = (np.abs(found.reshape(-1)[6:] - exact).max() for found in (expected, actual))
    assert now <= 2 * was


@pytest.mark.parametrize("changed", [{"root": 1.4142}, {"half": 0.25}, {"one": 2.0}, {"root": 1.0}])
def test_other_numbers_stay(changed):
    b = Sketch()
    program = order_operands(
        fuse_maps(inline_scalars(b.program(z=divided(b, b.input("x", 3, 4), **changed))))
    )
    before = str(program)
    assert str(unify_gelu(program)) == before


def test_another_factor_stays():
    b = Sketch()
    x, y = b.input("x", 3, 4), b.input("y", 3, 4)
    assert "div" in expression(b.program(z=divided(b, x, other=y)))


def test_gelu_of_a_product_and_of_another_gelu():
    b = Sketch()
    x = b.input("x", 3, 4)
    once = expression(b.program(z=divided(b, b.scalar("mul", x, x))))
    assert once.startswith("t1 = mul(x0, x0)")
    assert once.count("div") == 0
    b = Sketch()
    twice = expression(b.program(z=divided(b, divided(b, b.input("x", 3, 4)))))
    assert twice.count("erf(mul(") == 2
    assert "div" not in twice


def test_an_epilogue_of_a_product_is_found():
    b = Sketch()
    product = b.scalar("add", b.matmul(b.input("x", 3, 4), b.weights("w", 4, 5)), b.weights("bias", 5))
    program = fuse_epilogues(fuse_maps(inline_scalars(b.program(z=divided(b, product)))))
    (operation,) = order_operands(unify_gelu(program)).operations
    text = "t2 = add(x0, x1); mul(mul(t2, 0.5), add(erf(mul(t2, 0.707106781)), 1))"
    assert str(operation.primitive.epilogue) == text


def test_half_precision_is_left_alone():
    b = Sketch()
    x = b.input("x", 3, 4, dtype=DType.FLOAT16)
    error = b.scalar("erf", b.scalar("div", x, b.number(ROOT, np.float16)))
    error = b.scalar("add", error, b.number(1.0, np.float16))
    z = b.scalar("mul", b.scalar("mul", x, error), b.number(0.5, np.float16))
    assert "div" in expression(b.program(z=z))
