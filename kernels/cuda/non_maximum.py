"""SuppressNonMaximum: a block selects the boxes of one image and class. Selection and code.

In each round every thread drops those of its candidates that the last selected box suppresses and names the
best of the others; the best of the block is selected next.
"""

from __future__ import annotations

from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import SuppressNonMaximum
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.cuda.source import KernelSource, KernelText

FEW_THREADS, MANY_THREADS = 128, 1024
# Candidates of an image and class from which on the larger blocks are worth their barriers.
MANY_CANDIDATES = 2048


def select_non_maximum(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the step; a temporary holds the ranks of all scores."""
    primitive = operation.primitive
    assert isinstance(primitive, SuppressNonMaximum)
    boxes, scores, _, _ = operation.inputs
    picks, counts = operation.outputs
    images, classes, extent = scores.shape
    blocks = images * classes
    if blocks == 0:
        return
    ranks = View.dense(emit.temporary(DType.UINT32, scores.size, "ranks"), (blocks, extent))
    threads = MANY_THREADS if extent >= MANY_CANDIDATES else FEW_THREADS
    strides = (*boxes.strides, *scores.strides, *picks.strides, *counts.strides)
    emit.step(
        KernelSpec("non_maximum", (threads, primitive.centered, primitive.has_score_threshold)),
        (*operation.inputs, picks, counts, ranks),
        (4, 5, 6),
        (extent, classes, picks.shape[-1], *strides),
        tiles=blocks,
        flops=16 * blocks * extent * picks.shape[-1],
        bytes_moved=4 * (boxes.size + 3 * scores.size) + 8 * (picks.size + counts.size),
    )


_STRIDES = (
    "box_image", "box_step", "box_inner", "score_image", "score_class", "score_step",
    "pick_image", "pick_class", "pick_step", "count_image", "count_class",
)  # fmt: skip

# Products and sums are rounded one by one, so that all devices agree on what is above a threshold.
_OVERLAP = """
struct Box { float low0, low1, high0, high1; };
ONNXPLAN_INLINE float onnxplan_area(const Box& a) {
    return __fmul_rn(__fadd_rn(a.high0, -a.low0), __fadd_rn(a.high1, -a.low1));
}
ONNXPLAN_INLINE bool onnxplan_overlaps(const Box& a, const Box& b, float threshold) {
    const float height = __fadd_rn(onnxplan_min(a.high0, b.high0), -onnxplan_max(a.low0, b.low0));
    const float width = __fadd_rn(onnxplan_min(a.high1, b.high1), -onnxplan_max(a.low1, b.low1));
    const float first = onnxplan_area(a), second = onnxplan_area(b);
    if (!(height > 0.0f && width > 0.0f) || first <= 0.0f || second <= 0.0f) return 0.0f > threshold;
    const float shared = __fmul_rn(height, width);
    return __fdiv_rn(shared, __fadd_rn(__fadd_rn(first, second), -shared)) > threshold;
}
ONNXPLAN_INLINE unsigned onnxplan_rank(float score) {
    const unsigned bits = __float_as_uint(score == 0.0f ? 0.0f : score);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
"""

_CENTERED = """
ONNXPLAN_INLINE Box onnxplan_box(const float* from, long long step) {
    const float y = from[0], x = from[step];
    const float half0 = __fmul_rn(from[2 * step], 0.5f), half1 = __fmul_rn(from[3 * step], 0.5f);
    return {__fadd_rn(y, -half0), __fadd_rn(x, -half1), __fadd_rn(y, half0), __fadd_rn(x, half1)};
}
"""

_CORNERS = """
ONNXPLAN_INLINE Box onnxplan_box(const float* from, long long step) {
    const float a = from[0], b = from[step], c = from[2 * step], d = from[3 * step];
    return {onnxplan_min(a, c), onnxplan_min(b, d), onnxplan_max(a, c), onnxplan_max(b, d)};
}
"""

_BODY = """
__shared__ unsigned long long bests[@WARPS@];
const int thread = threadIdx.x;
const long long image = blockIdx.x / classes, kind = blockIdx.x % classes;
const float* const own_boxes = boxes + image * box_image;
const float* const own_scores = scores + image * score_image + kind * score_class;
long long* const own_picks = picks + image * pick_image + kind * pick_class;
unsigned* const own_ranks = ranks + (long long)blockIdx.x * extent;
const float threshold = *iou_threshold, lowest = *score_threshold;
for (int position = thread; position < extent; position += @THREADS@) {
    const float score = own_scores[position * score_step];
    own_ranks[position] = @CONSIDERED@ ? onnxplan_rank(score) : 0u;
}
int chosen = 0;
bool any = false;
Box last = {};
while (chosen < most) {
    unsigned long long best = 0;
    for (int position = thread; position < extent; position += @THREADS@) {
        const unsigned rank = own_ranks[position];
        if (!rank) continue;
        const Box own = onnxplan_box(own_boxes + position * box_step, box_inner);
        if (any && onnxplan_overlaps(own, last, threshold)) {
            own_ranks[position] = 0u;
            continue;
        }
        const unsigned long long named = (unsigned long long)rank << 32 | (unsigned)~position;
        best = named > best ? named : best;
    }
    for (int distance = 16; distance; distance >>= 1) {
        const unsigned long long other = __shfl_xor_sync(0xffffffffu, best, distance);
        best = other > best ? other : best;
    }
    if (thread % 32 == 0) bests[thread / 32] = best;
    __syncthreads();
    best = 0;
    for (int warp = 0; warp < @WARPS@; ++warp) best = bests[warp] > best ? bests[warp] : best;
    __syncthreads();
    if (!best) break;
    const int position = (int)~(unsigned)best;
    last = onnxplan_box(own_boxes + position * box_step, box_inner);
    any = true;
    if (position % @THREADS@ == thread) {
        own_picks[chosen * pick_step] = position;
        own_ranks[position] = 0u;
    }
    ++chosen;
}
for (int number = chosen + thread; number < most; number += @THREADS@) own_picks[number * pick_step] = 0;
if (thread == 0) counts[image * count_image + kind * count_class] = chosen;
"""


def build_non_maximum(variant: Any, target: Target) -> KernelSource:
    """``variant`` is ``(threads, centered, has_score_threshold)``.

    A rank is an unsigned number that rises with the score, 0 for a box that is out of the race. Parameters:
    boxes, classes, most picks, strides of boxes, scores, picks and counts.
    """
    threads, centered, limited = variant
    kernel = KernelText(threads)
    for name in ("boxes", "scores", "iou_threshold", "score_threshold"):
        kernel.operand(name, DType.FLOAT32, alone=True)
    kernel.operand("picks", DType.INT64, written=True)
    kernel.operand("counts", DType.INT64, written=True)
    kernel.operand("ranks", DType.UINT32, written=True)
    kernel.parameter("extent", "int")
    kernel.parameter("classes", "int")
    kernel.parameter("most")
    for name in _STRIDES:
        kernel.parameter(name)
    kernel.function(_OVERLAP)
    kernel.function(_CENTERED if centered else _CORNERS)
    considered = "score > lowest" if limited else "score == score"
    body = _BODY.strip().replace("@THREADS@", str(threads)).replace("@WARPS@", str(threads // 32))
    kernel.line(body.replace("@CONSIDERED@", f"({considered})"))
    return kernel.source("non_maximum")
