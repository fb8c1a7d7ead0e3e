"""Winograd's convolution for kernels of 3x3 taps: fewer multiplications, paid for with transforms.

An output tile of ``m x m`` positions comes from ``t x t`` inputs (``t = m + 2``). Both and the weights are
evaluated at ``t`` points in each direction; then the sum over channels is ``t * t`` products of
``(tiles, channels)`` and ``(channels, features)``. ``m`` is 4 or 2: a quarter or four ninths of the
multiplications, four times or 16 ninths of the weights' bytes.

Sources: A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016,
https://arxiv.org/abs/1509.09308; B. Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd
Convolution for Deep Neural Networks", https://arxiv.org/abs/1803.10986, for the choice of points.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.blocks import empty_block
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.environment import is_on
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import Conv
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.convolution import Convolution
from onnxplan.kernels.cpu.epilogue import describe_epilogue, shared_with_output
from onnxplan.kernels.cpu.pack import panel_count
from onnxplan.kernels.cpu.tiling import (
    LEAST_SECONDS,
    ROW_BLOCKS_WORTH_SPLITTING,
    RegisterTile,
    ceil_div,
    depth_block,
    register_tile,
    round_up,
)
from onnxplan.kernels.matrices import distinct_bytes

FAMILY = "winograd"

# Whether convolutions may be computed this way at all: ``ONNXPLAN_WINOGRAD=0`` turns it off. Its rounding
# errors are about twice those of the direct form, and a NaN or infinity in the input reaches every position
# of the tiles that read it.
ENABLED = is_on("ONNXPLAN_WINOGRAD", default=True)

# Points of evaluation beside 0 and infinity, by the extent of an output tile: plus and minus each of these.
# Transforms have exact coefficients with them, and errors are half of those with the usual 1 and 2.
POINTS: dict[int, tuple[float, ...]] = {2: (1.0,), 4: (0.625, 1.5)}

# The extents of output tiles to choose from.
EXTENTS = tuple(POINTS)

# The share of the direct form's estimated time that must not be exceeded.
WORTH = 0.75
# The largest tiles are taken that need no more than this part of the fastest ones' time: which are fastest
# hangs on the batch, and a session transforms weights for each form that it meets, and keeps them. A lone
# image's own time, mostly that of reading weights, may be worth a form of its own.
FORMS = 1.1
# Tiles of a step that each thread gets at least, where there is work enough for them.
TILES_A_THREAD = 2
# Arithmetic of transforms, as floating-point operations a value of the transformed tile.
INPUT_COST = 12
OUTPUT_COST = 14

WORDS = (
    "channels",
    "features",
    "tiles",
    "tiles_y",
    "tiles_x",
    "block_tiles",
    "blocks",
    "block_panels",
    "out_y",
    "out_x",
    "in_y",
    "in_x",
    "pad_y",
    "pad_x",
    "step_n",
    "step_y",
    "step_x",
    "pitch",
    "input_plane",
    "sums_plane",
    "sums",
    "finished",
    "zeros",
    "zero_bytes",
    "addresses",
    "table",
)


WEIGHTS_AT_ONCE = 2048
"""Columns of weights transformed in one product, which stays in the second cache."""


def even_polynomial(points: tuple[float, ...]) -> list[float]:
    """Coefficients of the product of all ``x**2 - p**2``, of ``x**0, x**2, ...``."""
    result = [1.0]
    for point in points:
        raised = [0.0, *result]
        lowered = [*(coefficient * point * point for coefficient in result), 0.0]
        result = [high - low for high, low in zip(raised, lowered, strict=True)]
    return result


def evaluation_matrix(m: int) -> npt.NDArray[np.float64]:
    """What 3 x 3 taps, row by row, become at all pairs of points: ``(t * t, 9)``."""
    points = POINTS[m]
    signed = [sign * point for point in points for sign in (1.0, -1.0)]
    rows = [[1.0 / even_polynomial(points)[0], 0.0, 0.0]]
    for x in signed:
        others = tuple(point for point in points if point != abs(x))
        weight = 2.0 * x * x * sum(c * x ** (2 * k) for k, c in enumerate(even_polynomial(others)))
        rows.append([1.0 / weight, x / weight, x * x / weight])
    rows.append([0.0, 0.0, 1.0])
    g = np.array(rows)
    return np.kron(g, g)


def transformed_weights(w: npt.NDArray[np.float32], m: int, width: int) -> npt.NDArray[np.float32]:
    """Weights ``(3, 3, C, M)`` evaluated at all pairs of points, rounded once, in the order they are read in.

    The result is flat, of ``(panel, t * t, C, width)``, the last panel filled up with zeros.
    """
    evaluate = evaluation_matrix(m)
    channels, features = w.shape[2:]
    taps = w.reshape(9, channels, features)
    panels = ceil_div(features, width)
    result = empty_block(panels * len(evaluate) * channels * width, np.dtype(np.float32))
    by_panel = result.reshape(panels, len(evaluate), channels, width)

    # In float64 all at once would take many times the memory of the weights.
    step = max(1, WEIGHTS_AT_ONCE // width)
    for panel in range(panels):
        own = taps[..., panel * width : (panel + 1) * width]
        count = own.shape[-1]
        for start in range(0, channels, step):
            part = own[:, start : start + step].astype(np.float64)
            values = evaluate @ part.reshape(9, -1)
            by_panel[panel, :, start : start + step, :count] = values.reshape(-1, part.shape[1], count)
        by_panel[panel, ..., count:] = 0
    return result


@dataclass(frozen=True, slots=True)
class _Shape:
    """Sizes of the transformed problem for output tiles of ``m x m``."""

    m: int
    images: int
    tiles_y: int
    tiles_x: int
    channels: int
    features: int

    @property
    def points(self) -> int:
        return (self.m + 2) ** 2

    @property
    def tiles(self) -> int:
        return self.images * self.tiles_y * self.tiles_x

    @property
    def flops(self) -> int:
        """Arithmetic of the products and of the transforms, which weighs where channels are few."""
        products = 2 * self.tiles * self.channels * self.features
        return self.points * (
            products + self.tiles * (INPUT_COST * self.channels + OUTPUT_COST * self.features)
        )

    def seconds(self, target: Target, tile: RegisterTile) -> float:
        """Estimated time on one thread."""
        rows, columns = round_up(self.tiles, tile.rows), round_up(self.features, tile.lanes)
        waste = rows * columns / (self.tiles * self.features)
        return waste * self.flops / target.flops + _reading(
            target, self.points * self.channels * self.features
        )


def emit_winograd(emit: StepEmitter, target: Target, conv: Convolution, primitive: Conv) -> bool:
    """Emits the convolution in this form if that can be done and pays; says whether it did."""
    shape = _worthwhile(target, conv, primitive)
    if shape is None:
        return False
    tile = register_tile(target, DType.FLOAT32, conv.features)
    _emit(emit, target, tile, conv, primitive, shape)
    return True


def has_winograd(conv: Convolution, primitive: Conv, target: Target) -> bool:
    """Can the convolution be computed in this form, and does it pay?"""
    return _worthwhile(target, conv, primitive) is not None


def _worthwhile(target: Target, conv: Convolution, primitive: Conv) -> _Shape | None:
    if not ENABLED or not _fits(target, conv, primitive):
        return None
    tile = register_tile(target, DType.FLOAT32, conv.features)
    seconds = {shape: shape.seconds(target, tile) for shape in (_shape(conv, m) for m in EXTENTS)}
    best = min(seconds.values())
    if best > WORTH * _direct_seconds(target, tile, conv):
        return None
    return max((shape for shape in seconds if seconds[shape] <= FORMS * best), key=lambda shape: shape.m)


def _fits(target: Target, conv: Convolution, primitive: Conv) -> bool:
    x, w = conv.x, conv.w
    tile = register_tile(target, DType.FLOAT32)
    return (
        conv.kernel == (1, 3, 3)
        and conv.strides == conv.dilations == (1, 1, 1)
        and conv.groups == 1
        and conv.pads[0] == 0
        and x.shape[1] == conv.output.shape[1] == 1
        and x.dtype is w.dtype is primitive.accumulator is DType.FLOAT32
        and w.is_constant
        and conv.channels > 0
        and depth_block(target, tile, conv.channels, 4, conv.output.size) == conv.channels
    )


def _shape(conv: Convolution, m: int) -> _Shape:
    images, _, y, x, features = conv.output.shape
    return _Shape(m, images, ceil_div(y, m), ceil_div(x, m), conv.channels, features)


def _direct_seconds(target: Target, tile: RegisterTile, conv: Convolution) -> float:
    positions = conv.output.size // conv.features
    products = round_up(positions, tile.rows) * conv.channels * round_up(conv.features, tile.lanes)
    return 2 * 9 * products / target.flops + _reading(target, conv.w.size)


def _reading(target: Target, weights: int) -> float:
    """Estimated time to read that many weights from memory."""
    return 4 * weights / target.bandwidth


def _cut(target: Target, tile: RegisterTile, shape: _Shape) -> tuple[int, int]:
    """Output tiles and panels of a step's tile. Sums do not depend on the cut.

    The transformed inputs and the sums of a panel stay in the second cache. For several threads what is too
    large is halved: many rows, else panels, as transforms repeated for them cost less than reading weights
    once more for few rows; but no thread repeats its own.
    """
    second = target.cache_bytes[1] if len(target.cache_bytes) > 1 else 8 * target.cache_bytes[0]
    row_bytes = 4 * shape.points * (shape.channels + tile.width)
    rows = ceil_div(shape.tiles, tile.rows)
    # Few weights stay in the second cache beside a block; many are read once for each block.
    few = 4 * shape.points * shape.channels * shape.features <= second // 2
    most = max(1, (second // 4 if few else second * 3 // 4) // (row_bytes * tile.rows))
    block = ceil_div(rows, ceil_div(rows, most))
    panels = all_panels = panel_count(shape.features, tile)
    wanted = TILES_A_THREAD * target.threads if target.threads > 1 else 1

    def count() -> int:
        return ceil_div(rows, block) * ceil_div(all_panels, panels)

    while count() < wanted and shape.flops / count() / target.flops > 2 * LEAST_SECONDS:
        if block >= ROW_BLOCKS_WORTH_SPLITTING or (panels == 1 and block > 3):
            block = ceil_div(block, 2)
        elif panels > 1 and count() < target.threads:
            panels = ceil_div(panels, 2)
        else:
            break
    return block * tile.rows, panels


def _emit(
    emit: StepEmitter, target: Target, tile: RegisterTile, conv: Convolution, primitive: Conv, shape: _Shape
) -> None:
    x, output, extras = conv.x, conv.output, conv.extras
    epilogue = describe_epilogue(primitive.epilogue, primitive.accumulator, output, extras, output.rank - 1)
    weights = _weights(emit, tile, conv.w, shape.m)
    block, panels = _cut(target, tile, shape)
    blocks = ceil_div(shape.tiles, block)
    # Rows a power of two apart would fall into the same lines of the cache.
    pitch = round_up(4 * shape.channels, 64) + 64
    row_bytes = 4 * tile.width
    zero_bytes = round_up(4 * shape.channels, 64)
    input_plane, sums_plane = _plane(block * pitch), _plane(block * row_bytes)
    sums_at = shape.points * input_plane
    finished_at = sums_at + shape.points * sums_plane
    zeros_at = finished_at + shape.m * shape.m * row_bytes
    addresses_at = zeros_at + zero_bytes
    table_at = addresses_at + 8 * shape.points
    parameters = [
        shape.channels,
        shape.features,
        shape.tiles,
        shape.tiles_y,
        shape.tiles_x,
        block,
        blocks,
        panels,
        *output.shape[2:4],
        *x.shape[2:4],
        *conv.pads[1:],
        x.strides[0] * 4,
        x.strides[2] * 4,
        x.strides[3] * 4,
        pitch,
        input_plane,
        sums_plane,
        sums_at,
        finished_at,
        zeros_at,
        zero_bytes,
        addresses_at,
        table_at,
    ]
    for view in (output, *extras):
        parameters += [view.strides[axis] * view.dtype.itemsize for axis in (0, 2, 3, 4)]
    variant = (shape.m, (tile.rows, tile.vectors, tile.lanes), epilogue.variant)
    operands = (x, weights, output, *extras)
    emit.step(
        KernelSpec(FAMILY, variant),
        operands,
        (2,),
        tuple(parameters),
        tiles=blocks * ceil_div(panel_count(shape.features, tile), panels),
        flops=shape.flops + epilogue.expression.cost * output.size,
        bytes_moved=sum(distinct_bytes(view) for view in operands),
        scratch=table_at + 8 * block,
        in_place=tuple((2, 3 + number) for number in shared_with_output(output, extras)),
    )


def _plane(nbytes: int) -> int:
    """Bytes from a pair of points to the next: an odd number of lines, which spreads them over the caches."""
    return (ceil_div(nbytes, 64) | 1) * 64


def _weights(emit: StepEmitter, tile: RegisterTile, w: View, m: int) -> View:
    """The transformed weights in the order they are read in: ``(panel, t * t, channels, width)``."""
    size = (m + 2) ** 2 * panel_count(w.shape[-1], tile) * w.shape[-2] * tile.width

    def make(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return transformed_weights(array[0], m, tile.width)

    return View.dense(emit.constant((w,), f"winograd{m} panels{tile.width}", make), (size,))
