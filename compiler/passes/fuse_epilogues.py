"""Maps that follow a matrix product or a convolution become its epilogue."""

from __future__ import annotations

from dataclasses import replace

from onnxplan.compiler.expression import ExpressionBuilder, Instruction
from onnxplan.compiler.passes.composition import translate
from onnxplan.compiler.passes.eliminate_dead import renumber_inputs
from onnxplan.compiler.passes.fusion import MAX_INSTRUCTIONS, is_elementwise
from onnxplan.compiler.passes.index import Index, merged_nodes
from onnxplan.compiler.passes.output_views import may_write
from onnxplan.compiler.primitives import Conv, MapReduce, MatMul
from onnxplan.compiler.program import Operation, Program

MAX_EXTRAS = 6


def fuse_epilogues(program: Program) -> Program:
    """Attaches elementwise maps to the products whose results they read.

    A map of one output becomes (part of) the epilogue of the MatMul or Conv that alone writes one of its inputs,
    if nothing else reads that result, if the map reads each of its elements once, and if the map's other
    inputs and its output are views in the coordinates of the product's output. Of several such products
    the last one takes the map. Requires that maps have been fused with one another. Ensures equal results:
    sums are rounded to the product's type before the map sees them.
    """
    index = Index(program)
    for operation in program.operations:
        if operation in index.order and is_elementwise(operation):
            product = epilogue_product(index, operation)
            if product is not None:
                attached = attach(product, operation)
                assert attached is not None
                index.remove(product)
                index.become(operation, attached)
    return index.finish()


def epilogue_product(index: Index, mapped: Operation) -> Operation | None:
    """The last product that could take ``mapped`` as its epilogue."""
    best: Operation | None = None
    for view in mapped.inputs:
        writer = index.sole_writer(view.storage)
        if writer is None or not isinstance(writer.primitive, Conv | MatMul):
            continue
        if best is not None and index.order[writer] < index.order[best]:
            continue
        if index.sole_reader(view.storage) is mapped and attach(writer, mapped) is not None:
            best = writer
    return best


def attach(product: Operation, mapped: Operation) -> Operation | None:
    """The product with the elementwise map ``mapped`` as its epilogue, or ``None`` where views do not allow it."""
    primitive, outer = product.primitive, mapped.primitive
    assert isinstance(primitive, Conv | MatMul)
    assert isinstance(outer, MapReduce)
    output = product.outputs[0]
    reads = [number for number, view in enumerate(mapped.inputs) if view.storage is output.storage]
    if len(reads) != 1 or len(mapped.outputs) != 1 or len(product.outputs) != 1:
        return None
    read = mapped.inputs[reads[0]]
    if read.size != output.size or any(i.op == "index" for i in outer.expression.instructions):
        return None
    target = translate(output, read, mapped.outputs[0])
    if target is None or not may_write(primitive, target):
        return None
    extras = list(product.inputs[2:])
    first = 1 + len(extras)
    numbers: dict[int, int] = {}
    for number, view in enumerate(mapped.inputs):
        if number == reads[0]:
            continue
        extra = translate(output, read, view)
        if extra is None:
            return None
        numbers[number] = first + len(numbers)
        extras.append(extra)

    builder = ExpressionBuilder()
    if primitive.epilogue is not None:
        total = builder.inline(primitive.epilogue, lambda _, instruction: builder.add(instruction))[0]
    else:
        total = builder.add(Instruction("input", (0,), primitive.accumulator))
        if primitive.accumulator is not output.dtype:
            total = builder.add(Instruction("cast", (total,), output.dtype))

    def moved(number: int, instruction: Instruction) -> int:
        if number == reads[0]:
            return total
        return builder.add(Instruction("input", (numbers[number],), instruction.dtype))

    expression = builder.build(builder.inline(outer.expression, moved))
    expression, kept = renumber_inputs(expression, tuple(extras), start=1)
    if len(kept) > MAX_EXTRAS or len(expression.instructions) > MAX_INSTRUCTIONS:
        return None
    # A product without epilogue casts its sums by itself.
    plain = [i.op for i in expression.instructions] in (["input"], ["input", "cast"])
    return Operation(
        replace(primitive, epilogue=None if plain else expression),
        (*product.inputs[:2], *kept),
        (target,),
        merged_nodes(product, mapped),
    )
