"""Gives each output of the program a storage of its own."""

from __future__ import annotations

from onnxplan.compiler.expression import identity
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation, Program
from onnxplan.compiler.view import Storage, View


def bind_outputs(program: Program) -> Program:
    """Makes each output the dense row-major view of a whole storage that operations write.

    Requires nothing. Adds a copy where an output is a view of an input, of a constant, of a part of a
    storage, in another order than row-major, or of a storage that is another output already. Where an output
    is the whole of an operation's result under another shape, it only takes that shape.
    """
    written = {view.storage for operation in program.operations for view in operation.outputs}
    taken: set[Storage] = set()
    for name, view in program.outputs.items():
        storage = view.storage
        if storage in written and storage not in taken and _is_whole(view):
            taken.add(storage)
            program.outputs[name] = View.dense(storage, view.shape)
            continue
        target = View.dense(Storage(view.dtype, view.size, name), view.shape)
        program.operations.append(Operation(MapReduce(identity(view.dtype), view.shape), (view,), (target,)))
        taken.add(target.storage)
        program.outputs[name] = target
    return program


def _is_whole(view: View) -> bool:
    return view.offset == 0 and view.size == view.storage.size and view.is_dense
