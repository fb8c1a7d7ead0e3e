"""What the engine needs of a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy.typing as npt

from onnxplan.compiler.emission import CompiledPlan
from onnxplan.compiler.plan import ExecutionPlan
from onnxplan.compiler.selection import KernelSelector

Array = npt.NDArray[Any]


class RunCancelledError(Exception):
    """The run was stopped between two steps; its outputs hold nothing of use."""


class Cancellation(Protocol):
    """Stops the runs it is given to before their next step. May be used from any thread."""

    def cancel(self) -> None: ...


class Executor(Protocol):
    """A plan bound to a device."""

    @property
    def plan(self) -> ExecutionPlan: ...

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array], cancellation: Any | None = None) -> None:
        """One run. Arrays are C-contiguous, of the plan's types and shapes, in its order.

        Safe from any number of threads at once. Raises :class:`RunCancelledError` where ``cancellation``
        (made by the device) was used in time.
        """
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

    def cancellation(self) -> Cancellation:
        """A new means to stop runs on this device."""
        ...

    def bind(self, compiled: CompiledPlan) -> Executor:
        """Loads the plan's kernels (compiling those that are missing) and binds its constants."""
        ...
