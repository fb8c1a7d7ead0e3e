"""Convolutions of a plan by cuDNN.

The graph is the convolution, then residual, bias and ReLU as far as there are any, in the order of engines
that cuDNN has compiled for this chain. Tensors between the operations are virtual, of float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from onnxplan.compiler.environment import is_on
from onnxplan.compiler.plan import ExecutionPlan, Step
from onnxplan.compiler.records import dataclass
from onnxplan.runtime.cuda.cudnn import (
    CUDNN_CROSS_CORRELATION,
    CUDNN_DATA_FLOAT,
    CUDNN_POINTWISE_ADD,
    CUDNN_POINTWISE_RELU_FWD,
    Attribute,
    Descriptor,
    Kind,
    NumericalNote,
)
from onnxplan.runtime.cuda.operation_graph import (
    MATRIX_INSTRUCTIONS,
    TYPES,
    CudnnGraph,
    Tensor,
    check_alignment,
)

WINOGRAD = frozenset(
    {NumericalNote.WINOGRAD, NumericalNote.WINOGRAD_TILE_4x4, NumericalNote.WINOGRAD_TILE_6x6}
)
"""The notes of Winograd's form with tiles that serve on the CPU too; larger ones round more."""
ADDED = ("residual", "bias")
"""What may be added to the sums, in this order."""


def channels_last(shape: Sequence[int], strides: Sequence[int]) -> Tensor:
    """The tensor of a view whose channels are the last axis: image, channels, places."""
    return Tensor.of(shape, strides).permuted((0, len(shape) - 1, *range(1, len(shape) - 1)))


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
        check_alignment(step.operands, plan)
        features = w.shape[0]
        shape = (features, *kernel, w.shape[1] // math.prod(kernel))
        tensors = {
            role: channels_last(extra.shape, extra.strides) for role, extra in zip(roles, extras, strict=True)
        }
        return Convolution(
            x.dtype.label,
            channels_last(x.shape, x.strides),
            channels_last(shape, Tensor.packed(shape).strides),
            channels_last(y.shape, y.strides),
            tuple((role, tensors[role]) for role in ADDED if role in tensors),
            relu,
            *(tuple(words) for words in (strides, dilations, before, after)),
        )

    def __str__(self) -> str:
        chain = " + ".join(["convolution", *(name for name, _ in self.added), *["relu"] * self.relu])
        return f"{chain} of {self.dtype} {self.x.shape} by {self.w.shape}"


class BoundConvolution(CudnnGraph):
    """A :class:`Convolution` with the engine for it. Tensors in memory: x, w, what is added, y."""

    # Without matrix instructions an engine is slower than our own kernel.
    needed_notes = MATRIX_INSTRUCTIONS

    @staticmethod
    def describe(step: Step, plan: ExecutionPlan) -> Convolution:
        return Convolution.of(step, plan)

    @staticmethod
    def operand_order(step: Step) -> tuple[int, ...]:
        roles: Any = step.kernel.variant[0]
        return (0, 1, *(2 + roles.index(role) for role in ADDED if role in roles), 2 + len(roles))

    def _graphs(self) -> Sequence[Callable[[], Descriptor]]:
        return (self._chain,)

    def _chain(self) -> Descriptor:
        c: Convolution = self.problem
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
            if number < len(added):
                mode, operands = CUDNN_POINTWISE_ADD, [results[number], added[number]]
            else:
                mode, operands = CUDNN_POINTWISE_RELU_FWD, [results[number]]
            operations.append(self._pointwise(mode, operands, results[number + 1]))
        return self._operation_graph(operations)


class BoundFloat32Convolution(BoundConvolution):
    """One whose products are those of float32: by no matrix instructions, which round factors to TF32."""

    needed_notes = frozenset()
    allowed_notes = WINOGRAD if is_on("ONNXPLAN_WINOGRAD", default=True) else frozenset()
