"""Who writes and who reads what, and in which order: kept up to date while a pass changes a program."""

from __future__ import annotations

from collections.abc import Iterable

from onnxplan.compiler.program import Operation, Program
from onnxplan.compiler.view import Storage, View


class Index:
    """The operations of a program by the storages they write and read.

    ``order`` gives each operation a position; operations sorted by it are in a valid order of execution.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.order: dict[Operation, float] = {}
        self.outputs = {view.storage for view in program.outputs.values()}
        self._writers: dict[Storage, dict[Operation, None]] = {}
        self._readers: dict[Storage, dict[Operation, None]] = {}
        for position, operation in enumerate(program.operations):
            self.add(operation, float(position))
        self._note()

    @staticmethod
    def of(program: Program) -> Index:
        """The index of ``program``: that which the pass before left, if it still describes the program."""
        index = program.index
        if index is None or not index._describes(program):
            index = program.index = Index(program)
        return index

    def _note(self) -> None:
        """Notes what the operations are now: views never change, but operations do."""
        operations = self.program.operations
        self._noted = list(operations), *_operands(operations)

    def _describes(self, program: Program) -> bool:
        operations = program.operations
        return (operations, *_operands(operations)) == self._noted and {
            view.storage for view in program.outputs.values()
        } == self.outputs

    def add(self, operation: Operation, position: float) -> None:
        self.order[operation] = position
        for users, views in ((self._writers, operation.outputs), (self._readers, operation.inputs)):
            for view in views:
                known = users.get(view.storage)
                if known is None:
                    users[view.storage] = {operation: None}
                else:
                    known[operation] = None

    def remove(self, operation: Operation) -> float:
        """Takes ``operation`` out; returns its position."""
        for view in operation.outputs:
            self._writers[view.storage].pop(operation, None)
        for view in operation.inputs:
            self._readers[view.storage].pop(operation, None)
        return self.order.pop(operation)

    def become(self, operation: Operation, new: Operation, position: float | None = None) -> None:
        """Makes ``operation`` what ``new`` is, in its own place or at ``position``."""
        place = self.remove(operation)
        operation.primitive, operation.nodes = new.primitive, new.nodes
        operation.inputs, operation.outputs = new.inputs, new.outputs
        self.add(operation, place if position is None else position)

    def writers(self, storage: Storage) -> Iterable[Operation]:
        return self._writers.get(storage, ())

    def readers(self, storage: Storage) -> Iterable[Operation]:
        return self._readers.get(storage, ())

    def sole_writer(self, storage: Storage) -> Operation | None:
        """The only operation that writes ``storage``."""
        found = self._writers.get(storage)
        return next(iter(found)) if found is not None and len(found) == 1 else None

    def sole_reader(self, storage: Storage) -> Operation | None:
        """The only operation that reads ``storage``, if no output of the program shows it."""
        found = self._readers.get(storage)
        if found is None or len(found) != 1 or storage in self.outputs:
            return None
        return next(iter(found))

    def position_between(self, after: float, before: float) -> float:
        """A position right after ``after`` and before ``before`` that no operation has."""
        return after + (before - after) / 2

    def ordered(self) -> list[Operation]:
        return sorted(self.order, key=self.order.__getitem__)

    def finish(self) -> Program:
        """The program with the operations as they are now."""
        operations = self.program.operations = self.ordered()
        self.order = {operation: float(position) for position, operation in enumerate(operations)}
        self._note()
        return self.program


def _operands(operations: list[Operation]) -> tuple[list[tuple[View, ...]], list[tuple[View, ...]]]:
    return [operation.inputs for operation in operations], [operation.outputs for operation in operations]


def merged_nodes(*operations: Operation) -> tuple[str, ...]:
    """The names of the ONNX nodes of all ``operations``, each once."""
    return tuple(dict.fromkeys([name for operation in operations for name in operation.nodes]))
