"""Where each node of a graph went: lowered once more, with notes of what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from onnxplan.compiler import ops
from onnxplan.compiler.builder import ValueNeeded
from onnxplan.compiler.constant_pool import ConstantPool
from onnxplan.compiler.ir import Model, Node, Value
from onnxplan.compiler.lowering import Lowering
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.structures import Lowered, Structure, tensors
from onnxplan.compiler.view import Shape

COMPUTED = "computed"
"""It became operations of its stage's program; passes may have removed them since."""
QUESTION = "question"
"""The stage ends with it: it needs elements that only a run computes."""
VIEW = "view"
"""Its results are windows on tensors of others."""
SHAPES = "shapes"
"""Its results depend on shapes alone (or on answers of earlier stages), and were computed while planning."""
FOLDED = "folded"
"""It computes with constants only, and was evaluated while planning."""
INLINED = "inlined"
"""Its subgraph was lowered in its place."""
NOT_LOWERED = "not lowered"
"""It is in a branch that is not taken, or behind the last stage known."""

_ORDER = (COMPUTED, QUESTION, INLINED, VIEW, SHAPES, FOLDED)


@dataclass(frozen=True, slots=True)
class NodeOrigin:
    """What lowering made of a node. ``stage`` is where it was lowered first, ``None`` if it never was."""

    label: str
    op_type: str
    domain: str
    fate: str
    stage: int | None


class _TracedLowering(Lowering):
    """Notes for each node what its outputs became."""

    def __init__(
        self,
        model: Model,
        pool: ConstantPool,
        answers: Sequence[npt.NDArray[Any]],
        texts: Mapping[str, Sequence[str]],
    ) -> None:
        super().__init__(model, pool, answers, texts)
        self.fates: dict[Node, set[str]] = {}
        self.stages: dict[Node, int] = {}
        self._of_shapes: set[Value] = set()
        """Constants that were computed of shapes or answers."""

    def _lower_node(self, node: Node) -> None:
        stage, start = self._answered, len(self.operations)
        read = [value for value in node.inputs if value is not None]
        of_shapes = any(value in self._of_shapes or not _is_constant(self._find(value)) for value in read)
        fates = self.fates.setdefault(node, set())
        self.stages.setdefault(node, stage)
        try:
            super()._lower_node(node)
        except ValueNeeded:
            fates.add(QUESTION)
            raise
        emitted = self.operations[start:] if self._answered == stage else self.operations
        if any(node.label in operation.nodes for operation in emitted):
            fates.add(COMPUTED)
            return
        if self._answered > stage:
            fates.add(QUESTION)
            return
        if any(True for _ in node.subgraphs):
            fates.add(INLINED)
            return
        written = [value for value in node.outputs if value is not None]
        if all(_is_constant(self._lowered[value]) for value in written):
            fates.add(SHAPES if of_shapes else FOLDED)
            if of_shapes:
                self._of_shapes.update(written)
        else:
            fates.add(VIEW)


def _is_constant(lowered: Lowered) -> bool:
    return all(view.is_constant for view in tensors(lowered))


def trace_nodes(
    model: Model,
    shapes: Mapping[str, Shape],
    answers: Sequence[npt.NDArray[Any]] = (),
    *,
    fetches: Sequence[str] | None = None,
    pool: ConstantPool | None = None,
    texts: Mapping[str, Sequence[str]] | None = None,
    structures: Mapping[str, Structure[str]] | None = None,
) -> tuple[NodeOrigin, ...]:
    """What became of each node of ``model`` and its subgraphs up to the stage after ``answers``.

    Takes and raises what :func:`onnxplan.compiler.lowering.lower` does. A node that is lowered several times
    (in a loop) counts by the most that it became.
    """
    ops.load()
    lowering = _TracedLowering(model, pool or ConstantPool(), answers, texts or {})
    lowering.run(shapes, structures or {}, fetches)
    found = []
    for node in model.graph.walk():
        fates = lowering.fates.get(node, set())
        fate = next((each for each in _ORDER if each in fates), NOT_LOWERED)
        stage = lowering.stages.get(node)
        found.append(NodeOrigin(node.label, node.op_type, node.domain, fate, stage))
    return tuple(found)
