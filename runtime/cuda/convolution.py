"""Convolutions of a plan by cuDNN: an operation graph, an engine that takes it, and its launches.

The graph is the convolution, then residual, bias and ReLU as far as there are any, in the order of engines
that cuDNN has compiled for this chain. Tensors between the operations are virtual, of float32.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onnxplan.compiler.errors import UnsupportedOperatorError
from onnxplan.compiler.plan import ExecutionPlan, KernelSpec, Step
from onnxplan.compiler.records import dataclass
from onnxplan.runtime.cuda.context import CudaContext
from onnxplan.runtime.cuda.cudnn import (
    CUDNN_CROSS_CORRELATION,
    CUDNN_DATA_BFLOAT16,
    CUDNN_DATA_FLOAT,
    CUDNN_DATA_HALF,
    CUDNN_HEUR_MODE_A,
    CUDNN_HEUR_MODE_FALLBACK,
    CUDNN_POINTWISE_ADD,
    CUDNN_POINTWISE_RELU_FWD,
    Attribute,
    Cudnn,
    CudnnError,
    Descriptor,
    Kind,
    NumericalNote,
)
from onnxplan.runtime.cuda.matmul import workspace_limit

logger = logging.getLogger("onnxplan.cuda")

FAMILY = "cudnn"
OWN_FAMILY = "conv_matrix"
"""Of the kernel that takes the place of a step which cuDNN refuses."""

TYPES = {"float32": CUDNN_DATA_FLOAT, "float16": CUDNN_DATA_HALF, "bfloat16": CUDNN_DATA_BFLOAT16}
ALIGNMENT = 16
"""Bytes that all addresses are multiples of."""
ADDED = ("residual", "bias")
"""What may be added to the sums, in this order."""

WANTED = frozenset({NumericalNote.TENSOR_CORE})
"""The notes that an engine must have: without matrix instructions it is slower than our own kernel. Others
are left out: results must be those of sums in float32, the same in each run."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """Extents and strides in elements, in the order of cuDNN: image, channels, places."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @staticmethod
    def channels_last(shape: Sequence[int], strides: Sequence[int]) -> Tensor:
        """The tensor of a view whose channels are the last axis.

        Axes of one element get the distance that they have in a packed tensor, and so does one whose elements
        are all the same: it has one element.
        """
        extents = [1 if stride == 0 else extent for extent, stride in zip(shape, strides, strict=True)]
        packed, distances = 1, list(strides)
        for axis in reversed(range(len(extents))):
            if extents[axis] == 1:
                distances[axis] = packed
            packed = max(packed, distances[axis] * extents[axis])
        order = (0, len(extents) - 1, *range(1, len(extents) - 1))
        return Tensor(tuple(extents[axis] for axis in order), tuple(distances[axis] for axis in order))


@dataclass(frozen=True, slots=True)
class Convolution:
    """``y = relu(x * w + residual + bias)``; weights are (features, channels of a group, places).

    ``added`` has the tensors of what is added, by the names in :data:`ADDED`.
    """

    dtype: str
    x: Tensor
    w: Tensor
    y: Tensor
    added: tuple[tuple[str, Tensor], ...]
    relu: bool
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_before: tuple[int, ...]
    pads_after: tuple[int, ...]

    @staticmethod
    def of(step: Step, plan: ExecutionPlan) -> Convolution:
        """The convolution of a step of the family ``cudnn``; see the contract of the family's variant."""
        variant: Any = step.kernel.variant
        roles, relu, kernel, strides, dilations, before, after, _ = variant
        x, w, *extras, y = step.operands
        for operand in step.operands:
            if (plan.buffers[operand.buffer].offset + operand.offset) % ALIGNMENT:
                raise ValueError(f"cudnn: an operand is not at a multiple of {ALIGNMENT} bytes")
        features = w.shape[0]
        shape = (features, *kernel, w.shape[1] // math.prod(kernel))
        packed = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        tensors = {
            role: Tensor.channels_last(extra.shape, extra.strides)
            for role, extra in zip(roles, extras, strict=True)
        }
        return Convolution(
            x.dtype.label,
            Tensor.channels_last(x.shape, x.strides),
            Tensor.channels_last(shape, packed),
            Tensor.channels_last(y.shape, y.strides),
            tuple((role, tensors[role]) for role in ADDED if role in tensors),
            relu,
            *(tuple(words) for words in (strides, dilations, before, after)),
        )

    def __str__(self) -> str:
        chain = " + ".join(["convolution", *(name for name, _ in self.added), *["relu"] * self.relu])
        return f"{chain} of {self.dtype} {self.x.shape} by {self.w.shape}"


class BoundConvolution:
    """A convolution with the engine for it; shared by all slots of an executor.

    ``workspace`` is the most bytes that it may use. Raises :class:`UnsupportedOperatorError` where cuDNN does
    not take the convolution, saying why.
    """

    def __init__(
        self, library: Cudnn, handle: int, lock: threading.Lock, convolution: Convolution, *, workspace: int
    ) -> None:
        self.convolution = convolution
        self._library = library
        self._handle = handle
        self._lock = lock
        self._owned: list[Descriptor] = []
        try:
            self._graph = self._operation_graph()
            self._plan, self.workspace_bytes = self._choose(workspace)
        except CudnnError as error:
            self.close()
            raise UnsupportedOperatorError(f"cuDNN does not take the {convolution}: {error}") from error
        except BaseException:
            self.close()
            raise

    def _make(self, kind: Kind, *attributes: tuple[Attribute, tuple[object, ...]]) -> Descriptor:
        """A finalised descriptor, which lives as long as this object."""
        descriptor = Descriptor(self._library, kind)
        self._owned.append(descriptor)
        for attribute, values in attributes:
            descriptor.set(attribute, *values)
        descriptor.finalize()
        return descriptor

    def _tensor(self, number: int, tensor: Tensor, dtype: int, *, virtual: bool = False) -> Descriptor:
        return self._make(
            Kind.TENSOR,
            (Attribute.TENSOR_DATA_TYPE, (dtype,)),
            (Attribute.TENSOR_DIMENSIONS, tensor.shape),
            (Attribute.TENSOR_STRIDES, tensor.strides),
            (Attribute.TENSOR_UNIQUE_ID, (number,)),
            (Attribute.TENSOR_BYTE_ALIGNMENT, (ALIGNMENT,)),
            (Attribute.TENSOR_IS_VIRTUAL, (virtual,)),
        )

    def _operation_graph(self) -> Descriptor:
        """Tensors are numbered from 1 in the order of :meth:`launcher`'s addresses; virtual ones follow."""
        c = self.convolution
        dtype, steps = TYPES[c.dtype], len(c.added) + c.relu
        x, w, *added = (
            self._tensor(number, tensor, dtype)
            for number, tensor in enumerate((c.x, c.w, *(tensor for _, tensor in c.added)), 1)
        )
        last = 3 + len(added)
        y = self._tensor(last, c.y, dtype)
        results = [
            self._tensor(last + number, c.y, CUDNN_DATA_FLOAT, virtual=True) for number in range(1, steps + 1)
        ]
        results.append(y)
        convolution = self._make(
            Kind.CONVOLUTION,
            (Attribute.CONVOLUTION_COMP_TYPE, (CUDNN_DATA_FLOAT,)),
            (Attribute.CONVOLUTION_CONV_MODE, (CUDNN_CROSS_CORRELATION,)),
            (Attribute.CONVOLUTION_SPATIAL_DIMS, (len(c.strides),)),
            (Attribute.CONVOLUTION_DILATIONS, c.dilations),
            (Attribute.CONVOLUTION_FILTER_STRIDES, c.strides),
            (Attribute.CONVOLUTION_PRE_PADDINGS, c.pads_before),
            (Attribute.CONVOLUTION_POST_PADDINGS, c.pads_after),
        )
        operations = [
            self._make(
                Kind.OPERATION_CONVOLUTION_FORWARD,
                (Attribute.OPERATION_CONVOLUTION_FORWARD_CONV_DESC, (convolution,)),
                (Attribute.OPERATION_CONVOLUTION_FORWARD_X, (x,)),
                (Attribute.OPERATION_CONVOLUTION_FORWARD_W, (w,)),
                (Attribute.OPERATION_CONVOLUTION_FORWARD_Y, (results[0],)),
                (Attribute.OPERATION_CONVOLUTION_FORWARD_ALPHA, (1.0,)),
                (Attribute.OPERATION_CONVOLUTION_FORWARD_BETA, (0.0,)),
            )
        ]
        for number in range(steps):
            second = added[number] if number < len(added) else None
            operations.append(self._pointwise(results[number], second, results[number + 1]))
        return self._make(
            Kind.OPERATIONGRAPH,
            (Attribute.OPERATIONGRAPH_HANDLE, (self._handle,)),
            (Attribute.OPERATIONGRAPH_OPS, tuple(operations)),
        )

    def _pointwise(self, value: Descriptor, second: Descriptor | None, result: Descriptor) -> Descriptor:
        """The sum of two tensors, or ReLU of one."""
        mode = CUDNN_POINTWISE_RELU_FWD if second is None else CUDNN_POINTWISE_ADD
        pointwise = self._make(
            Kind.POINTWISE,
            (Attribute.POINTWISE_MODE, (mode,)),
            (Attribute.POINTWISE_MATH_PREC, (CUDNN_DATA_FLOAT,)),
        )
        return self._make(
            Kind.OPERATION_POINTWISE,
            (Attribute.OPERATION_POINTWISE_PW_DESCRIPTOR, (pointwise,)),
            (Attribute.OPERATION_POINTWISE_XDESC, (value,)),
            *([] if second is None else [(Attribute.OPERATION_POINTWISE_BDESC, (second,))]),
            (Attribute.OPERATION_POINTWISE_YDESC, (result,)),
        )

    def _choose(self, workspace: int) -> tuple[Descriptor, int]:
        """The plan of the first engine in the heuristic's order that may be used, and the bytes it needs."""
        reasons: list[str] = []
        for mode in (CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK):
            for configuration in self._configurations(mode, reasons):
                try:
                    notes = self._notes(configuration)
                    if notes != WANTED:
                        said = ", ".join(sorted(note.name for note in notes)) or "none"
                        reasons.append(f"the notes of an engine are {said}")
                        continue
                    plan = self._make(
                        Kind.EXECUTION_PLAN,
                        (Attribute.EXECUTION_PLAN_HANDLE, (self._handle,)),
                        (Attribute.EXECUTION_PLAN_ENGINE_CONFIG, (configuration,)),
                    )
                    (nbytes,) = plan.get(Attribute.EXECUTION_PLAN_WORKSPACE_SIZE)
                except CudnnError as error:
                    reasons.append(str(error))
                    continue
                if nbytes <= workspace:
                    return plan, nbytes
                reasons.append(f"an engine needs {nbytes} bytes of workspace")
        said = "; ".join(dict.fromkeys(reasons)) or "it offers no engine"
        raise UnsupportedOperatorError(f"cuDNN does not take the {self.convolution}: {said}")

    def _configurations(self, mode: int, reasons: list[str]) -> list[Descriptor]:
        """Engine configurations, best first."""
        try:
            heuristic = self._make(
                Kind.ENGINEHEUR,
                (Attribute.ENGINEHEUR_OPERATION_GRAPH, (self._graph,)),
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
        with Descriptor(self._library, Kind.ENGINE) as engine:
            configuration.fill(Attribute.ENGINECFG_ENGINE, [engine])
            found = engine.get(Attribute.ENGINE_NUMERICAL_NOTE)
        return {NumericalNote(note) for note in found if note in set(NumericalNote)}

    def pack(self, addresses: Sequence[int], workspace: int) -> Descriptor:
        """What a launch is given: addresses of x, w, what is added, and y; the caller closes it."""
        pack = Descriptor(self._library, Kind.VARIANT_PACK)
        try:
            pack.set(Attribute.VARIANT_PACK_UNIQUE_IDS, *range(1, len(addresses) + 1))
            pack.set(Attribute.VARIANT_PACK_DATA_POINTERS, *addresses)
            pack.set(Attribute.VARIANT_PACK_WORKSPACE, workspace if self.workspace_bytes else 0)
            pack.finalize()
        except BaseException:
            pack.close()
            raise
        return pack

    def launcher(self, pack: Descriptor) -> Callable[[int], None]:
        """``launch(stream)`` for what ``pack`` holds."""
        library, handle, plan, lock = self._library, self._handle, self._plan.handle, self._lock

        def launch(stream: int) -> None:
            # The stream belongs to the handle, which other slots use too.
            with lock:
                library.call("cudnnSetStream", handle, stream)
                library.call("cudnnBackendExecute", handle, plan, pack.handle)

        return launch

    def close(self) -> None:
        while self._owned:
            self._owned.pop().close()


def own_kernel(spec: KernelSpec) -> KernelSpec:
    """The kernel of ours for steps of ``spec``."""
    if spec.family != FAMILY:
        return spec
    variant: Any = spec.variant[-1]
    return KernelSpec(OWN_FAMILY, variant)


def operand_order(spec: KernelSpec) -> tuple[int, ...]:
    """The operands of a step in the order of :meth:`BoundConvolution.pack`'s addresses."""
    roles: Any = spec.variant[0]
    return (0, 1, *(2 + roles.index(role) for role in ADDED if role in roles), 2 + len(roles))


class ConvolutionLibrary:
    """cuDNN with its handle, made once for each device, which is current.

    ``ONNXPLAN_CUDNN=0`` does without cuDNN. So does a device for which it makes no handle.
    """

    def __init__(self, library: Cudnn, handle: int) -> None:
        self.library = library
        self.handle = handle
        self.lock = threading.Lock()

    @staticmethod
    def of(context: CudaContext) -> ConvolutionLibrary | None:
        if context.api.cudnn is None or os.environ.get("ONNXPLAN_CUDNN", "1") in ("", "0"):
            return None
        made: list[ConvolutionLibrary] = context.part("cudnn", lambda: _open(context))
        return made[0] if made else None

    @staticmethod
    def version(context: CudaContext) -> int:
        """The version that plans use; 0 for none."""
        library = ConvolutionLibrary.of(context)
        return 0 if library is None else library.library.version

    def bind(self, plan: ExecutionPlan, workspace: int) -> dict[int, BoundConvolution]:
        """The convolutions of a plan by their steps' numbers, without those that cuDNN refuses.

        Steps that are alike share one; ``workspace`` is the most bytes that each may use.
        """
        bound: dict[Convolution, BoundConvolution | None] = {}
        steps: dict[int, BoundConvolution] = {}
        try:
            for number, step in enumerate(plan.steps):
                if step.kernel.family != FAMILY:
                    continue
                convolution = Convolution.of(step, plan)
                if convolution not in bound:
                    bound[convolution] = self._bind(convolution, workspace)
                if (found := bound[convolution]) is not None:
                    steps[number] = found
        except BaseException:
            close_all(steps)
            raise
        return steps

    def _bind(self, convolution: Convolution, workspace: int) -> BoundConvolution | None:
        try:
            return BoundConvolution(self.library, self.handle, self.lock, convolution, workspace=workspace)
        except UnsupportedOperatorError as error:
            logger.warning("%s; our own kernel computes it", error)
            return None


def bind_convolutions(context: CudaContext, plan: ExecutionPlan) -> dict[int, BoundConvolution]:
    """The steps of a plan that cuDNN computes on a device, which is current."""
    if all(spec.family != FAMILY for spec in plan.kernels):
        return {}
    library = ConvolutionLibrary.of(context)
    return {} if library is None else library.bind(plan, workspace_limit(plan.target.isa))


def close_all(convolutions: Mapping[int, BoundConvolution]) -> None:
    """Destroys cuDNN's objects; no slot may use them any more."""
    for convolution in convolutions.values():
        convolution.close()


def _open(context: CudaContext) -> list[ConvolutionLibrary]:
    try:
        library = Cudnn(context.api.cudnn)
        return [ConvolutionLibrary(library, library.create_handle())]
    except (AttributeError, CudnnError) as error:
        logger.warning("cuDNN is not used on %s: %s", context.name, error)
        return []
