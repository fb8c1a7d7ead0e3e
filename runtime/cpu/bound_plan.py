"""A plan turned into the tables that the native executor walks: kernels, parameters, modes, bindings."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.plan import Binding, Constant, ExecutionPlan, Operand, Step
from onnxplan.runtime.cpu.layout import (
    CLOSED,
    MAX_RANGES,
    MAX_WORKERS,
    ArrayWord,
    BindingWord,
    PlanWord,
    RangeWord,
    StepMode,
    StepWord,
)
from onnxplan.runtime.cpu.team import Team, aligned_words

Words = npt.NDArray[np.int64]

SHARE_SECONDS = 2e-6
"""A step estimated shorter than this is not worth handing tiles over between cores."""
WAKE_SECONDS = 15e-6
"""Shared work ahead that is worth waking a sleeping helper for.

That costs the caller a few microseconds, and the helper comes later than such work takes. But then it is
awake for runs that follow soon, which it makes shorter by a quarter to a half.
"""
CLAIM_SECONDS = 1e-6
"""A claim should be worth this much work, as it costs up to a tenth of it between cores."""
RELEASE_SECONDS = 5e-6
"""A run estimated shorter than this holds the interpreter's lock and does not count as a busy caller."""
MOST_CLAIMS = 64
"""With so many claims a worker, what is left in the end is little, and longer pieces read on in memory."""
PIECES = 4
"""Pieces of a step for each worker, where tiles are small: what is left in the end is shared by stealing."""
MAX_SHARED_TILES = 1 << 30
WORD_MASK = (1 << 64) - 1

Constants = Mapping[str, npt.NDArray[Any]] | Sequence[npt.NDArray[Any]]


class BoundPlan:
    """The part of a plan's tables that all its runs share.

    ``constants`` holds the plan's constants in order, or by name; each must be a C-contiguous array of the
    constant's type and shape at the target's alignment. They are kept, not copied. ``ValueError`` where they
    or the plan's buffers do not fit together.
    """

    def __init__(self, plan: ExecutionPlan, constants: Constants, kernels: Sequence[int], team: Team) -> None:
        self.plan = plan
        self.kernel_addresses = tuple(kernels)
        self.constants = tuple([_constant(plan, constants, index) for index in range(len(plan.constants))])
        self._constant_addresses = [array.ctypes.data for array in self.constants]
        _check_alignment(plan, self._constant_addresses)
        _check_buffers(plan)
        self.workers = min(plan.target.threads, MAX_WORKERS, team.cores)
        modes, grains = _modes(plan.steps, self.workers)
        self.shared = any(mode != StepMode.ALONE for mode in modes)
        self.helpers = self.workers - 1 if self.shared else 0
        self.ranges = min(self.workers, MAX_RANGES)
        self.scratch_stride = -(-plan.scratch_bytes // 128) * 128
        self._parameters = _words([word for step in plan.steps for word in step.parameters])
        self._steps = self._step_table(dict(zip(plan.kernels, kernels, strict=True)), modes, grains)
        self._bindings, self.operands, self.arena_operands = self._operand_tables()
        self._arrays, self._shapes, self._dtypes = _array_table(plan)
        self._record = aligned_words(PlanWord.WORDS)
        self._fill_record(team)

    @property
    def address(self) -> int:
        return int(self._record.ctypes.data)

    @property
    def table_bytes(self) -> int:
        """Bytes of the shared tables, constants not counted."""
        return sum(table.nbytes for table in (self._parameters, self._steps, self._bindings, self.operands))

    def _step_table(self, kernels: Mapping[Any, int], modes: list[int], grains: list[int]) -> Words:
        rows = []
        operand, parameter = 0, self._parameters.ctypes.data
        for step, mode, grain in zip(self.plan.steps, modes, grains, strict=True):
            row = [0] * StepWord.WORDS
            row[StepWord.KERNEL] = kernels[step.kernel]
            row[StepWord.OPERANDS] = 8 * operand
            row[StepWord.PARAMETERS] = parameter
            row[StepWord.TILES] = step.tiles
            row[StepWord.GRAIN] = grain
            row[StepWord.MODE] = mode
            row[StepWord.PIECES], row[StepWord.LONGER] = divmod(-(-step.tiles // grain), self.ranges)
            rows.append(row)
            operand += len(step.operands)
            parameter += 8 * len(step.parameters)
        return np.array(rows, np.int64).reshape(len(rows), StepWord.WORDS)

    def _operand_tables(self) -> tuple[Words, Words, npt.NDArray[np.bool_]]:
        """Bindings, and for each operand its address, or its offset in the arena where the mask says so."""
        plan, bindings, addresses, in_arena = self.plan, [], [], []
        for position, operand in enumerate([operand for step in plan.steps for operand in step.operands]):
            buffer = plan.buffers[operand.buffer]
            space, offset = buffer.space, buffer.offset + operand.offset
            in_arena.append(space == "arena")
            if space == "constant":
                offset += self._constant_addresses[buffer.index]
            elif space in ("input", "output"):
                array = buffer.index + (len(plan.inputs) if space == "output" else 0)
                bindings.append((8 * position, array, offset))
            addresses.append(offset)
        table = np.array(bindings, np.int64).reshape(len(bindings), BindingWord.WORDS)
        return table, np.array(addresses, np.int64), np.array(in_arena, np.bool_)

    def _fill_record(self, team: Team) -> None:
        plan, record = self.plan, self._record
        record[PlanWord.TEAM] = team.address
        record[PlanWord.STEPS] = self._steps.ctypes.data
        record[PlanWord.STEP_COUNT] = len(plan.steps)
        record[PlanWord.BINDINGS] = self._bindings.ctypes.data
        record[PlanWord.BINDING_COUNT] = len(self._bindings)
        record[PlanWord.INPUT_COUNT] = len(plan.inputs)
        record[PlanWord.OUTPUT_COUNT] = len(plan.outputs)
        record[PlanWord.SCRATCH_STRIDE] = self.scratch_stride
        record[PlanWord.RANGES] = self.ranges
        record[PlanWord.LAST_SHARED] = self._last_shared()
        record[PlanWord.PLACES] = ~((1 << self.helpers) - 1) & ~CLOSED
        record[PlanWord.ARRAYS] = self._arrays.ctypes.data
        record[PlanWord.RELEASE] = self.shared or plan.seconds >= RELEASE_SECONDS

    def _last_shared(self) -> int:
        shared = np.flatnonzero(self._steps[:, StepWord.MODE] != StepMode.ALONE)
        return int(shared[-1]) if len(shared) else -1


def _array_table(plan: ExecutionPlan) -> tuple[Words, Words, tuple[np.dtype[Any], ...]]:
    """What each input and output must be, the shapes that it points to, and the element types."""
    bindings = (*plan.inputs, *plan.outputs)
    dtypes = tuple(binding.dtype.numpy for binding in bindings)
    shapes = np.array([extent for binding in bindings for extent in binding.shape], np.int64)
    table = np.zeros((len(bindings), ArrayWord.WORDS), np.int64)
    start = 0
    for row, binding, dtype in zip(table, bindings, dtypes, strict=True):
        row[ArrayWord.DTYPE] = id(dtype)
        row[ArrayWord.RANK] = len(binding.shape)
        row[ArrayWord.SHAPE] = shapes.ctypes.data + 8 * start
        start += len(binding.shape)
    return table, shapes, dtypes


def _words(values: Sequence[int]) -> Words:
    """64-bit words of integers that may be signed or unsigned."""
    return np.array([value & WORD_MASK for value in values], np.uint64).view(np.int64)


def _modes(steps: Sequence[Step], workers: int) -> tuple[list[int], list[int]]:
    """For each step its mode and how many tiles one claim takes."""
    modes, grains = [StepMode.ALONE] * len(steps), [1] * len(steps)
    if workers == 1:
        return modes, grains
    ahead = 0.0
    for position in range(len(steps) - 1, -1, -1):
        step = steps[position]
        if not 1 < step.tiles <= MAX_SHARED_TILES or step.seconds < SHARE_SECONDS:
            continue
        ahead += step.seconds
        modes[position] = StepMode.WAKE if ahead >= WAKE_SECONDS else StepMode.SHARED
        worthwhile = round(step.tiles * max(CLAIM_SECONDS / step.seconds, 1 / (MOST_CLAIMS * workers)))
        least = -(-step.tiles // (min(workers, MAX_RANGES) * RangeWord.MOST_PIECES))
        grains[position] = max(least, min(worthwhile, step.tiles // (PIECES * workers)))
    return modes, grains


def _constant(plan: ExecutionPlan, constants: Constants, index: int) -> npt.NDArray[Any]:
    wanted: Constant = plan.constants[index]
    array = constants[wanted.name] if isinstance(constants, Mapping) else constants[index]
    if array.shape != wanted.shape or array.dtype != wanted.dtype.numpy:
        raise ValueError(
            f"constant {wanted.name!r} is {array.dtype}{list(array.shape)}, "
            f"the plan wants {wanted.dtype}{list(wanted.shape)}"
        )
    if not array.flags.c_contiguous:
        raise ValueError(f"constant {wanted.name!r} is not contiguous")
    return array


def _check_alignment(plan: ExecutionPlan, addresses: Sequence[int]) -> None:
    alignment = plan.target.alignment
    for wanted, address in zip(plan.constants, addresses, strict=True):
        if address % alignment and not wanted.anywhere and 0 not in wanted.shape:
            raise ValueError(f"constant {wanted.name!r} is not aligned to {alignment} bytes")


def _check_buffers(plan: ExecutionPlan) -> None:
    """Raises ``ValueError`` where a buffer or operand lies outside of what it is in."""
    sizes = {
        "input": [_binding_bytes(item) for item in plan.inputs],
        "output": [_binding_bytes(item) for item in plan.outputs],
        "constant": [_binding_bytes(item) for item in plan.constants],
    }
    arena = [plan.arena_bytes]
    for buffer in plan.buffers:
        owners = arena if buffer.space == "arena" else sizes.get(buffer.space, [])
        index = 0 if buffer.space == "arena" else buffer.index
        if not 0 <= index < len(owners) or not 0 <= buffer.offset <= owners[index] - buffer.size:
            raise ValueError(f"buffer {buffer} lies outside of its space")
    for step in plan.steps:
        if step.scratch > plan.scratch_bytes:
            raise ValueError(f"step {step.kernel} wants more scratch than the plan has")
        for operand in step.operands:
            if not _fits(operand, plan.buffers[operand.buffer].size):
                raise ValueError(f"operand {operand} of step {step.kernel} lies outside of its buffer")


def _binding_bytes(item: Binding | Constant) -> int:
    return math.prod(item.shape) * item.dtype.itemsize


def _fits(operand: Operand, size: int) -> bool:
    low, high = _reach(operand.shape, operand.strides)
    item = operand.dtype.itemsize
    return low == high or (operand.offset + low * item >= 0 and operand.offset + high * item <= size)


@functools.lru_cache(maxsize=4096)
def _reach(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, int]:
    """The first element of a view and the one behind its last, from where it begins; the same if it is empty.

    Nothing is read or written then, wherever it would begin. Layers of a model have the same again and again.
    """
    if 0 in shape:
        return 0, 0
    low = high = 0
    for extent, stride in zip(shape, strides, strict=True):
        low += min(0, (extent - 1) * stride)
        high += max(0, (extent - 1) * stride)
    return low, high + 1
