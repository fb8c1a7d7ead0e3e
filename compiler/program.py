"""The lowered form of a graph: primitive operations on views of storages, all shapes concrete.

A storage may be written by several operations (the parts of a concatenation write disjoint views of it);
each must come before the first operation that reads it. Operations stand in order of execution.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from typing import TYPE_CHECKING

from onnxplan.compiler.primitives import Primitive
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.view import Storage, View

if TYPE_CHECKING:
    from onnxplan.compiler.passes.index import Index


@dataclass(eq=False, slots=True)
class Operation:
    """One primitive applied to views. ``nodes`` are the names of the ONNX nodes it came from."""

    primitive: Primitive
    inputs: tuple[View, ...]
    outputs: tuple[View, ...]
    nodes: tuple[str, ...] = ()

    @property
    def views(self) -> Iterator[View]:
        yield from self.inputs
        yield from self.outputs

    def __str__(self) -> str:
        outputs = ", ".join(map(str, self.outputs))
        return f"{outputs} = {self.primitive}({', '.join(map(str, self.inputs))})"


@dataclass(eq=False, slots=True)
class Program:
    """Operations between named inputs and outputs.

    Inputs are dense views of whole storages. Outputs may be any views, until the pass ``bind_outputs``
    makes each a dense view of a storage of its own that an operation writes.
    """

    inputs: dict[str, View]
    outputs: dict[str, View]
    operations: list[Operation] = field(default_factory=list)
    index: Index | None = field(default=None, init=False, repr=False)
    """What the last pass that made one left: see :meth:`Index.of`."""

    def writers(self) -> dict[Storage, list[Operation]]:
        """The operations that write each storage, in order."""
        found: dict[Storage, list[Operation]] = {}
        for operation in self.operations:
            for view in operation.outputs:
                found.setdefault(view.storage, []).append(operation)
        return found

    def readers(self) -> dict[Storage, list[Operation]]:
        """The operations that read each storage, in order, an operation once."""
        found: dict[Storage, list[Operation]] = {}
        for operation in self.operations:
            for storage in dict.fromkeys(view.storage for view in operation.inputs):
                found.setdefault(storage, []).append(operation)
        return found

    def __str__(self) -> str:
        lines = [f"program({', '.join(f'{name}={view}' for name, view in self.inputs.items())})"]
        lines += [f"  {operation}" for operation in self.operations]
        lines.append(f"  return {', '.join(f'{name}={view}' for name, view in self.outputs.items())}")
        return "\n".join(lines)
