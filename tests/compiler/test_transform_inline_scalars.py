import numpy as np
from transforming import Sketch, random_feeds, transform

from onnxplan.compiler.evaluate import evaluate_program
from onnxplan.compiler.passes.inline_scalars import inline_scalars


def test_scalars_move_into_expressions_and_equal_inputs_become_one():
    b = Sketch()
    y = b.scalar("mul", b.input("x", 2, 3), b.number(0.5))
    doubled = b.scalar("add", y, y)
    transform(
        b.program(z=b.scalar("div", doubled, b.weights("w", 3))),
        inline_scalars,
        """
        %2:float32[2, 3] = map[mul(x0, x1)](x:float32[2, 3], number:float32[2, 3]@0[0, 0])
        %3:float32[2, 3] = map[add(x0, x1)](%2:float32[2, 3], %2:float32[2, 3])
        %4:float32[2, 3] = map[div(x0, x1)](%3:float32[2, 3], w:float32[2, 3]@0[0, 1])
        """,
        """
        %2:float32[2, 3] = map[mul(x0, 0.5)](x:float32[2, 3])
        %3:float32[2, 3] = map[add(x0, x0)](%2:float32[2, 3])
        %4:float32[2, 3] = map[div(x0, x1)](%3:float32[2, 3], w:float32[2, 3]@0[0, 1])
        """,
    )


def test_integers_and_booleans_too():
    b = Sketch()
    x = b.input("x", 4, dtype=b.number(1, np.int64).dtype)
    found = b.scalar("less", x, b.number(2, np.int64))
    transform(
        b.program(y=b.scalar("and", found, b.number(True, np.bool_))),
        inline_scalars,
        """
        %2:bool[4] = map[less(x0, x1)](x:int64[4], number:int64[4]@0[0])
        %3:bool[4] = map[and(x0, x1)](%2:bool[4], number:bool[4]@0[0])
        """,
        """
        %2:bool[4] = map[less(x0, 2)](x:int64[4])
        %3:bool[4] = map[and(x0, 1)](%2:bool[4])
        """,
    )


def test_many_different_numbers_remain_inputs_unless_plain_or_frequent():
    """Each expression is a kernel: fifty layers that differ by a scale share one."""
    b = Sketch()
    y = b.input("x", 4)
    for layer in range(50):
        y = b.scalar("mul", y, b.number(1 + layer / 977))
    for _ in range(3):
        y = b.scalar("add", y, b.number(0.001))
    y = b.scalar("max", y, b.number(0))
    program = b.program(y=y)
    feeds = random_feeds(program)
    expected = evaluate_program(program, feeds)
    program = inline_scalars(program)
    expressions = [str(operation.primitive.expression) for operation in program.operations]
    # The first factor is 1, a plain number.
    assert expressions[0] == "mul(x0, 1)"
    assert set(expressions[1:50]) == {"mul(x0, x1)"}
    assert set(expressions[50:53]) == {"add(x0, 0.00100000005)"}
    assert expressions[53] == "max(x0, 0)"
    np.testing.assert_array_equal(evaluate_program(program, feeds)["y"], expected["y"])
