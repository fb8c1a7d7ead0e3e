"""The steps of operations, emitted again for operations that are alike in a fraction of the time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy.typing as npt

from onnxplan.compiler.alike import Key, Places, Unlike, Window, key_of, put
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.emission import Emission, EmittedStep
from onnxplan.compiler.program import Operation
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.view import View


@dataclass(frozen=True, slots=True)
class _Constant:
    """A call of :meth:`Emission.constant` on ``sources``, and the size of what it made."""

    sources: tuple[Window | View, ...]
    layout: str
    make: Callable[..., npt.NDArray[Any]]
    dtype: DType
    size: int


@dataclass(frozen=True, slots=True)
class _Pattern:
    """The steps of an operation; ``operands`` are those of each as numbers of views.

    These are the operation's, then ``windows``. Storages are those of the operation's views, the
    ``temporaries`` (type, size and name), and the ``constants``.
    """

    temporaries: tuple[tuple[DType, int, str], ...]
    constants: tuple[_Constant, ...]
    windows: tuple[Window | View, ...]
    steps: tuple[EmittedStep, ...]
    operands: tuple[tuple[int, ...], ...]


class RepeatedSteps:
    """The patterns of one program of ``operations`` by their keys.

    A selector decides by the primitive and its operands as a key knows them.
    """

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._keys = [self.key(operation) for operation in operations]
        first: dict[Hashable, int] = {}
        self._firsts = [
            number if key is None else first.setdefault(key.parts, number)
            for number, key in enumerate(self._keys)
        ]
        """For each operation the number of the first of its key."""
        self._repeated = {earlier for number, earlier in enumerate(self._firsts) if earlier != number}
        self._patterns: dict[int, _Pattern] = {}

    @staticmethod
    def key(operation: Operation) -> Key | None:
        return key_of((operation.primitive, len(operation.inputs)), operation.views)

    def replay(self, number: int, emission: Emission, operation: Operation) -> bool:
        """Emits for operation ``number`` what was emitted for an earlier one of its key, if there was one."""
        pattern = self._patterns.get(self._firsts[number])
        if pattern is None:
            return False
        views = [*operation.inputs, *operation.outputs]
        storages = [view.storage for view in views]
        storages += [emission.temporary(*temporary) for temporary in pattern.temporaries]
        for each in pattern.constants:
            made = emission.constant(tuple(put(each.sources, storages)), each.layout, each.make)
            if (made.dtype, made.size) != (each.dtype, each.size):
                return False
            storages.append(made)
        views += put(pattern.windows, storages)
        for step, numbers in zip(pattern.steps, pattern.operands, strict=True):
            operands = tuple([views[number] for number in numbers])
            emission.steps.append(step.of(operands, emission.nodes))
        return True

    def record(
        self, number: int, emission: Emission, operation: Operation, steps: Sequence[EmittedStep], reads: int
    ) -> None:
        """Notes the ``steps`` of an operation where others are alike and only the key decided on them."""
        key, first = self._keys[number], self._firsts[number]
        if key is None or first not in self._repeated:
            return
        if not key.decides(reads, sum(each.reads for each in emission.constants)):
            return
        places = Places(list(operation.views))
        for storage in emission.temporaries:
            places.add(storage)
        try:
            constants = []
            for each in emission.constants:
                sources = tuple([places.window(view) for view in each.sources])
                constants.append(
                    _Constant(sources, each.layout, each.make, each.storage.dtype, each.storage.size)
                )
                places.add(each.storage)
            operands = tuple([places.numbers(step.operands) for step in steps])
        except Unlike:
            return
        temporaries = tuple([(each.dtype, each.size, each.name) for each in emission.temporaries])
        windows = tuple(places.windows)
        self._patterns[first] = _Pattern(temporaries, tuple(constants), windows, tuple(steps), operands)
