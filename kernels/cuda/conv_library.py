"""Steps of families ``cudnn`` and ``cudnn_float32``: convolutions that cuDNN computes, with what follows.

A step is one of :mod:`onnxplan.kernels.cuda.conv_matrix`, for ``cudnn_float32`` one of
:mod:`onnxplan.kernels.cuda.conv`, under another name: its operands, parameters, tiles and scratch are
those of our own kernel, which takes its place where cuDNN refuses the convolution or is not there. The
variant is ``(roles, relu, kernel, strides, dilations, pads before, pads after, our own variant)``;
``roles`` says of each extra, in order, whether it is the ``bias`` or the ``residual``. Operands are
``(x, weights (features, depth), extras, output)``, channels last.

cuDNN adds in float32, rounds once, and promises nothing for NaN behind ReLU. So in ``math="strict"`` it
serves float32 alone, where nothing is rounded twice, by engines whose products are those of float32, and
a map of our own does ReLU.
"""

from __future__ import annotations

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression, Instruction
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.convolution import Convolution
from onnxplan.kernels.cuda.conv_matrix import reads_lines, serves
from onnxplan.kernels.cuda.tensor_core import COPY_BYTES, copies_wide

FAMILY = "cudnn"
FLOAT32_FAMILY = "cudnn_float32"

LEAST_CHANNELS = 16
"""Of a group: engines for fewer channels pad them."""
SPATIAL_AXES = (2, 3)
SMALL_FLOATS = (DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32)
RELU = Expression(
    (
        Instruction("input", (0,), DType.FLOAT32),
        Instruction("constant", (), DType.FLOAT32, (0.0).hex()),
        Instruction("max", (0, 1), DType.FLOAT32),
    ),
    (2,),
)


@dataclass(frozen=True, slots=True)
class _Sum:
    """The sum, and what was done to it: the extras that were added, and ReLU.

    ``linear`` is the instruction that ReLU is applied to, or the last one.
    """

    linear: int
    added: tuple[int, ...] = ()
    relu: bool = False


@dataclass(frozen=True, slots=True)
class _Extra:
    number: int


@dataclass(frozen=True, slots=True)
class LibraryConvolution:
    """What cuDNN is given of a convolution.

    ``library`` is the family of its step and what the variant begins with, ``epilogue`` what the step does to
    the sum, and ``rest`` what a map does to its result afterwards.
    """

    library: tuple[str, Variant]
    epilogue: Expression
    rest: Expression | None


def given_to_cudnn(
    target: Target, conv: Convolution, accumulator: DType, epilogue: Expression, *, product: bool
) -> LibraryConvolution | None:
    """What cuDNN computes of a convolution, its input as it lies in memory; ``None`` for nothing.

    ``product`` says that it is a matrix product, which cuBLASLt does as well unless there is a residual that
    cuDNN adds by matrix instructions.
    """
    fast = target.math == "fast"
    fitting = serves(target, conv, accumulator) if fast else _is_float32(conv, accumulator)
    if not target.cudnn or not fitting or (product and not fast):
        return None
    done = _value(epilogue)
    roles = None if done is None else _roles(conv, done)
    pads_after = _pads_after(conv)
    if done is None or roles is None or pads_after is None:
        return None
    if product and "residual" not in roles and set(conv.strides) == {1}:
        return None
    geometry = (conv.kernel, conv.strides, conv.dilations, conv.pads, pads_after)
    if fast:
        return LibraryConvolution((FAMILY, (roles, done.relu, *geometry)), epilogue, None)
    sum_alone = Expression(epilogue.instructions[: done.linear + 1], (done.linear,))
    library = (FLOAT32_FAMILY, (roles, False, *geometry))
    return LibraryConvolution(library, sum_alone, RELU if done.relu else None)


def _is_float32(conv: Convolution, accumulator: DType) -> bool:
    return conv.x.dtype is DType.FLOAT32 and reads_lines(conv, accumulator)


def _roles(conv: Convolution, done: _Sum) -> tuple[str, ...] | None:
    """The roles of the extras; ``None`` where cuDNN's chain does not say it all."""
    output = conv.output
    if (
        sorted(done.added) != list(range(len(conv.extras)))
        or len(conv.kernel) not in SPATIAL_AXES
        or conv.channels < LEAST_CHANNELS
        or output.dtype is not conv.x.dtype
        or not copies_wide(output)
        or any(stride <= 0 < extent - 1 for view in (conv.x, output) for extent, stride in _axes(view))
        or any(view.storage is output.storage for view in (conv.x, *conv.extras))
    ):
        return None
    roles = tuple(_role(extra, output) for extra in conv.extras)
    return None if "" in roles or len(set(roles)) != len(roles) else roles


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
    for place, instruction in enumerate(epilogue.instructions):
        value: _Sum | _Extra | float | None = None
        operands = [values[position] for position in instruction.operands]
        if instruction.op == "input":
            number = instruction.arguments[0]
            value = _Extra(number - 1) if number else _Sum(place)
        elif instruction.op == "constant":
            value = 0.0 if instruction.number == 0 else None
        elif instruction.op == "cast" and instruction.dtype in SMALL_FLOATS:
            value = operands[0]
        elif instruction.op in ("add", "max"):
            first, second = operands if isinstance(operands[0], _Sum) else reversed(operands)
            if isinstance(first, _Sum) and not first.relu:
                if instruction.op == "add" and isinstance(second, _Extra):
                    value = _Sum(place, (*first.added, second.number))
                elif instruction.op == "max" and second == 0.0:
                    value = _Sum(first.linear, first.added, relu=True)
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
