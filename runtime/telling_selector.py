"""Tells which kernels the compiler's selector chooses, while it goes on choosing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import KernelSelector, StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import Storage, View


class TellingSelector:
    """``selector``, which calls ``tell`` once with each kernel that it chooses while somebody ``listens``.

    The kernel of a step is told when the step is emitted: the weights of those behind it are not packed then.
    """

    def __init__(
        self, selector: KernelSelector, listens: Callable[[], bool], tell: Callable[[KernelSpec], object]
    ) -> None:
        self._selector = selector
        self._listens = listens
        self._tell = tell
        self._told: set[KernelSpec] = set()

    @property
    def target(self) -> Target:
        return self._selector.target

    def prefers(self, operation: Operation) -> bool:
        return self._selector.prefers(operation)

    def select(self, operation: Operation, emit: StepEmitter) -> None:
        self._selector.select(operation, _Telling(emit, self._tell_once) if self._listens() else emit)

    def _tell_once(self, kernel: KernelSpec) -> None:
        if kernel not in self._told:
            self._told.add(kernel)
            self._tell(kernel)


class _Telling:
    """The emitter of one operation."""

    def __init__(self, emit: StepEmitter, tell: Callable[[KernelSpec], object]) -> None:
        self._emit = emit
        self._tell = tell

    def temporary(self, dtype: DType, size: int, name: str) -> Storage:
        return self._emit.temporary(dtype, size, name)

    def constant(
        self, sources: tuple[View, ...], layout: str, make: Callable[..., npt.NDArray[Any]]
    ) -> Storage:
        return self._emit.constant(sources, layout, make)

    def step(self, kernel: KernelSpec, *operands: Any, **options: Any) -> None:
        self._tell(kernel)
        self._emit.step(kernel, *operands, **options)
