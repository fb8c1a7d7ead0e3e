"""Forests as tables: every comparison of a decision tree becomes "at most a threshold", and all rows walk
down all trees at once, one level with each group of gathers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ops.common import scalar_map
from onnxplan.compiler.ops.ml_common import pick
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.trace import Scalar, apply, index, select
from onnxplan.compiler.view import View

MODES = (
    "BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER",
)  # fmt: skip
"""Comparisons, in the order of the numbers that TreeEnsemble gives them."""
_LEQ, _LT, _GTE, _GT, _EQ, _NEQ, _MEMBER = range(7)

FALSE, TRUE, NAN = range(3)
"""Columns of :attr:`Forest.children`."""


@dataclass(frozen=True, slots=True)
class Split:
    """An inner node. ``if_true`` and ``if_false`` are positions of nodes; ``mode`` is one of ``MODES``."""

    mode: int
    feature: int
    threshold: float
    if_true: int
    if_false: int
    missing_is_true: bool


@dataclass(frozen=True, slots=True)
class Forest:
    """Trees in tables over positions of nodes; the first positions are the leaves, their own children.

    ``children (P, 3)`` tells where to go where a feature is above the threshold, where it is at most that,
    and where it is NaN. ``leaves`` holds for each tree the leaves that can be reached; ``depth`` is the
    largest number of splits on a way down.
    """

    features: npt.NDArray[np.int64]
    thresholds: npt.NDArray[Any]
    children: npt.NDArray[np.int64]
    roots: npt.NDArray[np.int64]
    leaves: tuple[npt.NDArray[np.int64], ...]
    depth: int


class _Tables:
    """Collects rows of a forest's tables."""

    def __init__(self, dtype: np.dtype[Any], leaf_count: int, split_count: int) -> None:
        self.dtype = dtype
        count = leaf_count + split_count
        self.features = [0] * count
        self.thresholds: list[Any] = [dtype.type(0)] * count
        self.children = [[position] * 3 for position in range(count)]

    def set(self, position: int, feature: int, threshold: Any, children: list[int]) -> None:
        self.features[position] = feature
        self.thresholds[position] = threshold
        self.children[position] = children

    def append(self) -> int:
        """The position of a new row."""
        self.features.append(0)
        self.thresholds.append(self.dtype.type(0))
        self.children.append([])
        return len(self.features) - 1

    def before(self, threshold: Any) -> Any:
        """The largest number below ``threshold``; NaN, which nothing is below, where there is none."""
        lowest = self.dtype.type(-np.inf)
        return self.dtype.type(np.nan) if threshold == lowest else np.nextafter(threshold, lowest)

    def split(self, position: int, node: Split, members: Sequence[float]) -> None:
        """Writes a node, with further rows for equality and for membership."""
        threshold = self.dtype.type(node.threshold)
        yes, no = node.if_true, node.if_false
        missing = yes if node.missing_is_true or node.mode == _NEQ else no
        if node.mode == _MEMBER:
            ordered = sorted({self.dtype.type(member) for member in members if member == member})
            self._member(position, node, ordered, missing)
        elif threshold != threshold:
            outcome = yes if node.mode == _NEQ else no
            self.set(position, node.feature, threshold, [outcome, outcome, missing])
        elif node.mode in (_LEQ, _LT):
            limit = threshold if node.mode == _LEQ else self.before(threshold)
            self.set(position, node.feature, limit, [no, yes, missing])
        elif node.mode in (_GT, _GTE):
            limit = threshold if node.mode == _GT else self.before(threshold)
            self.set(position, node.feature, limit, [yes, no, missing])
        elif node.mode == _EQ:
            self._equal(position, node.feature, threshold, yes, no, missing)
        else:
            self._equal(position, node.feature, threshold, no, yes, missing)

    def _equal(
        self, position: int, feature: int, threshold: Any, equal: int, different: int, missing: int
    ) -> None:
        below = self.append()
        self.set(position, feature, threshold, [different, below, missing])
        self.set(below, feature, self.before(threshold), [equal, different, missing])

    def _member(self, position: int, node: Split, members: Sequence[Any], missing: int) -> None:
        """A search among sorted members."""
        if not members:
            self.set(position, node.feature, self.dtype.type(0), [node.if_false, node.if_false, missing])
        elif len(members) == 1:
            self._equal(position, node.feature, members[0], node.if_true, node.if_false, missing)
        else:
            middle = len(members) // 2
            low, high = self.append(), self.append()
            self.set(position, node.feature, members[middle - 1], [high, low, missing])
            self._member(low, node, members[:middle], missing)
            self._member(high, node, members[middle:], missing)


def make_forest(
    leaf_count: int,
    splits: Sequence[Split],
    roots: Sequence[int],
    members: Mapping[int, Sequence[float]],
    dtype: DType,
) -> Forest:
    """The tables of a forest whose node positions count the leaves first, then the splits.

    ``members`` are those of the splits (by number) that test membership. Thresholds are compared in
    ``dtype``. NaN goes where ``missing_is_true`` says, but for BRANCH_NEQ, which it fulfils, as in
    onnxruntime. Raises ``ValueError`` where a node does not exist or is its own descendant.
    """
    count = leaf_count + len(splits)
    if not roots:
        raise ValueError("the ensemble has no trees")
    links = [*roots, *(link for split in splits for link in (split.if_true, split.if_false))]
    if not 0 <= min(links) <= max(links) < count:
        raise ValueError("a node has a child that does not exist")
    tables = _Tables(dtype.numpy, leaf_count, len(splits))
    for number, split in enumerate(splits):
        tables.split(leaf_count + number, split, members.get(number, ()))
    children = np.array(tables.children, np.int64).reshape(-1, 3)
    ways = [_reach(children, root, leaf_count) for root in roots]
    return Forest(
        np.array(tables.features, np.int64),
        np.array(tables.thresholds, dtype.numpy),
        children,
        np.array(roots, np.int64),
        tuple(leaves for leaves, _ in ways),
        max(depth for _, depth in ways),
    )


def _reach(children: npt.NDArray[np.int64], root: int, leaf_count: int) -> tuple[npt.NDArray[np.int64], int]:
    """The leaves below ``root``, and how many splits are on the longest way to one."""
    frontier = np.array([root], np.int64)
    leaves = [frontier[frontier < leaf_count]]
    inner = frontier[frontier >= leaf_count]
    depth = 0
    while inner.size:
        depth += 1
        if depth > len(children):
            raise ValueError("a node of a tree is its own descendant")
        frontier = np.unique(children[inner])
        leaves.append(frontier[frontier < leaf_count])
        inner = frontier[frontier >= leaf_count]
    return np.unique(np.concatenate(leaves)), depth


def descend(b: Builder, forest: Forest, x: View) -> View:
    """The leaf (int64) that each row of ``x (N, C)`` comes to in each tree: ``(N, trees)``.

    ``x`` has the type of the forest's thresholds.
    """
    rows, width = x.shape
    if forest.depth and not 0 <= forest.features.min() <= forest.features.max() < width:
        raise ValueError(f"a node tests a feature that {width} features do not have")
    shape = (rows, len(forest.roots))
    values = b.reshape(x, (x.size,))
    features, thresholds = b.constant(forest.features), b.constant(forest.thresholds)
    children = b.constant(forest.children.reshape(-1))
    state = b.constant(forest.roots.reshape(1, -1))
    for _ in range(forest.depth):
        feature = pick(b, features, state).expand(shape)
        value = pick(b, values, scalar_map(b, _element, feature, parameters=(width,)))
        threshold = pick(b, thresholds, state).expand(shape)
        state = pick(b, children, scalar_map(b, _way, state.expand(shape), value, threshold))
    return state.expand(shape)


def _element(*operands: Any) -> Scalar:
    feature, width = operands
    result: Scalar = index(feature, 0) * width + feature
    return result


def _way(state: Scalar, value: Scalar, threshold: Scalar) -> Scalar:
    """Where in the flattened table of children the next node is."""
    start = state * 3
    way = select(value <= threshold, start + TRUE, start + FALSE)
    return select(apply("isnan", value), start + NAN, way)
