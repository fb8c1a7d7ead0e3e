"""A stage of a model, bound to a device: what it takes, what it gives, and arrays for its results."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any

import numpy as np

from onnxplan.compiler.errors import InvalidFeedsError, OutOfMemoryError
from onnxplan.compiler.plan import DEMAND
from onnxplan.compiler.records import dataclass
from onnxplan.runtime.device import AnyArray, Array, Device, Executor, StartingExecutor
from onnxplan.runtime.planner import Request, Shape, StageFacts


@dataclass(eq=False)
class BoundStage:
    """A stage of a model for one request, bound to a device.

    ``answers`` are those that the stages before gave. ``allocations`` are shape and NumPy dtype of each
    output, ``makers`` make a new array on the host for each. ``seconds`` is the estimated run time.
    ``constants`` are the bytes of the plan's constants by their identities.
    """

    executor: Executor
    device: Device
    facts: StageFacts
    request: Request
    answers: tuple[Array, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    allocations: tuple[tuple[Shape, np.dtype[Any]], ...]
    makers: tuple[Callable[[], AnyArray], ...]
    seconds: float
    constants: Mapping[int, int]
    used: bool = False

    def __post_init__(self) -> None:
        self.allocate: Callable[[], tuple[AnyArray, ...]] = _allocator(
            self.output_names, self.makers, self._bytes
        )
        """Makes new arrays on the host for the outputs; raises ``OutOfMemoryError``."""
        executor = self.executor
        self.starter = executor if isinstance(executor, StartingExecutor) and executor.starts else None
        """What starts runs on the thread of an event loop, where the device and the plan allow it."""

    @property
    def _bytes(self) -> int:
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in self.allocations)

    @cached_property
    def pick(self) -> Callable[[Mapping[str, Array]], tuple[Array, ...]] | None:
        """Takes the plan's inputs out of feeds; ``None`` where the plan does not read all that are fed."""
        names, facts = self.input_names, self.facts
        if facts.run_key or not facts.final or self.answers or facts.texts or facts.structures:
            return None
        if not names or len(names) < len(self.request.names):
            return None
        return itemgetter(*names) if len(names) > 1 else lambda feeds: (feeds[names[0]],)

    @cached_property
    def _expected(self) -> tuple[tuple[str, Shape, np.dtype[Any]], ...]:
        """What each of the plan's inputs must be."""
        return tuple((each.name, each.shape, each.dtype.numpy) for each in self.executor.plan.inputs)

    def fitting(self, feeds: Mapping[str, Any]) -> tuple[Array, ...] | None:
        """The plan's inputs, where ``feeds`` are NumPy arrays that it reads as they are; else None.

        Finds that out in a tenth of the time that checks with messages take.
        """
        if self.pick is None or type(feeds) is not dict or len(feeds) != len(self._expected):
            return None
        arrays = []
        for name, shape, dtype in self._expected:
            array = feeds.get(name)
            if type(array) is not np.ndarray or array.shape != shape or array.dtype != dtype:
                return None
            flags = array.flags
            if not (flags.c_contiguous and flags.aligned):
                return None
            arrays.append(array)
        return tuple(arrays)

    def allocate_on_device(self) -> tuple[AnyArray, ...]:
        """New tensors for the outputs where the device has its memory, but for the answer, which is read."""
        return self.allocate_beside({}, on_device=True)

    def allocate_beside(self, out: Mapping[str, AnyArray], *, on_device: bool) -> tuple[AnyArray, ...]:
        """The arrays of ``out``, and new ones for outputs that are not in it.

        Raises ``InvalidFeedsError`` where those of ``out`` have another type or shape, ``OutOfMemoryError``.
        """
        for name, (shape, dtype) in zip(self.output_names, self.allocations, strict=True):
            array = out.get(name)
            if array is not None and (array.shape != shape or array.dtype != dtype):
                raise InvalidFeedsError(
                    f"out: {name!r} is {array.dtype}{list(array.shape)}, the output is {dtype}{list(shape)}"
                )
        allocate = self.device.allocate
        try:
            return tuple(
                [
                    out[name] if name in out else allocate(shape, dtype, host=not on_device or name == DEMAND)
                    for name, (shape, dtype) in zip(self.output_names, self.allocations, strict=True)
                ]
            )
        except MemoryError as error:
            raise _out_of_memory(self.output_names, self._bytes, error) from error


def _allocator(
    names: tuple[str, ...], makers: Sequence[Callable[[], AnyArray]], nbytes: int
) -> Callable[[], tuple[AnyArray, ...]]:
    """A function that calls all ``makers``. Every run calls it, so it has nothing left to look up."""
    if len(makers) == 1:
        (make,) = makers

        def allocate_one() -> tuple[AnyArray, ...]:
            try:
                return (make(),)
            except MemoryError as error:
                raise _out_of_memory(names, nbytes, error) from error

        return allocate_one

    def allocate() -> tuple[AnyArray, ...]:
        try:
            return tuple([make() for make in makers])
        except MemoryError as error:
            raise _out_of_memory(names, nbytes, error) from error

    return allocate


def _out_of_memory(names: tuple[str, ...], nbytes: int, error: MemoryError) -> OutOfMemoryError:
    return OutOfMemoryError(
        f"the outputs {', '.join(map(repr, names))} need {nbytes:,} bytes of memory: {error}"
    )
