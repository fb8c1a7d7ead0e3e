"""An index serves the next pass as long as it describes the program."""

from __future__ import annotations

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.passes.index import Index
from onnxplan.compiler.program import Operation, Program


def chain(length):
    """``length`` maps, each of the result of the one before, and the program's output behind them."""
    b = Builder()
    x = b.new(DType.FLOAT32, (3,))
    last = x
    for _ in range(length):
        last = b.scalar("neg", last)
    return Program({"x": x}, {"y": last}, b.operations)


def readers(index):
    return {operation: list(index.readers(operation.outputs[0].storage)) for operation in index.order}


def test_an_index_that_was_finished_serves_the_next_pass():
    program = chain(4)
    index = Index.of(program)
    first, second, *_ = program.operations
    index.remove(first)
    index.become(second, Operation(second.primitive, first.inputs, second.outputs))
    assert index.finish() is program
    again = Index.of(program)
    assert again is index
    fresh = Index(program)
    assert again.order == fresh.order
    assert readers(again) == readers(fresh)


def test_what_changed_since_is_indexed_anew():
    program = chain(4)
    index = Index.of(program)
    first, second, third, last = program.operations
    last.inputs = third.inputs
    changed = Index.of(program)
    assert changed is not index
    assert list(changed.readers(second.outputs[0].storage)) == [third, last]
    program.operations.remove(third)
    shorter = Index.of(program)
    assert shorter is not changed
    assert list(shorter.readers(second.outputs[0].storage)) == [last]
    program.outputs["z"] = first.outputs[0]
    shown = Index.of(program)
    assert shown is not shorter
    assert shown.sole_reader(first.outputs[0].storage) is None
