"""What a device's kernel selector emits: steps on views of storages, before they have addresses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.blocks import ALIGNMENT, empty_block
from onnxplan.compiler.constant_pool import ConstantPool, derived_key
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import CompilerError
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import READS, Storage, View


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

    def of(self, operands: tuple[View, ...], nodes: tuple[str, ...]) -> EmittedStep:
        """The same step on other operands, for other nodes."""
        return EmittedStep(
            self.kernel, operands, self.outputs, self.parameters, self.tiles, self.scratch, self.flops,
            self.bytes, self.seconds, nodes, self.in_place, self.anywhere,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class EmittedConstant:
    """What :meth:`Emission.constant` was asked for and returned, and how far :data:`READS` went on for it."""

    storage: Storage
    sources: tuple[View, ...]
    layout: str
    make: Callable[..., npt.NDArray[Any]]
    reads: int


class Emission:
    """The :class:`onnxplan.compiler.selection.StepEmitter` of one compilation."""

    def __init__(self, target: Target, pool: ConstantPool) -> None:
        self.target = target
        self.pool = pool
        self.steps: list[EmittedStep] = []
        self.nodes: tuple[str, ...] = ()
        self.temporaries: list[Storage] = []
        self.constants: list[EmittedConstant] = []

    def begin(self, nodes: tuple[str, ...]) -> None:
        """Begins an operation of ``nodes``: forgets the temporaries and constants of the last one."""
        self.nodes = nodes
        self.temporaries, self.constants = [], []

    def temporary(self, dtype: DType, size: int, name: str) -> Storage:
        storage = Storage(dtype, size, name)
        self.temporaries.append(storage)
        return storage

    def constant(
        self, sources: tuple[View, ...], layout: str, make: Callable[..., npt.NDArray[Any]]
    ) -> Storage:
        began = next(READS)

        def packed() -> npt.NDArray[Any]:
            return aligned(make(*[view.numpy() for view in sources]), self.target.alignment)

        def found() -> Storage:
            name = f"{sources[0].storage.name}:{layout}" if sources else layout
            return self.pool.get(derived_key(f"packed {layout}", sources), packed, name)

        # Keys of what many plans ask for are not made again; what is kept is the pool's anyway.
        storage = self.pool.recall(("packed", layout, *sources), sources, found, lambda made: 0)
        reads = next(READS) - began + 1
        self.constants.append(EmittedConstant(storage, sources, layout, make, reads))
        return storage

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
