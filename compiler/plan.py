"""The execution plan: every step chosen, every buffer placed. Frozen, comparable, serialisable.

The plan holds no weights: constants are named (name and layout) and their data travels beside the plan.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy.typing as npt

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target

DEMAND = "?"
"""Name of the output of a stage's plan that holds the elements asked for."""

HostFunction = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
"""What the host makes of an array in a run; raises ``ValueError`` where it cannot."""

Variant = tuple["str | int | float | bool | Expression | Variant", ...]


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """Names one compiled function: a family and the choices that are compiled into it.

    Sizes, strides and tile shapes that may be parameters are not part of it, so that a new shape needs no
    new code. All kernels share one signature (see :class:`Step`).
    """

    family: str
    variant: Variant = ()

    def to_json(self) -> list[Any]:
        return [self.family, _variant_to_json(self.variant)]

    @staticmethod
    def from_json(data: list[Any]) -> KernelSpec:
        return KernelSpec(data[0], _variant_from_json(data[1]))

    @property
    def key(self) -> str:
        """A text that is equal exactly for equal specs."""
        return json.dumps(self.to_json(), separators=(",", ":"))

    def __str__(self) -> str:
        return (
            f"{self.family}[{', '.join(map(_variant_text, self.variant))}]" if self.variant else self.family
        )


def _variant_to_json(value: Any) -> Any:
    if isinstance(value, Expression):
        return {"expression": value.to_json()}
    if isinstance(value, tuple):
        return [_variant_to_json(item) for item in value]
    return value


def _variant_from_json(value: Any) -> Any:
    if isinstance(value, dict):
        return Expression.from_json(value["expression"])
    if isinstance(value, list):
        return tuple(_variant_from_json(item) for item in value)
    return value


def _variant_text(value: Any) -> str:
    return f"({', '.join(map(_variant_text, value))})" if isinstance(value, tuple) else str(value)


@dataclass(frozen=True, slots=True)
class Buffer:
    """A byte range that steps read and write.

    ``space`` says where: ``arena`` (``offset`` bytes into the slot's arena), ``input`` and ``output`` (the
    ``index``-th of the plan's inputs and outputs, owned by the caller), ``constant`` (the ``index``-th of
    the plan's constants). ``first`` and ``last`` are the numbers of the first and last step that use it.
    """

    space: str
    index: int
    offset: int
    size: int
    name: str = ""
    first: int = 0
    last: int = 0


@dataclass(frozen=True, slots=True)
class Operand:
    """A strided view of a buffer. ``offset`` in bytes, ``shape`` and ``strides`` in elements."""

    buffer: int
    offset: int
    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel call.

    A kernel is a native function without return value::

        kernel(operands: int64*, parameters: int64*, first: int64, last: int64, scratch: void*)

    ``operands`` are the addresses of the step's operands (offsets already added), ``parameters`` the
    step's 64-bit words (floats as the bits of a double). It computes the tiles ``first <= t < last`` of
    ``tiles``; tiles are independent of each other, results of how they are cut. ``scratch`` points to
    ``scratch`` bytes, aligned to 64, that belong to the calling thread and keep nothing between calls.
    Kernels never allocate, never raise and keep no state.

    ``outputs`` are the positions of the operands that the step writes. ``nodes`` are the names of the
    ONNX nodes it came from; ``flops`` and ``bytes`` its work, ``seconds`` its estimated time on one thread.
    """

    kernel: KernelSpec
    operands: tuple[Operand, ...]
    outputs: tuple[int, ...]
    parameters: tuple[int, ...]
    tiles: int
    scratch: int
    flops: int
    bytes: int
    seconds: float
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Binding:
    """A named input or output of the plan: a dense row-major tensor of the caller's."""

    name: str
    dtype: DType
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant the plan reads: its name says where it came from and how it is laid out.

    It must lie at the target's alignment unless ``anywhere`` says that any address will do.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    anywhere: bool = False


@dataclass(frozen=True, slots=True)
class ExecutionPlan:
    """A static schedule for fixed shapes on one target.

    ``arena_bytes`` is what one run needs for its temporaries, ``arena_lower_bound`` the largest sum of
    bytes live at once (no placement can do with less), ``scratch_bytes`` the largest scratch of a step.
    """

    target: Target
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    constants: tuple[Constant, ...]
    buffers: tuple[Buffer, ...]
    steps: tuple[Step, ...]
    arena_bytes: int
    arena_lower_bound: int
    scratch_bytes: int

    @property
    def flops(self) -> int:
        """Floating point operations of one run, estimated."""
        return sum(step.flops for step in self.steps)

    @property
    def bytes(self) -> int:
        """Bytes that the steps of one run read and write, estimated."""
        return sum(step.bytes for step in self.steps)

    @property
    def seconds(self) -> float:
        """Estimated time of one run on one thread."""
        return sum(step.seconds for step in self.steps)

    @property
    def kernels(self) -> tuple[KernelSpec, ...]:
        """The distinct kernels, in order of first use."""
        return tuple(dict.fromkeys(step.kernel for step in self.steps))

    def with_threads(self, threads: int) -> ExecutionPlan:
        """The plan for another number of threads. Tiles stay as they were cut, and results the same."""
        return (
            self
            if threads == self.target.threads
            else replace(self, target=replace(self.target, threads=threads))
        )

    def to_json(self) -> str:
        """The plan as JSON text; :meth:`from_json` gives an equal plan back."""
        from onnxplan.compiler.plan_json import plan_to_json

        return plan_to_json(self)

    @staticmethod
    def from_json(text: str) -> ExecutionPlan:
        """The plan that :meth:`to_json` wrote; raises ``ValueError`` for anything else."""
        from onnxplan.compiler.plan_json import plan_from_json

        return plan_from_json(text)

    def __str__(self) -> str:
        from onnxplan.compiler.plan_text import plan_to_text

        return plan_to_text(self)


class Kernels(Protocol):
    """Where a runtime finds the compiled code of kernels."""

    def addresses(
        self, specs: Sequence[KernelSpec], progress: Callable[[int, int], None] | None = None
    ) -> tuple[int, ...]:
        """What calls the kernels, in order; ``progress(done, total)`` follows those that must be compiled."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class CompiledPlan:
    """A plan and its constants: flat arrays in the order of ``plan.constants``, placed as those demand.

    ``kernels`` has the plan's kernels, where it came with them.
    """

    plan: ExecutionPlan
    constants: tuple[npt.NDArray[Any], ...]
    kernels: Kernels | None = None
