"""An operation graph of cuDNN's for a step of a plan: descriptors, an engine that takes it, launches."""

from __future__ import annotations

import ctypes
import itertools
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import UnsupportedOperatorError
from onnxplan.compiler.plan import ExecutionPlan, Operand, Step
from onnxplan.compiler.records import dataclass
from onnxplan.runtime.cuda.cudnn import (
    CUDNN_DATA_BFLOAT16,
    CUDNN_DATA_FLOAT,
    CUDNN_DATA_HALF,
    CUDNN_HEUR_MODE_A,
    CUDNN_HEUR_MODE_FALLBACK,
    CUDNN_KNOB_TYPE_COUNTS,
    CUDNN_STATUS_NOT_INITIALIZED,
    Attribute,
    Cudnn,
    CudnnError,
    Descriptor,
    Kind,
    NumericalNote,
)
from onnxplan.runtime.cuda.tuning import Candidates, Tuner

TYPES = {"float32": CUDNN_DATA_FLOAT, "float16": CUDNN_DATA_HALF, "bfloat16": CUDNN_DATA_BFLOAT16}
DTYPES = {number: DType.from_label(label) for label, number in TYPES.items()}
SYMBOL = "cudnn engine"
TIMED_ENGINES = 8
"""How many are timed, of those that may be used."""
ALIGNMENT = 16
"""Bytes that all addresses are multiples of."""

MATRIX_INSTRUCTIONS = frozenset({NumericalNote.TENSOR_CORE})
"""The notes that an engine with matrix instructions may have: results must be those of sums in float32,
the same in each run."""

Attributes = tuple[Attribute, tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Tensor:
    """Extents and strides in elements, in the order of cuDNN."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @staticmethod
    def of(shape: Sequence[int], strides: Sequence[int]) -> Tensor:
        """The tensor of a view.

        Axes of one element get the distance that they have in a packed tensor, and so does one whose elements
        are all the same: it has one element.
        """
        extents = [1 if stride == 0 else extent for extent, stride in zip(shape, strides, strict=True)]
        packed, distances = 1, list(strides)
        for axis in reversed(range(len(extents))):
            if extents[axis] == 1:
                distances[axis] = packed
            packed = max(packed, distances[axis] * extents[axis])
        return Tensor(tuple(extents), tuple(distances))

    @staticmethod
    def packed(shape: Sequence[int]) -> Tensor:
        strides, step = [0] * len(shape), 1
        for axis in reversed(range(len(shape))):
            strides[axis] = step
            step *= shape[axis]
        return Tensor(tuple(shape), tuple(strides))

    @property
    def span(self) -> int:
        """Elements from the first to the last, both included."""
        return 1 + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))

    def permuted(self, order: Sequence[int]) -> Tensor:
        """The same elements with their axes in another order."""
        return Tensor(tuple(self.shape[axis] for axis in order), tuple(self.strides[axis] for axis in order))


def check_alignment(operands: Sequence[Operand], plan: ExecutionPlan) -> None:
    """Raises ``ValueError`` where the address of one is no multiple of :data:`ALIGNMENT`."""
    for operand in operands:
        if (plan.buffers[operand.buffer].offset + operand.offset) % ALIGNMENT:
            raise ValueError(f"cudnn: an operand is not at a multiple of {ALIGNMENT} bytes")


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine with its knobs: its configuration, the plan for it, and the bytes that it needs."""

    configuration: Descriptor
    plan: Descriptor
    workspace_bytes: int


class CudnnGraph(ABC):
    """A problem with the engine for it; shared by all slots of an executor.

    ``problem`` is what a step asks of cuDNN, equal for steps that are alike; its text is for messages.
    ``workspace`` is the most bytes that it may use, ``tuner`` chooses the engine if it is given. Raises
    :class:`UnsupportedOperatorError` where cuDNN does not take the problem, saying why.
    """

    needed_notes: ClassVar[frozenset[NumericalNote]]
    """The notes that an engine must have."""
    allowed_notes: ClassVar[frozenset[NumericalNote]] = MATRIX_INSTRUCTIONS
    """Those that it may have."""

    def __init__(
        self,
        library: Cudnn,
        handle: int,
        lock: threading.Lock,
        problem: Any,
        *,
        workspace: int,
        tuner: Tuner | None = None,
    ) -> None:
        self.problem = problem
        self._library = library
        self._handle = handle
        self._lock = lock
        self._owned: list[Descriptor] = []
        self._scalars: list[Any] = []
        self._operands: list[tuple[int, DType]] = []
        try:
            self._engine = self._choose(workspace, tuner)
        except BaseException:
            self.close()
            raise

    @staticmethod
    @abstractmethod
    def describe(step: Step, plan: ExecutionPlan) -> Any:
        """The problem of a step; raises ``ValueError`` where an operand does not lie as its family says."""

    @staticmethod
    @abstractmethod
    def operand_order(step: Step) -> tuple[int, ...]:
        """The operands of a step in the order of :meth:`pack`'s addresses."""

    @abstractmethod
    def _graphs(self) -> Sequence[Callable[[], Descriptor]]:
        """What makes the operation graphs that say the problem, rather the first of them.

        Tensors in memory are numbered from 1 in the order of :meth:`pack`'s addresses, then come scalars.
        """

    @property
    def workspace_bytes(self) -> int:
        return self._engine.workspace_bytes

    def _make(self, kind: Kind, *attributes: Attributes) -> Descriptor:
        """A finalised descriptor, which lives as long as this object."""
        descriptor = Descriptor(self._library, kind)
        self._owned.append(descriptor)
        for attribute, values in attributes:
            descriptor.set(attribute, *values)
        descriptor.finalize()
        return descriptor

    def _tensor(
        self, number: int, tensor: Tensor, dtype: int, *, virtual: bool = False, by_value: bool = False
    ) -> Descriptor:
        if not (virtual or by_value):
            element = DTYPES[dtype]
            self._operands.append((tensor.span * element.itemsize, element))
        return self._make(
            Kind.TENSOR,
            (Attribute.TENSOR_DATA_TYPE, (dtype,)),
            (Attribute.TENSOR_DIMENSIONS, tensor.shape),
            (Attribute.TENSOR_STRIDES, tensor.strides),
            (Attribute.TENSOR_UNIQUE_ID, (number,)),
            (Attribute.TENSOR_BYTE_ALIGNMENT, (ALIGNMENT,)),
            (Attribute.TENSOR_IS_VIRTUAL, (virtual,)),
            *([(Attribute.TENSOR_IS_BY_VALUE, (True,))] if by_value else []),
        )

    def _scalar(self, number: int, value: float) -> Descriptor:
        """A number of the host's, which a launch reads, for tensors of four axes."""
        self._scalars.append(ctypes.c_float(value))
        return self._tensor(number, Tensor.packed((1, 1, 1, 1)), CUDNN_DATA_FLOAT, by_value=True)

    def _operation_graph(self, operations: Sequence[Descriptor], *, inner: bool = False) -> Descriptor:
        """A graph of operations; an ``inner`` one is part of an operation and knows no handle."""
        handle = [] if inner else [(Attribute.OPERATIONGRAPH_HANDLE, (self._handle,))]
        return self._make(Kind.OPERATIONGRAPH, *handle, (Attribute.OPERATIONGRAPH_OPS, tuple(operations)))

    def _pointwise(
        self,
        mode: int,
        operands: Sequence[Descriptor],
        result: Descriptor,
        *,
        precision: int = CUDNN_DATA_FLOAT,
        axis: int | None = None,
    ) -> Descriptor:
        """An operation on each element of one to three tensors; ``axis`` is that of indices."""
        names = (
            Attribute.OPERATION_POINTWISE_XDESC,
            Attribute.OPERATION_POINTWISE_BDESC,
            Attribute.OPERATION_POINTWISE_TDESC,
        )
        pointwise = self._make(
            Kind.POINTWISE,
            (Attribute.POINTWISE_MODE, (mode,)),
            (Attribute.POINTWISE_MATH_PREC, (precision,)),
            *([] if axis is None else [(Attribute.POINTWISE_AXIS, (axis,))]),
        )
        return self._make(
            Kind.OPERATION_POINTWISE,
            (Attribute.OPERATION_POINTWISE_PW_DESCRIPTOR, (pointwise,)),
            *((name, (operand,)) for name, operand in zip(names, operands, strict=False)),
            (Attribute.OPERATION_POINTWISE_YDESC, (result,)),
        )

    def _choose(self, workspace: int, tuner: Tuner | None) -> Engine:
        """The first engine that may be used, in the heuristic's order, or the one that ``tuner`` chooses."""
        reasons: list[str] = []
        for make in self._graphs():
            self._scalars.clear()
            self._operands.clear()
            try:
                configurations = self._configurations(make(), reasons)
                if tuner is None:
                    found = next(self._engines(configurations, workspace, reasons), None)
                else:
                    found = self._tuned(tuner, configurations, workspace, reasons)
            except CudnnError as error:
                reasons.append(str(error))
                continue
            if found is not None:
                return found
        said = "; ".join(dict.fromkeys(reasons)) or "it offers no engine"
        raise UnsupportedOperatorError(f"cuDNN does not take the {self.problem}: {said}")

    def _tuned(
        self, tuner: Tuner, configurations: Iterator[Descriptor], workspace: int, reasons: list[str]
    ) -> Engine | None:
        """The engine that was fastest when it was timed, in this process or an earlier one."""
        key = f"cuDNN {self._library.version}, {type(self).__name__} of {self.problem!r}"
        known = tuner.known(SYMBOL, key)
        if known is not None:
            first = sorted(configurations, key=lambda configuration: self._record(configuration) != known)
            return next(self._engines(iter(first), workspace, reasons), None)
        engines = list(itertools.islice(self._engines(configurations, workspace, reasons), TIMED_ENGINES))
        if not engines:
            return None

        def launch(addresses: Sequence[int], number: int, stream: int) -> None:
            *operands, memory = addresses
            with self._pack(operands, memory) as pack:
                self._launcher(pack, engines[number].plan)(stream)

        chosen = tuner.choose(
            Candidates(
                SYMBOL,
                key,
                str(self.problem),
                tuple(self._operands),
                tuple(self._record(engine.configuration) for engine in engines),
                tuple(engine.workspace_bytes for engine in engines),
                launch,
            )
        )
        for number, engine in enumerate(engines):
            if number != chosen:
                self._owned.remove(engine.plan)
                engine.plan.close()
        return engines[chosen]

    def _engines(
        self, configurations: Iterator[Descriptor], workspace: int, reasons: list[str]
    ) -> Iterator[Engine]:
        """Those that may be used; ``reasons`` get what is wrong with the others."""
        for configuration in configurations:
            try:
                yield self._planned(configuration, workspace)
            except (CudnnError, _UnfitError) as error:
                reasons.append(str(error))

    def _planned(self, configuration: Descriptor, workspace: int) -> Engine:
        """The engine of a configuration; :class:`_UnfitError` for one not to be used."""
        notes = self._notes(configuration)
        if not self.needed_notes <= notes <= self.allowed_notes:
            said = ", ".join(sorted(note.name for note in notes)) or "none"
            raise _UnfitError(f"the notes of an engine are {said}")
        plan = self._make(
            Kind.EXECUTION_PLAN,
            (Attribute.EXECUTION_PLAN_HANDLE, (self._handle,)),
            (Attribute.EXECUTION_PLAN_ENGINE_CONFIG, (configuration,)),
        )
        (nbytes,) = plan.get(Attribute.EXECUTION_PLAN_WORKSPACE_SIZE)
        if nbytes > workspace:
            raise _UnfitError(f"an engine needs {nbytes} bytes of workspace")
        return Engine(configuration, plan, nbytes)

    def _record(self, configuration: Descriptor) -> bytes:
        """The number of the engine, and the types and values of its knobs in the order of types."""
        (number,) = self._of_engine(configuration, Attribute.ENGINE_GLOBAL_INDEX)
        # How many there are is told to those alone who ask for them.
        choices = [Descriptor(self._library, Kind.KNOB_CHOICE) for _ in range(CUDNN_KNOB_TYPE_COUNTS)]
        try:
            count = configuration.fill(Attribute.ENGINECFG_KNOB_CHOICES, choices)
            knobs = sorted(
                (
                    *choice.get(Attribute.KNOB_CHOICE_KNOB_TYPE),
                    *choice.get(Attribute.KNOB_CHOICE_KNOB_VALUE),
                )
                for choice in choices[:count]
            )
        except CudnnError as error:
            # What 9.28.1 answers for engines that tell no knobs.
            if error.status != CUDNN_STATUS_NOT_INITIALIZED:
                raise
            knobs = []
        finally:
            for choice in choices:
                choice.close()
        words = [number, *itertools.chain.from_iterable(knobs)]
        return struct.pack(f"<{len(words)}q", *words)

    def _configurations(self, graph: Descriptor, reasons: list[str]) -> Iterator[Descriptor]:
        """Engine configurations, best first."""
        for mode in (CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK):
            yield from self._ranked(graph, mode, reasons)

    def _ranked(self, graph: Descriptor, mode: int, reasons: list[str]) -> list[Descriptor]:
        """The configurations that a mode of the heuristic offers."""
        try:
            heuristic = self._make(
                Kind.ENGINEHEUR,
                (Attribute.ENGINEHEUR_OPERATION_GRAPH, (graph,)),
                (Attribute.ENGINEHEUR_MODE, (mode,)),
            )
            count = heuristic.count(Attribute.ENGINEHEUR_RESULTS)
            found = [Descriptor(self._library, Kind.ENGINECFG) for _ in range(count)]
            self._owned += found
            return found[: heuristic.fill(Attribute.ENGINEHEUR_RESULTS, found)] if found else []
        except CudnnError as error:
            reasons.append(str(error))
            return []

    def _notes(self, configuration: Descriptor) -> set[NumericalNote]:
        found = self._of_engine(configuration, Attribute.ENGINE_NUMERICAL_NOTE)
        return {NumericalNote(note) for note in found if note in set(NumericalNote)}

    def _of_engine(self, configuration: Descriptor, attribute: Attribute) -> list[int]:
        with Descriptor(self._library, Kind.ENGINE) as engine:
            configuration.fill(Attribute.ENGINECFG_ENGINE, [engine])
            return engine.get(attribute)

    def pack(self, addresses: Sequence[int], workspace: int) -> Descriptor:
        """What a launch is given: the addresses of tensors in their order; the caller closes it."""
        return self._pack(addresses, workspace if self.workspace_bytes else 0)

    def _pack(self, addresses: Sequence[int], workspace: int) -> Descriptor:
        values = (*addresses, *(ctypes.addressof(scalar) for scalar in self._scalars))
        pack = Descriptor(self._library, Kind.VARIANT_PACK)
        try:
            pack.set(Attribute.VARIANT_PACK_UNIQUE_IDS, *range(1, len(values) + 1))
            pack.set(Attribute.VARIANT_PACK_DATA_POINTERS, *values)
            pack.set(Attribute.VARIANT_PACK_WORKSPACE, workspace)
            pack.finalize()
        except BaseException:
            pack.close()
            raise
        return pack

    def launcher(self, pack: Descriptor) -> Callable[[int], None]:
        """``launch(stream)`` for what ``pack`` holds."""
        return self._launcher(pack, self._engine.plan)

    def _launcher(self, pack: Descriptor, engine: Descriptor) -> Callable[[int], None]:
        library, handle, plan, lock = self._library, self._handle, engine.handle, self._lock

        def launch(stream: int) -> None:
            # The stream belongs to the handle, which other slots use too.
            with lock:
                library.call("cudnnSetStream", handle, stream)
                library.call("cudnnBackendExecute", handle, plan, pack.handle)

        return launch

    def close(self) -> None:
        while self._owned:
            self._owned.pop().close()


class _UnfitError(Exception):
    """An engine is not to be used; the text says why."""
