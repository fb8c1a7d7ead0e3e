"""From a graph and concrete input shapes to programs of primitives.

Lowering runs the nodes' rules in order. Where a rule needs elements that only a run can compute (a shape that
depends on data, a branch's condition), the graph is cut there: the operations so far form a *stage* whose
outputs include those elements. With the answer, lowering is repeated (it is deterministic) and goes on from
the cut as the next stage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler import ops
from onnxplan.compiler.apply_rule import apply_rule
from onnxplan.compiler.builder import Builder, ValueNeeded
from onnxplan.compiler.constant_pool import ConstantPool
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import (
    InvalidFeedsError,
    InvalidModelError,
)
from onnxplan.compiler.ir import Graph, Model, Node, OptionalType, TensorType, Value, ValueType, needed_nodes
from onnxplan.compiler.plan import DEMAND, HostFunction
from onnxplan.compiler.program import Operation, Program
from onnxplan.compiler.repeated_nodes import Mark, RepeatedNodes
from onnxplan.compiler.stage import Stage
from onnxplan.compiler.structures import (
    Absent,
    Lowered,
    MapValue,
    SequenceValue,
    Structure,
    map_tensors,
    name_tensors,
    tensors,
)
from onnxplan.compiler.view import Shape, Storage, View

KNOWN_BYTES = 4 << 10
"""Answers up to this size (shapes, conditions) become constants of the later stages."""


def lower(
    model: Model,
    shapes: Mapping[str, Shape],
    answers: Sequence[npt.NDArray[Any]] = (),
    *,
    fetches: Sequence[str] | None = None,
    pool: ConstantPool | None = None,
    texts: Mapping[str, Sequence[str]] | None = None,
    structures: Mapping[str, Structure[str]] | None = None,
) -> Stage:
    """The stage after ``len(answers)`` cuts.

    ``shapes`` are those of the tensors that are fed (inputs with defaults that are not in it become
    constants, optional ones are absent). ``answers`` are the elements asked for by the stages before.
    ``fetches`` limits the outputs. ``texts`` are the elements of tensors of strings that are fed, which take
    part as constants. ``structures`` are the inputs that are sequences or maps, with names for their tensors.
    Raises :class:`UnsupportedOperatorError` and :class:`InvalidModelError`, both naming nodes, and
    :class:`InvalidFeedsError` for a tensor of strings without its elements.
    """
    ops.load()
    lowering = Lowering(model, pool or ConstantPool(), answers, texts or {})
    return lowering.run(shapes, structures or {}, fetches)


class Lowering(Builder):
    """A builder that knows the graph, what its values became, and the answers to earlier questions."""

    def __init__(
        self,
        model: Model,
        pool: ConstantPool,
        answers: Sequence[npt.NDArray[Any]],
        texts: Mapping[str, Sequence[str]],
    ) -> None:
        super().__init__(pool)
        self.model = model
        self._texts = texts
        self._answers = answers
        self._answered = 0
        self._replays = 0
        self._asked: dict[View, npt.NDArray[Any]] = {}
        self._lowered: dict[Value, Lowered] = {}
        self._graphs: list[Graph] = []
        self._node_start = 0
        self._held: list[Lowered] = []
        self._sources: dict[Storage, View] = {}
        self._repeated = RepeatedNodes()
        names = [value.name for value in model.graph.inputs]
        while any(name.startswith(self.prefix) for name in names):
            self.prefix += "%"

    def run(
        self,
        shapes: Mapping[str, Shape],
        structures: Mapping[str, Structure[str]],
        fetches: Sequence[str] | None,
    ) -> Stage:
        graph = self.model.graph
        for value in graph.inputs:
            self._lowered[value] = self._input(value, shapes, structures)
        try:
            self._lower_nodes(graph)
        except ValueNeeded as question:
            return self._cut(question)
        outputs: dict[str, View] = {}
        found: dict[str, Structure[str]] = {}
        taken = {value.name for value in graph.outputs}
        for value in graph.outputs:
            if fetches is None or value.name in fetches:
                name, views = name_tensors(value.name, self._find(value), taken | outputs.keys())
                outputs.update(views)
                if name != value.name:
                    found[value.name] = name
        return self._stage(Program({}, outputs, self.operations), final=True, structures=found)

    def _input(
        self, value: Value, shapes: Mapping[str, Shape], structures: Mapping[str, Structure[str]]
    ) -> Lowered:
        kind = value.type.element if isinstance(value.type, OptionalType) else value.type
        structure = structures.get(value.name, value.name)
        if structure == value.name and structure not in shapes:
            if value.default is not None:
                return self._initializer(value, value.default)
            if isinstance(value.type, OptionalType):
                return Absent(value.type.element)
            raise InvalidModelError(f"input {value.name!r} has no shape and no default")
        assert kind is not None
        return self._fed(structure, kind, shapes)

    def _fed(self, part: Structure[str], kind: ValueType, shapes: Mapping[str, Shape]) -> Lowered:
        """An input, or a part of one, of type ``kind``."""
        if isinstance(part, SequenceValue):
            elements = tuple([self._fed(item, part.element, shapes) for item in part.elements])
            return SequenceValue(part.element, elements)
        if isinstance(part, MapValue):
            values = self._fed_tensor(part.values, part.type.value, shapes[part.values])
            return MapValue(part.type, part.keys, values)
        assert isinstance(part, str)
        assert isinstance(kind, TensorType)
        return self._fed_tensor(part, kind.dtype, shapes[part])

    def _fed_tensor(self, name: str, dtype: DType, shape: Shape) -> View:
        if name in self._texts:
            text = self.constant(np.array(self._texts[name], object).reshape(shape))
            text.storage.transient = True
            return text
        if dtype is DType.STRING:
            raise InvalidFeedsError(
                f"input {name!r} is of strings, on whose content a plan depends: it is made in a run"
            )
        view = self.new(dtype, shape)
        view.storage.name = name
        self._sources[view.storage] = view
        return view

    def _initializer(self, value: Value, array: npt.NDArray[Any]) -> View:
        key = f"initializer:{value.name}:{id(value)}"
        return View.dense(self.pool.get(key, lambda: array, value.name), array.shape)

    def _find(self, value: Value) -> Lowered:
        found = self._lowered.get(value)
        if found is None:
            found = self.pool.lowered.get(value)
        if found is None:
            if value.constant is None:
                raise InvalidModelError(f"value {value.name!r} is read but never computed")
            found = self.pool.lowered[value] = self._initializer(value, value.constant)
        return found

    def value(self, view: View) -> npt.NDArray[Any]:
        # What the rule makes of elements that belong to a run does so, too.
        self.transient |= view.storage.transient or not view.is_constant
        if view.is_constant:
            return view.numpy()
        if view.size == 0:
            return np.empty(view.shape, view.dtype.numpy)
        known = self._asked.get(view)
        if known is not None:
            return known
        answer = self._asked[view] = self._answer(ValueNeeded(view))
        if answer.nbytes <= KNOWN_BYTES:
            # What hangs on known elements is folded, and need not be asked for in its turn.
            constant = self.constant(answer)

            def known_now(other: View) -> View:
                return constant if other == view else other

            for value, lowered in self._lowered.items():
                if any(other == view for other in tensors(lowered)):
                    self._lowered[value] = map_tensors(known_now, lowered)
        return answer

    def host(self, view: View, dtype: DType, function: HostFunction) -> View:
        if view.is_constant:
            return super().host(view, dtype, function)
        label = self.node

        def named(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
            try:
                return function(array)
            except ValueError as error:
                raise InvalidModelError(f"node {label!r}: {error}") from error

        name = self._host_input
        shape = tuple(self._answer(ValueNeeded(view, named)).tolist())
        result = View.dense(Storage(dtype, math.prod(shape), name), shape)
        self._sources[result.storage] = result
        return result

    @property
    def _host_input(self) -> str:
        """The name of what the host would make at the next question."""
        return f"{self.prefix}host{self._answered}"

    def _answer(self, question: ValueNeeded) -> npt.NDArray[Any]:
        """The answer, with which a stage begins; raises ``question`` where there is none yet."""
        if self._replays:
            raise ValueError(f"elements of {question.view.shape} that a run computes decide what is derived")
        if self._answered == len(self._answers):
            raise question
        answer = np.asarray(self._answers[self._answered])
        self._answered += 1
        # What was emitted so far ran in earlier stages; later operations read its results as inputs.
        for operation in self.operations:
            for output in operation.outputs:
                storage = output.storage
                self._sources.setdefault(storage, View.dense(storage, (storage.size,)))
        self.operations = []
        self._node_start = 0
        return answer

    def inline(self, graph: Graph, arguments: Sequence[Lowered]) -> list[Lowered]:
        """Lowers a subgraph in place and returns what its outputs are.

        Of what a rule computes, only the arguments and results of its inlined graphs survive a cut within a
        later one of them; it must not keep other views across calls.
        """
        if len(arguments) != len(graph.inputs):
            raise ValueError(f"{graph.name!r} has {len(graph.inputs)} inputs, {len(arguments)} are given")
        self._held.extend(arguments)
        self._lowered.update(zip(graph.inputs, arguments, strict=True))
        labels, transient = self.labels, self.transient
        self._lower_nodes(graph)
        results = [self._find(value) for value in graph.outputs]
        for computed in [*graph.inputs, *(output for inner in graph.nodes for output in inner.outputs)]:
            if computed is not None:
                self._lowered.pop(computed, None)
        self._held.extend(results)
        self.labels, self.transient, self._node_start = labels, transient, len(self.operations)
        return results

    def replay(self, name: str, bound: Mapping[str, View]) -> tuple[View, list[Operation]]:
        """Lowers again what computes the value ``name`` of the graph from the values that ``bound`` names.

        Returns its view and the operations emitted for it. Random numbers are the same as before. Raises
        ``ValueError`` where it depends on something else than ``bound``, or on elements that only a run
        computes for its course.
        """
        values: dict[str, Value] = {}
        producers: dict[Value, Node] = {}
        for graph in self._graphs:
            values.update((value.name, value) for value in graph.inputs)
            for node in graph.nodes:
                values.update((value.name, value) for value in node.inputs if value is not None)
                values.update((value.name, value) for value in node.outputs if value is not None)
                producers.update((value, node) for value in node.outputs if value is not None)
        for unknown in [each for each in (name, *bound) if each not in values]:
            raise ValueError(f"the graph has no value {unknown!r}")
        points = {values[each]: view for each, view in bound.items()}
        nodes = needed_nodes(values[name], points, producers)
        order = {node: place for place, node in enumerate(dict.fromkeys(producers.values()))}
        lowered, draws, labels, start = (
            dict(self._lowered),
            self._draws.copy(),
            self.labels,
            len(self.operations),
        )
        self._lowered.update(points)
        self._draws.clear()
        self._replays += 1
        try:
            for node in sorted(nodes, key=order.__getitem__):
                self._lower_node(node)
            result = self._find(values[name])
            if not isinstance(result, View):
                raise ValueError(f"{name!r} is no tensor")
        finally:
            self._replays -= 1
            self._lowered, self._draws = lowered, draws
            self.labels, self._node_start = labels, start
        return result, self.operations[start:]

    def _lower_nodes(self, graph: Graph) -> None:
        self._graphs.append(graph)
        outermost, settled = len(self._graphs) == 1, self.pool.settled
        for node, values, dead in zip(graph.nodes, graph.reads(), graph.last_used(), strict=True):
            if outermost and node in settled:
                self.storage_count += settled[node]
                continue
            before = self.storage_count
            self._lower_node(node)
            # How often random numbers were drawn before tells draws apart.
            if outermost and not (self.transient or self._draws or len(self.operations) > self._node_start):
                self.pool.settle(node, values, self._lowered, self.storage_count - before)
            for value in dead:
                self._lowered.pop(value, None)
        self._graphs.pop()

    def _lower_node(self, node: Node) -> None:
        known = self._lowered
        # Most values are known already, and this is done for each operand of each node.
        inputs = [None if value is None else known.get(value) or self._find(value) for value in node.inputs]
        self.labels = node.labels
        self.transient = False
        self._node_start = len(self.operations)
        self._fold_count = 0
        outputs: Sequence[Lowered] | None = None
        # Elements that runs computed, and what was drawn before, are in no key.
        key = None if self._asked or self._draws else self._repeated.key(node, inputs)
        if key is not None:
            outputs = self._repeated.replay(key, self, inputs)
        if outputs is None:
            self.derivations = []
            mark = Mark.of(self)
            held = len(self._held)
            outputs = apply_rule(self, node, inputs)
            del self._held[held:]
            if key is not None and not (self._asked or self._draws):
                self._repeated.record(key, self, inputs, mark, outputs)
        for value, output in zip(node.outputs, outputs, strict=False):
            if value is not None:
                self._lowered[value] = output

    def _cut(self, question: ValueNeeded) -> Stage:
        """The stage up to a question: its outputs are the answer and what is still alive."""
        alive: dict[Storage, None] = {
            view.storage: None
            for lowered in [*self._lowered.values(), *self._held]
            for view in tensors(lowered)
        }
        for operation in self.operations[self._node_start :]:
            alive.update((view.storage, None) for view in operation.outputs)
        written = {view.storage for operation in self.operations for view in operation.outputs}
        program = Program({}, {DEMAND: question.view}, self.operations)
        for storage in alive:
            if storage in written:
                program.outputs[storage.name] = View.dense(storage, (storage.size,))
        stage = replace(self._stage(program, final=False), asked_by=self.node)
        if question.function is None:
            return stage
        return replace(stage, function=question.function, host_input=self._host_input)

    def _stage(
        self, program: Program, *, final: bool, structures: Mapping[str, Structure[str]] | None = None
    ) -> Stage:
        key = self._run_key
        if key is not None:
            self._sources[key.storage] = key
        self._bind_inputs(program)
        if key is None or key.storage.name not in program.inputs:
            return Stage(program, final, structures=structures or {})
        return Stage(program, final, key.storage.name, structures or {})

    def _bind_inputs(self, program: Program) -> None:
        """Makes inputs of all storages that the program reads and does not write."""
        written = {view.storage for operation in program.operations for view in operation.outputs}
        reads = [view for operation in program.operations for view in operation.inputs]
        for view in [*reads, *program.outputs.values()]:
            storage = view.storage
            if storage.is_constant or storage in written:
                continue
            if storage.size == 0 and storage not in self._sources:
                # Rules write nothing to what is empty.
                storage.constant = np.empty(0, storage.dtype.numpy)
            else:
                program.inputs.setdefault(storage.name, self._sources[storage])
