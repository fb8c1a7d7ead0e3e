"""What selection and code of reductions must agree on: lanes, and vectors taken at once."""

from __future__ import annotations

from collections.abc import Sequence

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression
from onnxplan.compiler.target import Target


def compute_bytes(dtype: DType) -> int:
    """Bytes of a value of an element type while it is computed with."""
    return max(dtype.itemsize, 4) if dtype.is_float else dtype.itemsize


def lane_count(expression: Expression, labels: Sequence[str], target: Target) -> int:
    """Lanes so that the widest values of an expression fill a vector register.

    ``labels`` name the operands' element types; ``index`` stands for a coordinate.
    """
    types: list[DType] = [i.dtype for i in expression.instructions if i.op != "index"]
    types += [DType.from_label(label) for label in labels if label != "index"]
    return max(2, target.vector_bytes // max(map(compute_bytes, types), default=1))


def unroll_factor(cost: int, kinds: str) -> int:
    """Vectors that a reduction takes at once: as many accumulators as hide the latency of an addition.

    Many operations would fill the registers. ``kinds`` are the operands' access classes along the vectors.
    """
    if "s" in kinds or cost > 12:
        return 1
    return 4 if cost <= 3 else 2


def map_unroll(expression: Expression, kinds: str) -> int:
    """Vectors that a map takes at once; more than two lower the bandwidth of several streams."""
    return min(2, unroll_factor(expression.cost, kinds))


def column_unroll(expression: Expression, kinds: str) -> int:
    """Vectors side by side in column mode."""
    return unroll_factor(expression.cost, kinds)
