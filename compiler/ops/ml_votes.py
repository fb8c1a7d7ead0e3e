"""What the leaves of a forest vote for, and how the votes of all trees become one result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ops.common import scalar_map
from onnxplan.compiler.ops.ml_forest import Forest
from onnxplan.compiler.primitives import GatherReduce
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.trace import Scalar, select
from onnxplan.compiler.view import View

AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
"""How votes are combined, in the order of the numbers that TreeEnsemble gives them."""


@dataclass(frozen=True, slots=True)
class Votes:
    """``weights[i]`` for target ``targets[i]`` at leaf ``leaves[i]``; a leaf may vote several times."""

    leaves: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    weights: npt.NDArray[Any]

    def __post_init__(self) -> None:
        if not len(self.leaves) == len(self.targets) == len(self.weights):
            raise ValueError("there are not as many weights as leaves and targets that they belong to")

    def present(self, leaf_count: int, target_count: int) -> npt.NDArray[np.bool_]:
        """Which leaves vote for which targets, ``(leaves, targets)``."""
        result = np.zeros((leaf_count, target_count), bool)
        result[self.leaves, self.targets] = True
        return result


def aggregate(
    b: Builder, kind: str, forest: Forest, votes: Votes, found: View, leaf_count: int, target_count: int
) -> View:
    """The votes at the leaves ``found (N, trees)`` for each target: ``(N, targets)`` in the weights' type.

    A target that nothing votes for gets 0.
    """
    if votes.targets.size and not 0 <= votes.targets.min() <= votes.targets.max() < target_count:
        raise ValueError(f"a leaf votes for a target that is none of {target_count}")
    shape = (leaf_count, target_count)
    dtype = votes.weights.dtype
    if kind in ("SUM", "AVERAGE"):
        table = np.zeros(shape, dtype)
        np.add.at(table, (votes.leaves, votes.targets), votes.weights)
        total = _combined(b, "sum", table, found)
        if kind == "SUM":
            return total
        return b.map(lambda value: value / len(forest.roots), total)
    table = np.full(shape, -np.inf, dtype)
    signed = votes.weights if kind == "MAX" else -votes.weights
    np.maximum.at(table, (votes.leaves, votes.targets), signed)
    most = _combined(b, "max", table, found)
    result = most if kind == "MAX" else b.scalar("neg", most)
    absent = presence(b, forest, votes, found, leaf_count, target_count)
    return result if absent is None else scalar_map(b, _or_zero, absent, result)


def _or_zero(present: Scalar, value: Scalar) -> Scalar:
    return select(present > 0.0, value, 0.0)


def presence(
    b: Builder, forest: Forest, votes: Votes, found: View, leaf_count: int, target_count: int
) -> View | None:
    """1 where anything votes for a target, 0 elsewhere, ``(N, targets)``; ``None`` where that is always."""
    table = votes.present(leaf_count, target_count)
    always = np.any([table[leaves].all(axis=0) for leaves in forest.leaves], axis=0)
    if always.all():
        return None
    return _combined(b, "max", table.astype(votes.weights.dtype), found)


def _combined(b: Builder, kind: str, table: npt.NDArray[Any], found: View) -> View:
    dtype = DType.from_numpy(table.dtype)
    ones = b.constant(1, dtype).expand(found.shape)
    result = b.new(dtype, (found.shape[0], table.shape[1]))
    return b.emit(GatherReduce(kind), [b.constant(table), found, ones], [result])[0]


def add_base(b: Builder, scores: View, base: Sequence[float]) -> View:
    """``scores (N, targets)`` and a base value for each target."""
    if all(value == 0 for value in base):
        return scores
    return b.scalar("add", scores, b.constant(np.array(base), scores.dtype))
