"""What the engine needs of a device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.plan import CompiledPlan, ExecutionPlan, Kernels, KernelSpec
from onnxplan.compiler.target import Target
from onnxplan.runtime.budget import Budget
from onnxplan.runtime.cancellation import CancelFlag

if TYPE_CHECKING:
    from onnxplan.compiler.selection import KernelSelector
    from onnxplan.runtime.artifact import Artifact, TargetEntry
    from onnxplan.runtime.artifact_writer import TargetCode

Array = npt.NDArray[Any]


class DeviceTensor(Protocol):
    """A C-contiguous tensor in the memory of a device: :class:`onnxplan.runtime.cuda.array.DeviceArray`."""

    @property
    def pointer(self) -> int: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    @property
    def location(self) -> str:
        """``cuda:0``"""
        ...

    def numpy(self) -> Array:
        """A copy on the host."""
        ...

    def write(self, array: Array) -> None:
        """Overwrites the elements by those of ``array``, C-contiguous, of the same type and size."""
        ...

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any: ...

    def __dlpack_device__(self) -> tuple[int, int]: ...

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...


AnyArray: TypeAlias = "Array | DeviceTensor"
"""A NumPy array, or a tensor on the device."""


class Executor(Protocol):
    """A plan bound to a device."""

    @property
    def plan(self) -> ExecutionPlan: ...

    @property
    def peak_bytes(self) -> int:
        """Memory of the device that one run needs: the plan's constants and a slot."""
        ...

    def run(self, inputs: Sequence[Any], outputs: Sequence[Any], cancel: CancelFlag | None = None) -> None:
        """One run. Arrays are C-contiguous, of the plan's types and shapes, in its order.

        Each is a NumPy array or what :meth:`Device.allocate` and :meth:`Device.import_array` gave. Safe
        from any number of threads at once. Raises :class:`~onnxplan.runtime.cancellation.Cancelled` where
        ``cancel`` was set before the last step, and :class:`~onnxplan.OutOfMemoryError`.
        """
        ...

    def try_run(self, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> bool:
        """:meth:`run` if that is what the arrays are, which the device checks itself; else False."""
        ...

    def trim(self) -> int:
        """Gives up the memory of slots that no run uses; the number of bytes."""
        ...

    def close(self) -> None:
        """Releases memory once the runs in flight are over."""
        ...


class StartedRun(Protocol):
    """A run in flight on a device that works by itself."""

    def finish_within(self, seconds: float) -> bool:
        """Keeps the thread busy for so long until the run is over, and then fills its outputs.

        Returns whether it is over. Raises what :meth:`wait` raises.
        """
        ...

    def wait(self, cancel: CancelFlag | None = None) -> None:
        """Sleeps until the run is over, and fills its outputs. Raises what :meth:`Executor.run` raises."""
        ...


@runtime_checkable
class StartingExecutor(Protocol):
    """An executor on such a device."""

    @property
    def starts(self) -> bool:
        """Whether :meth:`try_start` may start runs of this plan."""
        ...

    def try_start(
        self, inputs: tuple[Any, ...], outputs: tuple[Any, ...], over: Callable[[], None]
    ) -> StartedRun | None:
        """Starts a run, if that takes some microseconds only; else None.

        Checks the arrays as :meth:`Executor.try_run` does. ``over()`` is called once, on any thread, when a
        run that was started is over.
        """
        ...


class Device(Protocol):
    """A place where plans run."""

    @property
    def name(self) -> str:
        """``cpu`` or ``cuda:0``."""
        ...

    @property
    def target(self) -> Target:
        """What plans for it are made for."""
        ...

    @property
    def selector(self) -> KernelSelector: ...

    @property
    def compiled_kernels(self) -> int:
        """Kernels compiled (not loaded from the store) by this process for this kind of device."""
        ...

    @property
    def loaded_kernels(self) -> int:
        """Kernels that this process loaded from the store."""
        ...

    @property
    def missing_kernels(self) -> int:
        """Kernels that the store did not have when this process needed them."""
        ...

    @property
    def concurrency(self) -> int:
        """How many runs in flight at once it can make use of."""
        ...

    def expect_runs(self, count: int) -> None:
        """Is told how many worker threads have runs to do, now or next."""
        ...

    def expect_plans(self) -> None:
        """Is told that a model was opened whose plans nobody made before: kernels may be missing."""
        ...

    @property
    def runs_inline(self) -> bool:
        """Does the calling thread do the work, on NumPy arrays only? Then short runs need no other thread.

        Of such a device :meth:`allocate` is ``numpy.empty``.
        """
        ...

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any], *, host: bool) -> AnyArray:
        """A new tensor of undefined elements: a NumPy array with ``host``, else one in device memory.

        Raises ``MemoryError``.
        """
        ...

    def import_array(self, value: object, *, copy: bool = True) -> DeviceTensor | None:
        """``value`` as C-contiguous tensor of this device; ``None`` where it lies in no CUDA device's memory.

        ``value`` has ``__dlpack__`` or ``__cuda_array_interface__``. Nothing is copied where its layout
        fits. Raises ``ValueError`` for arrays of other devices and element types that ONNX has not, and,
        with ``copy=False``, for those that cannot be written in place: not C-contiguous, or read-only.
        """
        ...

    def refusal(self, entry: TargetEntry) -> str | None:
        """Why plans and code of an artifact for ``entry`` cannot run on this device; None if they can."""
        ...

    def has_code(self, specs: Sequence[KernelSpec]) -> bool:
        """Is all that ``target_code`` gives in the store?"""
        ...

    def target_code(self, specs: Sequence[KernelSpec]) -> TargetCode:
        """The code of kernels for an artifact, compiled where it is not in the store."""
        ...

    def artifact_kernels(self, artifact: Artifact, entry: TargetEntry) -> Kernels:
        """The kernels of an artifact for this device."""
        ...

    def bind(self, compiled: CompiledPlan, budget: Budget) -> Executor:
        """Loads the plan's kernels (compiling those that are missing) and binds its constants.

        The memory of slots comes from ``budget`` (:class:`~onnxplan.runtime.slots.SlotPool` does that).
        """
        ...
