"""Steps of family ``cudnn_attention``: attention of 16-bit floats that cuDNN computes.

A step is one of :mod:`onnxplan.kernels.cuda.attention` under another name: its operands, parameters, tiles
and scratch are those of our own kernel, which takes its place where cuDNN refuses the attention or is not
there. The variant is ``(causal, scale, number of the operand that is added or 0, our own variant)``. Operands
are ``(q, k, v, extras, output)``, all but other extras with the axes batch, heads, tokens, width; heads of k
and v serve as many neighbouring heads of q. What is added is 1 along axes where it does not vary.

cuDNN promises nothing for rows whose scores are all minus infinity, nor for NaN: it serves ``math="fast"``
alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.primitives import Attention
from onnxplan.compiler.program import Operation
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.attention_extents import AttentionExtents
from onnxplan.kernels.cuda.attention import LibraryStep, emit_attention
from onnxplan.kernels.cuda.attention_scores import PlainScores, plain_scores
from onnxplan.kernels.cuda.tensor_core import COPY_BYTES, capability, copies_wide

FAMILY = "cudnn_attention"

LEAST_CAPABILITY = 80
LARGEST_HEAD = 128
"""Heads are up to so wide on all devices, by multiples of 16 bytes."""
LEAST_TOKENS = 64
"""Of queries and of keys: fewer fill none of cuDNN's tiles, and our own kernel shares keys out."""
TYPES = (DType.FLOAT16, DType.BFLOAT16)


def select_attention(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the step of an operation that :func:`attention.prefers_attention` accepts, rather for cuDNN."""
    emit_attention(operation, emit, target, _library_step(operation, target))


def _library_step(operation: Operation, target: Target) -> LibraryStep | None:
    """How cuDNN takes the operation, if it does."""
    primitive = operation.primitive
    assert isinstance(primitive, Attention)
    q, k, v, *extras = operation.inputs
    output = operation.outputs[0]
    shape = AttentionExtents.of(operation)
    if (
        not target.cudnn
        or target.math != "fast"
        or capability(target) < LEAST_CAPABILITY
        or output.dtype not in TYPES
        or any(view.dtype is not output.dtype for view in (q, k, v))
        or max(shape.depth, shape.width) > LARGEST_HEAD
        or min(shape.rows, shape.keys) < LEAST_TOKENS
        or any(view.storage is output.storage for view in operation.inputs)
    ):
        return None
    scores = plain_scores(primitive.score, extras, shape.rows, shape.keys)
    if scores is None or not _defined(primitive.softmax, scores):
        return None
    keys = k.transpose((*range(k.rank - 2), k.rank - 1, k.rank - 2))
    axes = _Axes.of(keys, v)
    if axes is None:
        return None
    views = (axes.queries(q), axes.keys(keys), axes.keys(v), axes.queries(output))
    bias = None if scores.bias is None else axes.queries(extras[scores.bias])
    return _step(scores, extras, views, bias)


def _step(
    scores: PlainScores, extras: Sequence[View], views: tuple[View | None, ...], bias: View | None
) -> LibraryStep | None:
    """The step with q, k, v, the output and what is added as cuDNN sees them; ``None`` if it does not."""
    found = [view for view in views if view is not None and _forward(view) and copies_wide(view)]
    if len(found) < len(views):
        return None
    q, k, v, output = found
    if q.shape[:2] != output.shape[:2] or k.shape[:2] != v.shape[:2]:
        return None
    if k.shape[0] != q.shape[0] or q.shape[1] % k.shape[1]:
        return None
    added = list(extras)
    if scores.bias is not None:
        if bias is None or bias.dtype not in (output.dtype, DType.FLOAT32) or not _rows_aligned(bias):
            return None
        added[scores.bias] = bias
    place = 0 if scores.bias is None else 3 + scores.bias
    variant: Variant = (scores.causal, scores.scale, place)
    return LibraryStep(FAMILY, variant, (q, k, v, *added, output))


def _defined(softmax: str, scores: PlainScores) -> bool:
    """Are there no rows whose weights cuDNN may say otherwise? What is added may hide all keys of one."""
    return softmax == "plain" or (softmax in ("masked", "guarded") and scores.bias is None)


@dataclass(frozen=True, slots=True)
class _Axes:
    """Which axes are the batch, the heads of keys, and the heads that share those; ``None`` for no axis."""

    batch: int | None
    heads: int | None
    shared: int | None

    @staticmethod
    def of(keys: View, values: View) -> _Axes | None:
        """``None`` where there are more axes than that."""
        axes = [axis for axis, extent in enumerate(keys.shape[:-2]) if extent > 1]
        shared = None
        if axes and keys.strides[axes[-1]] == values.strides[axes[-1]] == 0:
            shared = axes.pop()
        if len(axes) == 2:
            return _Axes(axes[0], axes[1], shared)
        if len(axes) == 1:
            return _Axes(None, axes[0], None) if shared is None else _Axes(axes[0], None, shared)
        return None if axes else _Axes(None, None, shared)

    def keys(self, view: View) -> View:
        """``view`` with a batch and the heads of keys."""
        return _four(view, _axis(view, self.batch), _axis(view, self.heads))

    def queries(self, view: View) -> View | None:
        """``view`` with a batch and all heads; ``None`` where no one distance leads from head to head."""
        outer, inner = _axis(view, self.heads), _axis(view, self.shared)
        heads = (outer[0] * inner[0], inner[1])
        if inner[0] == 1:
            heads = outer
        elif outer[0] > 1 and outer[1] != inner[0] * inner[1]:
            return None
        return _four(view, _axis(view, self.batch), heads)


def _axis(view: View, axis: int | None) -> tuple[int, int]:
    """Extent and stride."""
    return (1, 0) if axis is None else (view.shape[axis], view.strides[axis])


def _four(view: View, batch: tuple[int, int], heads: tuple[int, int]) -> View:
    """``view`` with these axes before its last two, of extent 1 where elements do not vary."""
    strides = (batch[1], heads[1], *view.strides[-2:])
    extents = (batch[0], heads[0], *view.shape[-2:])
    shape = tuple(extent if stride else 1 for extent, stride in zip(extents, strides, strict=True))
    return View(view.storage, view.offset, shape, strides)


def _forward(view: View) -> bool:
    return all(stride > 0 or extent == 1 for extent, stride in zip(view.shape, view.strides, strict=True))


def _rows_aligned(view: View) -> bool:
    """Do rows of keys, of any number, lie in order and begin at multiples of 16 bytes?"""
    each = COPY_BYTES // view.dtype.itemsize
    outer = [stride for extent, stride in zip(view.shape[:-1], view.strides[:-1], strict=True) if extent > 1]
    return _forward(view) and view.strides[-1] == 1 and all(d % each == 0 for d in (view.offset, *outer))
