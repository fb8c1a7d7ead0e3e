import numpy as np
from transforming import Sketch, transform

from onnxplan.compiler.passes.merge_common import merge_common


def test_equal_operations_on_equal_inputs_become_one():
    """Small constants are compared by content; what becomes equal by merging is merged too."""
    b = Sketch()
    x = b.input("x", 2, 3)
    first, second = b.scalar("mul", x, b.number(0.5)), b.scalar("mul", x, b.number(0.5))
    other = b.scalar("mul", x, b.number(0.25))
    total = b.scalar("add", b.scalar("exp", first), b.scalar("exp", second))
    transform(
        b.program(y=b.scalar("add", total, other)),
        merge_common,
        """
        %2:float32[2, 3] = map[mul(x0, x1)](x:float32[2, 3], number:float32[2, 3]@0[0, 0])
        %3:float32[2, 3] = map[mul(x0, x1)](x:float32[2, 3], number:float32[2, 3]@0[0, 0])
        %4:float32[2, 3] = map[mul(x0, x1)](x:float32[2, 3], number:float32[2, 3]@0[0, 0])
        %5:float32[2, 3] = map[exp(x0)](%2:float32[2, 3])
        %6:float32[2, 3] = map[exp(x0)](%3:float32[2, 3])
        %7:float32[2, 3] = map[add(x0, x1)](%5:float32[2, 3], %6:float32[2, 3])
        %8:float32[2, 3] = map[add(x0, x1)](%7:float32[2, 3], %4:float32[2, 3])
        """,
        """
        %2:float32[2, 3] = map[mul(x0, x1)](x:float32[2, 3], number:float32[2, 3]@0[0, 0])
        %4:float32[2, 3] = map[mul(x0, x1)](x:float32[2, 3], number:float32[2, 3]@0[0, 0])
        %5:float32[2, 3] = map[exp(x0)](%2:float32[2, 3])
        %7:float32[2, 3] = map[add(x0, x1)](%5:float32[2, 3], %5:float32[2, 3])
        %8:float32[2, 3] = map[add(x0, x1)](%7:float32[2, 3], %4:float32[2, 3])
        """,
    )


def test_other_readers_of_the_same_tensor_hide_nothing():
    b = Sketch()
    x = b.input("x", 2, 3)
    ways = [b.scalar(op, b.scalar(first, x)) for op in ("sqrt", "tanh") for first in ("exp", "neg", "abs")]
    program = merge_common(b.program(**{f"y{number}": view for number, view in enumerate(ways)}))
    names = [operation.primitive.expression.instructions[-1].op for operation in program.operations]
    assert sorted(names) == ["abs", "exp", "neg", *["sqrt"] * 3, *["tanh"] * 3]


def test_results_in_another_layout_stay():
    b = Sketch()
    x = b.input("x", 2, 3)
    turned = b.scalar("exp", x.transpose((1, 0))).transpose((1, 0))
    transform(
        b.program(y=b.scalar("exp", x), z=turned.slice(0, 0, 1)),
        merge_common,
        """
        %2:float32[3, 2]@0[1, 3] = map[exp(x0)](x:float32[3, 2]@0[1, 3])
        %3:float32[2, 3] = map[exp(x0)](x:float32[2, 3])
        """,
        """
        %2:float32[3, 2]@0[1, 3] = map[exp(x0)](x:float32[3, 2]@0[1, 3])
        %3:float32[2, 3] = map[exp(x0)](x:float32[2, 3])
        """,
    )


def test_parts_of_one_storage_stay():
    b = Sketch()
    x = b.input("x", 2, 3)
    transform(
        b.program(y=b.concat([x, x], 0)),
        merge_common,
        """
        %2:float32[2, 3] = copy[x0](x:float32[2, 3])
        %2:float32[2, 3]@6[3, 1] = copy[x0](x:float32[2, 3])
        """,
        """
        %2:float32[2, 3] = copy[x0](x:float32[2, 3])
        %2:float32[2, 3]@6[3, 1] = copy[x0](x:float32[2, 3])
        """,
    )


def test_outputs_of_the_program_follow():
    b = Sketch()
    x = b.input("x", 2)
    program = b.program(y=b.scalar("exp", x), z=b.scalar("exp", x))
    transform(
        program,
        merge_common,
        """
        %2:float32[2] = map[exp(x0)](x:float32[2])
        %3:float32[2] = map[exp(x0)](x:float32[2])
        """,
        """
        %2:float32[2] = map[exp(x0)](x:float32[2])
        """,
    )
    assert program.outputs["y"].storage is program.outputs["z"].storage


def test_large_constants_are_compared_by_identity():
    b = Sketch()
    x = b.input("x", 100)
    values = np.ones(100, np.float32)
    a, c = b.constant(values), b.constant(values)
    program = b.program(y=b.scalar("add", b.scalar("mul", x, a), b.scalar("mul", x, c)))
    assert len(merge_common(program).operations) == 3
