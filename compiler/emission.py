"""Collects what a device's kernel selector emits: steps on views of storages, before they have addresses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.blocks import ALIGNMENT, empty_block
from onnxplan.compiler.constant_pool import ConstantPool, derived_key
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import CompilerError, UnsupportedOperatorError
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.program import Operation, Program
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.selection import KernelSelector
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import Storage, View


@dataclass(frozen=True, slots=True, eq=False)
class EmittedStep:
    """A :class:`onnxplan.compiler.plan.Step` whose operands are still views.

    ``in_place`` are the pairs ``(output operand, input operand)`` that may share memory, ``anywhere`` the
    operands that may lie at any address.
    """

    kernel: KernelSpec
    operands: tuple[View, ...]
    outputs: tuple[int, ...]
    parameters: tuple[int, ...]
    tiles: int
    scratch: int
    flops: int
    bytes: int
    seconds: float
    nodes: tuple[str, ...]
    in_place: tuple[tuple[int, int], ...] = ()
    anywhere: tuple[int, ...] = ()


class Emission:
    """The :class:`onnxplan.compiler.selection.StepEmitter` of one compilation."""

    def __init__(self, target: Target, pool: ConstantPool) -> None:
        self.target = target
        self.pool = pool
        self.steps: list[EmittedStep] = []
        self.nodes: tuple[str, ...] = ()

    def temporary(self, dtype: DType, size: int, name: str) -> Storage:
        return Storage(dtype, size, name)

    def constant(
        self, sources: tuple[View, ...], layout: str, make: Callable[[], npt.NDArray[Any]]
    ) -> Storage:
        name = f"{sources[0].storage.name}:{layout}" if sources else layout
        return self.pool.get(
            derived_key(f"packed {layout}", sources), lambda: aligned(make(), self.target.alignment), name
        )

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
        for position in outputs:
            if operands[position].is_constant:
                raise CompilerError(f"kernel {kernel.family} writes the constant {operands[position]}")
        if seconds is None:
            seconds = self.target.seconds(flops, bytes_moved)
        self.steps.append(
            EmittedStep(
                kernel, operands, outputs, parameters, tiles, scratch, flops, bytes_moved, seconds,
                self.nodes, in_place, anywhere,
            )
        )  # fmt: skip


def emit_steps(program: Program, selector: KernelSelector, pool: ConstantPool) -> list[EmittedStep]:
    """The steps that ``selector`` chooses for the operations, in order.

    Raises :class:`UnsupportedOperatorError` where it has no kernel.
    """
    emission = Emission(selector.target, pool)
    for operation in program.operations:
        emission.nodes = operation.nodes
        try:
            selector.select(operation, emission)
        except UnsupportedOperatorError:
            raise
        except NotImplementedError as error:
            raise UnsupportedOperatorError(
                f"{error} (operation {operation}, of {_node_list(operation)})"
            ) from error
    return emission.steps


def _node_list(operation: Operation) -> str:
    return "nodes " + ", ".join(map(repr, operation.nodes)) if operation.nodes else "no node"


def aligned(array: npt.NDArray[Any], alignment: int) -> npt.NDArray[Any]:
    """``array`` in C order at an address divisible by ``alignment``; itself if it is so already, or empty."""
    if array.size == 0 or (array.flags.c_contiguous and array.ctypes.data % alignment == 0):
        return array
    if array.dtype.hasobject:
        return np.ascontiguousarray(array)
    itemsize = array.dtype.itemsize
    spare = alignment // itemsize if alignment > ALIGNMENT else 0
    block = empty_block(array.size + spare, array.dtype)
    start = -block.ctypes.data % alignment // itemsize
    result: npt.NDArray[Any] = block[start : start + array.size].reshape(array.shape)
    result[...] = array
    return result
