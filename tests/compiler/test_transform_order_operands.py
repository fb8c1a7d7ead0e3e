# ruff: noqa: E501
from transforming import Sketch, operations_text, transform

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression, Instruction, constant
from onnxplan.compiler.passes.fuse_epilogues import fuse_epilogues
from onnxplan.compiler.passes.fuse_maps import fuse_maps
from onnxplan.compiler.passes.inline_scalars import inline_scalars
from onnxplan.compiler.passes.order_operands import order_operands
from onnxplan.compiler.primitives import Attention
from onnxplan.compiler.program import Operation


def test_operands_of_commutative_operations_have_one_order():
    b = Sketch()
    x, y = b.input("x", 3, 4), b.weights("y", 4)
    first = b.scalar("sub", b.scalar("mul", y, x), y)
    transform(
        fuse_maps(b.program(z=b.scalar("add", b.scalar("max", y, x), first))),
        order_operands,
        """
        %5:float32[3, 4] = map[add(max(x0, x1), sub(mul(x0, x1), x0))](y:float32[3, 4]@0[0, 1], x:float32[3, 4])
        """,
        """
        %5:float32[3, 4] = map[add(sub(mul(x0, x1), x1), max(x1, x0))](x:float32[3, 4], y:float32[3, 4]@0[0, 1])
        """,
    )


def test_a_product_with_a_bias_is_one_however_it_is_written():
    texts = []
    for swapped in (False, True):
        b = Sketch()
        product = b.matmul(b.input("x", 3, 4), b.weights("w", 4, 5))
        bias, residual = b.weights("bias", 5), b.input("residual", 3, 5)

        def add(left, right, b=b, swapped=swapped):
            return b.scalar("add", *((right, left) if swapped else (left, right)))

        program = fuse_epilogues(fuse_maps(b.program(z=add(add(product, bias), residual))))
        (operation,) = order_operands(program).operations
        texts.append((operation.primitive, [view.storage.name for view in operation.inputs]))
    assert texts[0] == texts[1]
    assert str(texts[0][0].epilogue) == "add(add(x0, x1), x2)"
    assert texts[0][1] == ["x", "w", "bias", "residual"]


def test_inputs_that_differ_in_layout_do_not_hang_on_who_came_first():
    texts = set()
    for swapped in (False, True):
        b = Sketch()
        x, y = b.input("x", 3, 4), b.weights("y", 3, 1)
        pair = (y, x) if swapped else (x, y)
        program = order_operands(b.program(z=b.scalar("mul", *pair)))
        texts.add(operations_text(program))
    assert len(texts) == 1


def test_scores_of_attention_are_ordered():
    b = Sketch()
    operands = [b.input(name, 2, *shape) for name, shape in (("q", (6, 4)), ("k", (4, 6)), ("v", (6, 5)))]
    mask, out = b.input("mask", 2, 6, 6), b.new(DType.FLOAT32, (2, 6, 5))
    total, extra = (Instruction("input", (number,), DType.FLOAT32) for number in range(2))
    third, product = constant(0.375, DType.FLOAT32), Instruction("mul", (2, 1), DType.FLOAT32)
    score = Expression((extra, total, third, product, Instruction("add", (0, 3), DType.FLOAT32)), (4,))
    b.operations.append(Operation(Attention(DType.FLOAT32, score), (*operands, mask), (out,)))
    transform(
        b.program(z=out),
        order_operands,
        """
        %5:float32[2, 6, 5] = attention[accumulator=float32, score=add(x1, mul(0.375, x0)), softmax=plain](q:float32[2, 6, 4], k:float32[2, 4, 6], v:float32[2, 6, 5], mask:float32[2, 6, 6])
        """,
        """
        %5:float32[2, 6, 5] = attention[accumulator=float32, score=add(mul(x0, 0.375), x1), softmax=plain](q:float32[2, 6, 4], k:float32[2, 4, 6], v:float32[2, 6, 5], mask:float32[2, 6, 6])
        """,
    )


def test_lengths_and_epsilons_do_not_change_the_order():
    texts = set()
    for count in range(300, 340):
        b = Sketch()
        x = b.input("x", 3, 4)
        length, epsilon = b.number(float(count)), b.number(1e-5 / count)
        inverse = b.scalar("div", b.number(1.0), b.scalar("add", b.scalar("div", x, length), epsilon))
        mapped = b.scalar("mul", inverse, b.scalar("exp", b.scalar("sub", x, length)))
        (operation,) = order_operands(fuse_maps(inline_scalars(b.program(z=mapped)))).operations
        instructions = operation.primitive.expression.instructions
        texts.add(tuple((i.op, i.arguments) for i in instructions))
    assert len(texts) == 1
