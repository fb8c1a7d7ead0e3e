from transforming import Sketch, operations_text, transform

from onnxplan.compiler.passes.fuse_epilogues import fuse_epilogues
from onnxplan.compiler.passes.merge_products import merge_products


def merge(sketch):
    return lambda program: merge_products(program, sketch.pool)


def test_query_key_and_value_become_one_product():
    """Readers see columns of the merged result, through views of their own; biases move along."""
    b = Sketch()
    x = b.input("x", 4, 6)
    q, k = (b.scalar("add", b.matmul(x, b.weights(n, 6, 6)), b.weights(f"{n} bias", 6)) for n in "qk")
    heads = [part.reshape((4, 2, 3)).transpose((1, 0, 2)) for part in (q, k)]
    program = fuse_epilogues(b.program(y=b.matmul(heads[0], heads[1].transpose((0, 2, 1)))))
    transform(
        program,
        merge(b),
        """
        %3:float32[4, 6] = matmul[accumulator=float32, epilogue=add(x0, x1)](x:float32[4, 6], q:float32[6, 6], q bias:float32[4, 6]@0[0, 1])
        %5:float32[4, 6] = matmul[accumulator=float32, epilogue=add(x0, x1)](x:float32[4, 6], k:float32[6, 6], k bias:float32[4, 6]@0[0, 1])
        %6:float32[2, 4, 4] = matmul[accumulator=float32](%3:float32[2, 4, 3]@0[3, 6, 1], %5:float32[2, 3, 4]@0[3, 1, 6])
        """,  # noqa: E501
        """
        %3:float32[4, 12] = matmul[accumulator=float32, epilogue=add(x0, x1)](x:float32[4, 6], q|k:float32[6, 12], q bias|k bias:float32[4, 12]@0[0, 1])
        %6:float32[2, 4, 4] = matmul[accumulator=float32](%3:float32[2, 4, 3]@0[3, 12, 1], %3:float32[2, 3, 4]@6[3, 1, 12])
        """,  # noqa: E501
    )


def test_products_with_results_that_are_outputs_stay():
    b = Sketch()
    x = b.input("x", 4, 6)
    program = b.program(y=b.matmul(x, b.weights("m", 6, 3)), z=b.matmul(x, b.weights("n", 6, 3)))
    before = operations_text(program)
    assert operations_text(merge_products(program, b.pool)) == before


def test_products_of_different_left_operands_stay():
    b = Sketch()
    x, y = b.input("x", 4, 6), b.input("y", 4, 6)
    products = [b.matmul(x, b.weights("m", 6, 3)), b.matmul(y, b.weights("n", 6, 3))]
    program = b.program(y=b.reduce("sum", b.scalar("mul", *products), (1,), keepdims=True))
    before = operations_text(program)
    assert operations_text(merge_products(program, b.pool)) == before


def test_products_with_different_epilogues_stay():
    b = Sketch()
    x = b.input("x", 4, 6)
    products = [b.scalar(op, b.matmul(x, b.weights("m", 6, 3))) for op in ("exp", "tanh")]
    program = fuse_epilogues(b.program(y=b.matmul(products[0], products[1].transpose((1, 0)))))
    before = operations_text(program)
    assert before.count("matmul") == 3
    assert operations_text(merge_products(program, b.pool)) == before
