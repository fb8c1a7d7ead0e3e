"""What rules made of nodes, used again for nodes that are alike in a fraction of the time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

from onnxplan.compiler.alike import Key, Places, Unlike, Window, key_of, put
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.primitives import Primitive
from onnxplan.compiler.program import Operation
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.structures import Lowered
from onnxplan.compiler.view import READS, Layout, Storage, View

if TYPE_CHECKING:
    from onnxplan.compiler.builder import Builder, Derivation


@dataclass(frozen=True, slots=True)
class _Derived:
    """A call of :meth:`Builder.derive` on views of these numbers; ``layouts`` are those of its results."""

    function: Callable[..., tuple[View, ...]]
    views: tuple[int, ...]
    arguments: tuple[Hashable, ...]
    layouts: tuple[tuple[DType, Layout], ...]


@dataclass(frozen=True, slots=True)
class _Pattern:
    """What a rule made. Operands and results are numbers of views: the inputs, what ``derived``, ``windows``.

    ``made`` are type, size and number of each new storage, ``count`` how many numbers were taken.
    """

    derived: tuple[_Derived, ...]
    made: tuple[tuple[DType, int, int], ...]
    count: int
    windows: tuple[Window | View, ...]
    operations: tuple[tuple[Primitive, tuple[int, ...], tuple[int, ...]], ...]
    outputs: tuple[int, ...]
    transient: bool


@dataclass(slots=True)
class Mark:
    """Where a builder stands before a rule runs."""

    operations: int
    storages: int
    reads: int

    @staticmethod
    def of(builder: Builder) -> Mark:
        return Mark(len(builder.operations), builder.storage_count, next(READS))


@dataclass(slots=True)
class _Record:
    """What a rule made the first time: most of it is never asked for again, and becomes no pattern."""

    inputs: Sequence[Lowered | None]
    outputs: Sequence[Lowered]
    labels: tuple[str, ...]
    prefix: str
    transient: bool
    derivations: Sequence[Derivation]
    operations: Sequence[Operation]
    first_storage: int
    count: int


class RepeatedNodes:
    """What rules made in one lowering by the keys of nodes.

    A rule decides by its node's attributes and by its operands as a key knows them. What it derives of
    constants through :meth:`Builder.derive` is derived again for each node.
    """

    def __init__(self) -> None:
        self._records: dict[Hashable, _Record] = {}
        self._patterns: dict[Hashable, _Pattern | None] = {}

    @staticmethod
    def key(node: Node, inputs: Sequence[Lowered | None]) -> Key | None:
        """The key of ``node`` with ``inputs``; ``None`` where more decides than a key holds."""
        kind = node.kind()
        return None if kind is None else key_of(kind, inputs)

    def replay(self, key: Key, builder: Builder, inputs: Sequence[Lowered | None]) -> list[View] | None:
        """Emits for ``inputs`` what was emitted for the first of this key; ``None`` where there is none.

        Returns the outputs. Storages get the names that they would have from the rule.
        """
        pattern = self._pattern(key.parts)
        if pattern is None:
            return None
        views = [view for view in inputs if isinstance(view, View)]
        for call in pattern.derived:
            found = builder.derive(call.function, [views[number] for number in call.views], *call.arguments)
            if _layouts(found) != call.layouts:
                return None
            views.extend(found)
        storages = [view.storage for view in views]
        start, prefix = builder.storage_count, builder.prefix
        for dtype, size, number in pattern.made:
            storages.append(Storage(dtype, size, f"{prefix}{start + number}"))
        views += put(pattern.windows, storages)
        nodes = builder.labels
        for primitive, reads, writes in pattern.operations:
            operands = tuple([views[number] for number in reads])
            results = tuple([views[number] for number in writes])
            builder.operations.append(Operation(primitive, operands, results, nodes))
        builder.storage_count = start + pattern.count
        builder.transient = pattern.transient
        return [views[number] for number in pattern.outputs]

    def record(
        self,
        key: Key,
        builder: Builder,
        inputs: Sequence[Lowered | None],
        mark: Mark,
        outputs: Sequence[Lowered],
    ) -> None:
        """Notes what a rule made since ``mark``, where nothing but the key decided that."""
        # What is derived for later nodes is noted in the same list.
        derivations = tuple(builder.derivations)
        if not key.decides(mark.reads, sum([call.reads for call in derivations])):
            return
        self._records[key.parts] = _Record(
            inputs, outputs, builder.labels, builder.prefix, builder.transient, derivations,
            builder.operations[mark.operations :], mark.storages, builder.storage_count - mark.storages,
        )  # fmt: skip

    def _pattern(self, parts: Hashable) -> _Pattern | None:
        """The pattern of a key, made of its record when it is first asked for."""
        record = self._records.pop(parts, None)
        if record is not None:
            try:
                self._patterns[parts] = _pattern_of(record)
            except Unlike:
                self._patterns[parts] = None
        return self._patterns.get(parts)


def _layouts(views: Sequence[View]) -> tuple[tuple[DType, Layout], ...]:
    return tuple([(view.dtype, view.layout) for view in views])


def _pattern_of(record: _Record) -> _Pattern:
    """Raises :class:`Unlike` where what was made hangs on more than a key holds."""
    views = [view for view in record.inputs if isinstance(view, View)]
    places = Places([*views, *[view for call in record.derivations for view in call.made]])
    derived: list[_Derived] = []
    known = len(views)
    for call in record.derivations:
        sources = places.numbers(call.views)
        if any(number >= known for number in sources):
            raise Unlike
        derived.append(_Derived(call.function, sources, call.arguments, _layouts(call.made)))
        known += len(call.made)
    made: list[tuple[DType, int, int]] = []
    operations = []
    for operation in record.operations:
        if operation.nodes != record.labels:
            raise Unlike
        _find_made(operation.outputs, places, made, record)
        reads, writes = places.numbers(operation.inputs), places.numbers(operation.outputs)
        operations.append((operation.primitive, reads, writes))
    results = [view for view in record.outputs if isinstance(view, View)]
    if len(results) < len(record.outputs):
        raise Unlike
    _find_made(results, places, made, record)
    numbers = places.numbers(results)
    return _Pattern(
        tuple(derived), tuple(made), record.count, tuple(places.windows), tuple(operations), numbers,
        record.transient,
    )  # fmt: skip


def _find_made(
    views: Sequence[View], places: Places, made: list[tuple[DType, int, int]], record: _Record
) -> None:
    """Adds the storages of ``views`` that the rule made, which their names tell."""
    for view in views:
        storage = view.storage
        if storage in places or storage.is_constant:
            continue
        label = storage.name.removeprefix(record.prefix)
        if not label.isdecimal() or int(label) <= record.first_storage:
            raise Unlike
        places.add(storage)
        made.append((storage.dtype, storage.size, int(label) - record.first_storage))
