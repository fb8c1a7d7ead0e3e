"""From scheduled steps on views to the execution plan with buffers and the constants that go with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

import numpy.typing as npt

from onnxplan.compiler.constant_pool import ConstantPool
from onnxplan.compiler.emission import EmittedStep, aligned
from onnxplan.compiler.memory import place
from onnxplan.compiler.plan import Binding, Buffer, CompiledPlan, Constant, ExecutionPlan, Operand, Step
from onnxplan.compiler.program import Program
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import Storage, View


def assemble(
    program: Program, steps: Sequence[EmittedStep], target: Target, pool: ConstantPool
) -> CompiledPlan:
    """Places all storages and fixes the steps.

    Buffers stand in this order: inputs, outputs, constants, arena.
    """
    bindings = [view.storage for view in (*program.inputs.values(), *program.outputs.values())]
    placement = place(
        steps, set(bindings), target.alignment, shared=target.threads > 1 and target.private_cache_bytes > 0
    )
    table = _BufferTable(placement.spans)
    for index, view in enumerate(program.inputs.values()):
        table.add(view.storage, "input", index, 0)
    for index, view in enumerate(program.outputs.values()):
        table.add(view.storage, "output", index, 0)
    constants = [storage for storage in table.spans if storage.is_constant]
    anchored = _anchored(steps)
    for index, storage in enumerate(constants):
        table.add(storage, "constant", index, 0)
    for storage, offset in placement.offsets.items():
        table.add(storage, "arena", 0, offset)
    plan = ExecutionPlan(
        target=target,
        inputs=_bindings(program.inputs.items()),
        outputs=_bindings(program.outputs.items()),
        constants=tuple(
            [Constant(s.name or s.key, s.dtype, (s.size,), s not in anchored) for s in constants]
        ),
        buffers=tuple(table.buffers),
        steps=tuple([_step(step, table) for step in steps]),
        arena_bytes=placement.arena_bytes,
        arena_lower_bound=placement.lower_bound,
        scratch_bytes=max((step.scratch for step in steps), default=0),
    )
    alignments = [target.alignment if storage in anchored else 1 for storage in constants]
    return CompiledPlan(plan, tuple(map(_elements, constants, alignments, repeat(pool))))


class _BufferTable:
    """Buffers under construction and their numbers by storage."""

    def __init__(self, spans: dict[Storage, tuple[int, int]]) -> None:
        self.spans = spans
        self.buffers: list[Buffer] = []
        self.numbers: dict[Storage, int] = {}

    def add(self, storage: Storage, space: str, index: int, offset: int) -> None:
        first, last = self.spans.get(storage, (0, 0))
        self.numbers[storage] = len(self.buffers)
        self.buffers.append(Buffer(space, index, offset, storage.nbytes, storage.name, first, last))


def _bindings(views: Iterable[tuple[str, View]]) -> tuple[Binding, ...]:
    return tuple(Binding(name, view.dtype, view.shape) for name, view in views)


def _step(step: EmittedStep, table: _BufferTable) -> Step:
    numbers = table.numbers
    operands = []
    for view in step.operands:
        storage = view.storage
        dtype = storage.dtype
        operands.append(
            Operand(numbers[storage], view.offset * dtype.itemsize, dtype, view.shape, view.strides)
        )
    return Step(
        step.kernel, tuple(operands), step.outputs, step.parameters, step.tiles, step.scratch, step.flops,
        step.bytes, step.seconds, step.nodes,
    )  # fmt: skip


def _anchored(steps: Sequence[EmittedStep]) -> set[Storage]:
    """The constants that some step reads at the target's alignment."""
    found = {
        view.storage
        for step in steps
        for position, view in enumerate(step.operands)
        if position not in step.anywhere
    }
    return {storage for storage in found if storage.is_constant}


def _elements(storage: Storage, alignment: int, pool: ConstantPool) -> npt.NDArray[Any]:
    array = storage.constant
    if array is not None and (array.ctypes.data % alignment == 0 or array.dtype.hasobject):
        return array

    def place() -> npt.NDArray[Any]:
        elements = storage.elements()
        assert elements is not None
        return aligned(elements, alignment)

    if not storage.key:
        elements = place()
        if array is not None:
            # Plans of other shapes find them where they must lie.
            storage.constant = elements
        return elements
    copy = pool.get(f"aligned {alignment}:{storage.key}", place, storage.name)
    assert copy.constant is not None
    return copy.constant
