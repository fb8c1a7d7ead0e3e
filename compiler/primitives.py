"""The primitives: lowering's whole vocabulary.

Each is a frozen record of what is compiled in or fixed for an operation; the operands are views of the
operation. Spatial primitives take channels last, ``(N, *spatial, C)``, with any number of spatial axes.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression
from onnxplan.compiler.records import dataclass


@dataclass(frozen=True, slots=True)
class Primitive:
    """Base of all primitives."""

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    def __str__(self) -> str:
        values = [
            f"{f.name}={_text(getattr(self, f.name))}"
            for f in fields(self)
            if getattr(self, f.name) not in (None, ())
        ]
        return f"{self.name}[{', '.join(values)}]" if values else self.name


def _text(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


@dataclass(frozen=True, slots=True)
class MapReduce(Primitive):
    """Evaluates scalar expressions at each point of an iteration space, with reductions over some axes.

    ``shape`` is the iteration space. Every input view has exactly that shape (stride 0 where it does not
    vary). An output of an instruction that is ``reduced()`` has extent 1 on each of ``axes``; all others
    have the iteration shape. Without reductions it is an elementwise map (or, where the expression is the
    identity, a copy); with reduced outputs only, a reduction; with both, the softmax and layer-norm family.
    """

    expression: Expression
    shape: tuple[int, ...]
    axes: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        expression = self.expression
        if not expression.has_reduction:
            copies = len(expression.instructions) == 1 and expression.instructions[0].op == "input"
            return "copy" if copies else "map"
        reduced = expression.reduced()
        return "reduce" if all(reduced[output] for output in expression.outputs) else "norm"

    def __str__(self) -> str:
        over = f" over {_text(self.axes)}" if self.axes else ""
        return f"{self.name}[{self.expression}{over}]"


@dataclass(frozen=True, slots=True)
class Reinterpret(Primitive):
    """The bits of each element as an element of another type of the same size in memory; same shape."""


@dataclass(frozen=True, slots=True)
class MatMul(Primitive):
    """``out[..., m, n] = epilogue(sum over k of a[..., m, k] * b[..., k, n])``.

    Inputs ``(a, b, *extra)``; the batch axes of ``a`` and ``b`` are broadcast to the output's already
    (stride 0). float16, bfloat16 and float32 accumulate in float32, float64 in itself, integers modulo
    their width. ``epilogue``'s input 0 is the sum, input ``1 + i`` is ``extra[i]``, which has the output's
    shape (stride 0 where it does not vary); without it the sum is cast to the output's type.
    """

    accumulator: DType
    epilogue: Expression | None = None


@dataclass(frozen=True, slots=True)
class BlockMatMul(Primitive):
    """``out[m, n] = epilogue(sum over k of a[m, k] * w[n, k])``, weights of few bits quantised in blocks.

    Inputs ``a (M, K)`` float, ``packed (N, B, block * bits / 8)`` uint8, ``scales (N, B)`` float,
    ``zeros (N, B)`` uint8 or float, and extras ``(M, N)`` of the epilogue as in :class:`MatMul`; ``B`` is
    ``K / block`` rounded up. ``w[n, k]`` is ``(q[n, k] - zeros[n, k // block]) * scales[n, k // block]``, and
    ``q[n]`` are numbers of ``bits`` bits (2, 4 or 8), the first in the lowest bits of a byte. Sums are of
    type ``accumulator``, float32.
    """

    bits: int
    block: int
    accumulator: DType
    epilogue: Expression | None = None


@dataclass(frozen=True, slots=True)
class Attention(Primitive):
    """``out[..., m, :] = sum over n of w[..., m, n] * v[..., n, :]``, the weights ``w`` a softmax of scores.

    Inputs ``(q (*batch, M, D), k (*batch, D, N), v (*batch, N, E), *extra (*batch, M, N))``, stride 0 where
    they do not vary; output ``(*batch, M, E)``. A score is ``score`` of the sum over ``D`` of ``q * k``
    (input 0) and the extras (inputs ``1 + i``), as in :class:`MatMul`, without it the sum itself; scores and
    sums are of type ``accumulator``, float32 or float64. ``softmax`` says what becomes of rows
    without a largest finite score:

    * ``plain``: their weights are ``exp(score - max) / sum`` like all others, NaN;
    * ``masked``: those of a row of minus infinity alone are 0;
    * ``guarded``: those that are NaN are 0;
    * ``smooth``: there is one more key, of score 0 and value 0.
    """

    accumulator: DType
    score: Expression | None = None
    softmax: str = "plain"


@dataclass(frozen=True, slots=True)
class Conv(Primitive):
    """Cross-correlation, channels last.

    Inputs ``x (N, *spatial, C)``, ``w (*kernel, C/groups, M)`` and extras of an epilogue as in
    :class:`MatMul`; output ``(N, *out, M)``. Output position ``o`` and tap ``k`` of a spatial axis read
    ``x`` at ``o * stride + k * dilation - pad``; outside of ``x`` that is zero. ``pads`` are those at the
    beginning (may be negative); the ends follow from the output's shape. Output channel ``m`` belongs to
    group ``m // (M / groups)``.
    """

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    groups: int
    accumulator: DType
    epilogue: Expression | None = None


Product = MatMul | BlockMatMul | Conv


def product_operands(primitive: Product) -> int:
    """How many inputs precede the extras of the epilogue."""
    return 4 if isinstance(primitive, BlockMatMul) else 2


@dataclass(frozen=True, slots=True)
class Pool(Primitive):
    """Pooling, channels last: ``x (N, *spatial, C)`` to ``(N, *out, C)``, and positions as a second output.

    ``kind`` is ``max`` or ``average``. Taps are placed as in :class:`Conv`. ``max`` ignores what lies outside
    of ``x`` and passes NaN on; its second output (int64), if there is one, holds the position of the maximum
    in the *unpadded channels-first* tensor, flattened row-major over all axes (column-major over the
    spatial axes if ``column_major``). ``average`` divides by the number of taps inside ``x``, or, if
    ``count_padding`` is given, by the number of taps whose position is below ``extent + pad_end`` of the
    padded input (``count_padding`` holds the pads at the ends): taps beyond (of ceil mode) never count.
    """

    kind: str
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    count_padding: tuple[int, ...] | None = None
    column_major: bool = False


@dataclass(frozen=True, slots=True)
class Gather(Primitive):
    """``out[a..., i..., b...] = data[a..., indices[i...], b...]``.

    Inputs ``(data, indices)``; ``axis`` is the gathered axis of ``data``. Negative indices count from the
    end. Indices out of range read the nearest valid position (a kernel never reads outside a buffer).
    """

    axis: int


@dataclass(frozen=True, slots=True)
class GatherElements(Primitive):
    """``out[a..., i, b...] = data[a..., indices[a..., i, b...], b...]``, of the shape of ``indices``.

    Inputs ``(data, indices)``, of one rank; ``axis`` is that of ``i``. Along others ``indices`` may be
    shorter than ``data``. Indices as for :class:`Gather`.
    """

    axis: int


@dataclass(frozen=True, slots=True)
class GatherReduce(Primitive):
    """``out[m, c] = sum over t of weights[m, t] * table[positions[m, t], c]``, or the largest product.

    Inputs ``table (P, C)`` of floats, ``positions (M, T)`` int64 and ``weights (M, T)`` float32 (float64 if
    the table is); ``kind`` is ``sum`` or ``max``. Positions outside of the table are left out; where no
    other is, the result is zero. NaN wins a maximum.
    """

    kind: str = "sum"


@dataclass(frozen=True, slots=True)
class Scatter(Primitive):
    """A copy of ``data`` in which rows are replaced by, or combined with, others.

    Inputs ``data (P, N)``, ``positions (K)`` int64 and ``updates (K, N)``; the output is like ``data``. For
    each ``i`` in order ``out[positions[i]]`` becomes ``updates[i]`` (``kind`` ``none``), or the ``add``,
    ``mul``, ``min`` or ``max`` of both, rounded each time. Positions outside of ``data`` write nothing.
    """

    kind: str = "none"


@dataclass(frozen=True, slots=True)
class ArgReduce(Primitive):
    """Position (int64) of the largest or smallest element along ``axis``; the output has extent 1 there.

    ``kind`` is ``max`` or ``min``; of equal elements the first, or the last if ``last``. NaN wins.
    """

    kind: str
    axis: int
    last: bool = False


@dataclass(frozen=True, slots=True)
class Sort(Primitive):
    """The first elements along ``axis`` in order, and where they come from.

    One input; outputs are values of its type and positions (int64) along ``axis``, both of the input's shape
    but for the extent there, which may be smaller: that many elements are wanted. They rise, or fall if
    ``largest``; of equal elements the first comes first. NaN is above all numbers.
    """

    axis: int
    largest: bool = False


@dataclass(frozen=True, slots=True)
class Scan(Primitive):
    """Running reduction along ``axis``: ``kind`` is ``sum`` or ``prod``; same shape and type."""

    kind: str
    axis: int
    exclusive: bool = False
    reverse: bool = False


@dataclass(frozen=True, slots=True)
class Resample(Primitive):
    """``out[..., o, ...] = sum over t of weights[o, t] * x[..., positions[o, t], ...]`` along ``axis``.

    Inputs ``(x, positions int32 (O, T), weights float (O, T))``. Resize is one of these for each axis.
    """

    axis: int


@dataclass(frozen=True, slots=True)
class ResamplePlane(Primitive):
    """:class:`Resample` along ``axis``, then along the last one.

    Inputs ``(x, positions, weights, positions, weights)``, those of the last axis last.
    """

    axis: int


@dataclass(frozen=True, slots=True)
class Recurrent(Primitive):
    """The recurrent half of LSTM (and its kin) for one direction.

    Inputs: ``gates (T, N, G*H)``, the input projections with all biases that are added before the
    recurrence; ``r (H, G*H)``, the recurrent weights transposed; ``initial_h (N, H)``; ``lengths (N)``
    int32; then, as ``kind`` needs: for ``lstm`` ``initial_c (N, H)`` and ``peepholes (3, H)`` (i, o, f);
    for ``gru`` ``recurrent_bias (H)`` of the hidden gate. Gates in ONNX order (``iofc``, ``zrh``).
    Outputs: ``y (T, N, H)``, ``y_h (N, H)``, and for ``lstm`` ``y_c (N, H)``. Beyond its length a sequence's
    ``y`` is zero and its state stays. ``activations`` are ``(name, alpha, beta)`` each.
    """

    kind: str
    reverse: bool
    activations: tuple[tuple[str, float, float], ...]
    clip: float | None = None
    input_forget: bool = False
    linear_before_reset: bool = False


@dataclass(frozen=True, slots=True)
class SuppressNonMaximum(Primitive):
    """Greedy selection of boxes, for each image and class on its own.

    Inputs ``boxes (B, S, 4)`` and ``scores (B, C, S)``, float32, and the scalars ``iou_threshold`` and
    ``score_threshold``, float32. Outputs ``picks (B, C, K)`` int64, the positions of the selected boxes by
    falling score (of equal scores the lower position first), of which only the first ``counts (B, C)``
    int64 mean anything; K is the most that are selected. A box is considered if its score is above the
    threshold (any score but NaN without ``has_score_threshold``) and selected unless its intersection over
    union with one selected before is above ``iou_threshold``. Boxes are two opposite corners
    ``(y1, x1, y2, x2)``, or with ``centered`` ``(x, y, width, height)``.
    """

    centered: bool
    has_score_threshold: bool
