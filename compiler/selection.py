"""The border between the compiler and the kernels of a device.

The compiler hands each operation of the final program to a device's :class:`KernelSelector`, which answers
with steps. All above this line (lowering, fusion, memory, the plan's form) is the same for all devices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy.typing as npt

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.program import Operation
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import Storage, View


class StepEmitter(Protocol):
    """What a selector may do for an operation."""

    def temporary(self, dtype: DType, size: int, name: str) -> Storage:
        """A storage of ``size`` elements in the arena, alive from the first to the last step that uses it."""
        ...

    def constant(
        self, sources: tuple[View, ...], layout: str, make: Callable[..., npt.NDArray[Any]]
    ) -> Storage:
        """A constant derived from constant views, such as a weight packed for a kernel.

        ``layout`` names what was done, completely: for the same sources (by content key, offset, shape and
        strides) and the same ``layout``, ``make`` is called once per model and the result is shared by all
        plans. ``make`` is given the arrays of ``sources`` and must look at no other elements: for operations
        that are alike it is called on those of others. It returns a contiguous array, which the compiler
        places at the target's alignment.
        """
        ...

    def step(
        self,
        kernel: KernelSpec,
        operands: tuple[View, ...],
        outputs: tuple[int, ...],
        parameters: tuple[int, ...],
        *,
        tiles: int,
        flops: int,
        bytes_moved: int,
        scratch: int = 0,
        in_place: tuple[tuple[int, int], ...] = (),
        anywhere: tuple[int, ...] = (),
        seconds: float | None = None,
    ) -> None:
        """Appends a step (see :class:`onnxplan.compiler.plan.Step`).

        ``in_place`` lists pairs ``(output operand, input operand)`` that may share memory because the
        kernel reads each element of the input before, and only at the point where, it writes the same
        element of the output. ``anywhere`` are operands that the kernel reads at any address, aligned or not:
        a constant that no other step reads stays where it is, such as in the mapped file. ``seconds``
        overrides the estimate made from ``flops`` and ``bytes_moved``.
        """
        ...


class KernelSelector(Protocol):
    """A device's choice of kernels."""

    @property
    def target(self) -> Target: ...

    def select(self, operation: Operation, emit: StepEmitter) -> None:
        """Emits the steps that compute ``operation``.

        Raises ``NotImplementedError`` with a text that names primitive and types if there is no kernel.
        """
        ...

    def prefers(self, operation: Operation) -> bool:
        """Is one kernel for ``operation`` faster than those of the operations that it stands for?

        Passes ask before they make primitives that other primitives can express as well, such as
        :class:`~onnxplan.compiler.primitives.Attention`, and before a convolution writes in another memory
        order what else a copy would bring into it. ``False`` where the device has none.
        """
        ...
