"""What the engine needs of a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy.typing as npt

from onnxplan.compiler.assembly import CompiledPlan
from onnxplan.compiler.plan import ExecutionPlan
from onnxplan.compiler.selection import KernelSelector
from onnxplan.runtime.cancellation import CancelFlag

Array = npt.NDArray[Any]


class Executor(Protocol):
    """A plan bound to a device."""

    @property
    def plan(self) -> ExecutionPlan: ...

    def run(
        self, inputs: Sequence[Array], outputs: Sequence[Array], cancel: CancelFlag | None = None
    ) -> None:
        """One run. Arrays are C-contiguous, of the plan's types and shapes, in its order.

        Safe from any number of threads at once. Raises
        :class:`~onnxplan.runtime.cancellation.Cancelled` where ``cancel`` was set before the last step.
        """
        ...

    def try_run(self, inputs: tuple[Array, ...], outputs: tuple[Array, ...]) -> bool:
        """:meth:`run` if that is what the arrays are, which the device checks itself; else False."""
        ...

    def close(self) -> None:
        """Releases memory once the runs in flight are over."""
        ...


class Device(Protocol):
    """A place where plans run."""

    @property
    def name(self) -> str:
        """``cpu`` or ``cuda:0``."""
        ...

    @property
    def selector(self) -> KernelSelector: ...

    @property
    def compiled_kernels(self) -> int:
        """Kernels compiled (not loaded from the store) by this process for this kind of device."""
        ...

    def bind(self, compiled: CompiledPlan) -> Executor:
        """Loads the plan's kernels (compiling those that are missing) and binds its constants."""
        ...
