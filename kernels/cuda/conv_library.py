"""Steps of family ``cudnn``: convolutions that cuDNN computes, with residual, bias and ReLU.

A step is one of :mod:`onnxplan.kernels.cuda.conv_matrix` under another name: its operands, parameters, tiles
and scratch are those of our own kernel, which takes its place where cuDNN refuses the convolution or is not
there. The variant is ``(roles, relu, kernel, strides, dilations, pads before, pads after, our own variant)``;
``roles`` says of each extra, in order, whether it is the ``bias`` or the ``residual``. Operands are ``(x,
weights (features, depth), extras, output)``, channels last.

cuDNN adds in float32, rounds once, and promises nothing for NaN behind ReLU: it serves ``math="fast"`` alone.
"""

from __future__ import annotations

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.convolution import Convolution
from onnxplan.kernels.cuda.conv_matrix import emit_whole, serves
from onnxplan.kernels.cuda.tensor_core import COPY_BYTES, copies_wide

FAMILY = "cudnn"

LEAST_CHANNELS = 16
"""Of a group: engines for fewer channels pad them."""
SPATIAL_AXES = (2, 3)
SMALL_FLOATS = (DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32)


@dataclass(frozen=True, slots=True)
class _Sum:
    """The sum, and what was done to it: the extras that were added, and ReLU."""

    added: tuple[int, ...] = ()
    relu: bool = False


@dataclass(frozen=True, slots=True)
class _Extra:
    number: int


def emit_by_cudnn(
    emit: StepEmitter,
    target: Target,
    conv: Convolution,
    accumulator: DType,
    epilogue: Expression,
    *,
    product: bool,
) -> bool:
    """Emits a convolution, its input as it lies in memory, for cuDNN, or nothing: then the answer is
    ``False``.

    ``product`` says that it is a matrix product, which cuBLASLt does as well unless there is a residual.
    """
    if not target.cudnn or target.math != "fast" or not serves(target, conv, accumulator):
        return False
    described = _describe(conv, epilogue)
    if described is None:
        return False
    roles, relu = described
    pads_after = _pads_after(conv)
    if pads_after is None or (product and "residual" not in roles and set(conv.strides) == {1}):
        return False
    geometry = (conv.kernel, conv.strides, conv.dilations, conv.pads, pads_after)
    emit_whole(emit, target, conv, epilogue, (FAMILY, (roles, relu, *geometry)))
    return True


def _describe(conv: Convolution, epilogue: Expression) -> tuple[tuple[str, ...], bool] | None:
    """The roles of the extras and whether ReLU follows; ``None`` where cuDNN's chain does not say it all."""
    done = _value(epilogue)
    output = conv.output
    if (
        done is None
        or sorted(done.added) != list(range(len(conv.extras)))
        or len(conv.kernel) not in SPATIAL_AXES
        or conv.channels < LEAST_CHANNELS
        or output.dtype is not conv.x.dtype
        or not copies_wide(output)
        or any(stride <= 0 < extent - 1 for view in (conv.x, output) for extent, stride in _axes(view))
        or any(view.storage is output.storage for view in (conv.x, *conv.extras))
    ):
        return None
    roles = tuple(_role(extra, output) for extra in conv.extras)
    if "" in roles or len(set(roles)) != len(roles):
        return None
    return roles, done.relu


def _axes(view: View) -> list[tuple[int, int]]:
    return list(zip(view.shape, view.strides, strict=True))


def _role(extra: View, output: View) -> str:
    """What an extra is to cuDNN; empty where it is nothing that it adds."""
    *outer, (columns, last) = _axes(extra)
    if extra.dtype is not output.dtype or last != 1 or columns != output.shape[-1]:
        return ""
    if all(stride == 0 or extent == 1 for extent, stride in outer):
        return "bias" if extra.offset * extra.dtype.itemsize % COPY_BYTES == 0 else ""
    whole = all(stride > 0 or extent == 1 for extent, stride in outer)
    return "residual" if whole and copies_wide(extra) else ""


def _value(epilogue: Expression) -> _Sum | None:
    """What an epilogue does to the sum, roundings in between left out; ``None`` for anything else."""
    values: list[_Sum | _Extra | float | None] = []
    for instruction in epilogue.instructions:
        value: _Sum | _Extra | float | None = None
        operands = [values[position] for position in instruction.operands]
        if instruction.op == "input":
            number = instruction.arguments[0]
            value = _Extra(number - 1) if number else _Sum()
        elif instruction.op == "constant":
            value = 0.0 if instruction.number == 0 else None
        elif instruction.op == "cast" and instruction.dtype in SMALL_FLOATS:
            value = operands[0]
        elif instruction.op in ("add", "max"):
            first, second = operands if isinstance(operands[0], _Sum) else reversed(operands)
            if isinstance(first, _Sum) and not first.relu:
                if instruction.op == "add" and isinstance(second, _Extra):
                    value = _Sum((*first.added, second.number))
                elif instruction.op == "max" and second == 0.0:
                    value = _Sum(first.added, relu=True)
        values.append(value)
    result = values[epilogue.outputs[0]] if len(epilogue.outputs) == 1 else None
    return result if isinstance(result, _Sum) else None


def _pads_after(conv: Convolution) -> tuple[int, ...] | None:
    """Paddings behind the last place for which windows are as many as results; ``None`` if there are none."""
    found = []
    for size, extent, taps, stride, dilation, before in zip(
        conv.x.shape[1:-1],
        conv.output.shape[1:-1],
        conv.kernel,
        conv.strides,
        conv.dilations,
        conv.pads,
        strict=True,
    ):
        after = (extent - 1) * stride + (taps - 1) * dilation + 1 - size - before
        if before < 0 or after <= -stride:
            return None
        found.append(max(0, after))
    return tuple(found)
