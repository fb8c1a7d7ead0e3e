"""Ensembles of decision trees."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import scalar_map, wide
from onnxplan.compiler.ops.ml_common import (
    DOMAIN,
    TRANSFORMS,
    above,
    class_labels,
    feature_rows,
    labels_at,
    largest,
    transform,
    two_classes,
)
from onnxplan.compiler.ops.ml_forest import MODES, Forest, Split, descend, make_forest
from onnxplan.compiler.ops.ml_votes import AGGREGATES, Votes, add_base, aggregate, presence
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, select
from onnxplan.compiler.view import View


@operator("TreeEnsemble", since=5, domain=DOMAIN)
def tree_ensemble(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsemble.html

    Targets that nothing votes for are 0. NaN fulfils BRANCH_NEQ, as in onnxruntime. The post transform is
    also applied to a single target, which onnxruntime leaves as it is but for PROBIT.
    """
    if not x.dtype.is_float:
        raise TypeError(f"features are floats, not {x.dtype}")
    rows = feature_rows(b, x)
    targets = node.integer("n_targets")
    if rows.shape[0] == 0:
        return b.constant(np.empty((0, targets), x.dtype.numpy))
    leaf_targets = np.array(node.integers("leaf_targetids"), np.int64)
    count = len(leaf_targets)
    weights = node.tensor("leaf_weights").reshape(-1).astype(wide(x.dtype).numpy)
    votes = Votes(np.arange(count), leaf_targets, weights)
    forest = _flat_forest(node, count, rows.dtype)
    found = descend(b, forest, rows)
    kind = _named(AGGREGATES, node.integer("aggregate_function", 1), "aggregate_function")
    scores = aggregate(b, kind, forest, votes, found, count, targets)
    post = _named(TRANSFORMS, node.integer("post_transform", 0), "post_transform")
    return b.cast(transform(b, post, scores), x.dtype)


def _named(names: tuple[str, ...], number: int, what: str) -> str:
    if not 0 <= number < len(names):
        raise ValueError(f"{what} {number} is none of 0 to {len(names) - 1}")
    return names[number]


def _flat_forest(node: Node, leaf_count: int, dtype: DType) -> Forest:
    """The trees of TreeEnsemble, whose nodes are splits only."""
    modes = node.tensor("nodes_modes").reshape(-1).tolist()
    count = len(modes)
    thresholds = node.tensor("nodes_splits").reshape(-1)
    missing = node.integers("nodes_missing_value_tracks_true", ()) or (0,) * count
    columns = {
        name: node.integers(f"nodes_{name}")
        for name in ("featureids", "truenodeids", "falsenodeids", "trueleafs", "falseleafs")
    }
    lengths = {len(thresholds), len(missing), *map(len, columns.values())}
    if lengths != {count}:
        raise ValueError(f"there are {count} nodes, but not as many of each of their attributes")
    splits = []
    for i, mode in enumerate(modes):
        yes, no = columns["truenodeids"][i], columns["falsenodeids"][i]
        _named(MODES, mode, "a mode of nodes_modes")
        splits.append(
            Split(
                mode,
                columns["featureids"][i],
                thresholds[i],
                _position(yes, columns["trueleafs"][i], leaf_count, count),
                _position(no, columns["falseleafs"][i], leaf_count, count),
                bool(missing[i]),
            )
        )
    roots = [_position(root, 0, leaf_count, count) for root in node.integers("tree_roots")]
    return make_forest(leaf_count, splits, roots, _members(node, modes), dtype)


def _position(number: int, is_leaf: int, leaf_count: int, split_count: int) -> int:
    """The position of a leaf or split among the leaves and then the splits."""
    if not 0 <= number < (leaf_count if is_leaf else split_count):
        raise ValueError(f"there is no {'leaf' if is_leaf else 'node'} {number}")
    return number if is_leaf else leaf_count + number


def _members(node: Node, modes: list[int]) -> dict[int, list[float]]:
    """The members of each set, by the number of the node that tests it; NaN ends a set."""
    members = MODES.index("BRANCH_MEMBER")
    tests = [number for number, mode in enumerate(modes) if mode == members]
    if not tests:
        return {}
    sets: list[list[float]] = [[]]
    for value in node.tensor("membership_values").reshape(-1).tolist():
        if np.isnan(value):
            sets.append([])
        else:
            sets[-1].append(value)
    if not sets[-1]:
        sets.pop()
    if len(sets) != len(tests):
        raise ValueError(f"membership_values holds {len(sets)} sets for {len(tests)} nodes that test one")
    return dict(zip(tests, sets, strict=True))


@operator("TreeEnsembleRegressor", domain=DOMAIN)
def tree_ensemble_regressor(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsembleRegressor.html

    float32 ``(N, targets)``, computed in float64 where features or weights are. Otherwise as
    :func:`tree_ensemble`.
    """
    rows = feature_rows(b, x)
    targets = node.integer("n_targets", 1)
    if rows.shape[0] == 0:
        return b.constant(np.empty((0, targets), np.float32))
    kind = node.string("aggregate_function", "SUM")
    if kind not in AGGREGATES:
        raise ValueError(f"the aggregate function {kind!r} is none of {', '.join(AGGREGATES)}")
    forest, votes, found, leaf_count = _classic_trees(b, node, rows, "target")
    scores = aggregate(b, kind, forest, votes, found, leaf_count, targets)
    base = _floats(node, "base_values")
    if len(base) not in (0, targets):
        raise ValueError(f"there are {len(base)} base values for {targets} targets")
    scores = add_base(b, scores, base.tolist())
    return b.cast(transform(b, node.string("post_transform", "NONE"), scores), DType.FLOAT32)


@operator("TreeEnsembleClassifier", domain=DOMAIN)
def tree_ensemble_classifier(b: Builder, node: Node, x: View) -> tuple[View, View]:
    """https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsembleClassifier.html

    Where the standard is silent, as onnxruntime does: if of two classes the first only is voted for, its
    score is that of the second class; if one only is voted for, the second class wins above 0, above 0.5 if
    no weight is negative. A class that nothing votes for does not win, unless there are base values. With
    one label the result is 1 above 0, otherwise 0. Two classes that are both voted for are compared
    (onnxruntime then returns 0 or 1, whatever the labels are).
    """
    labels = class_labels(node, "classlabels_int64s", "classlabels_strings")
    count = len(labels)
    if count == 0:
        raise ValueError("there are no labels of classes")
    if count == 1 and labels.dtype == object:
        raise ValueError("one label alone cannot be a string: there is none for its opposite")
    rows = feature_rows(b, x)
    if rows.shape[0] == 0:
        return b.constant(np.empty(0, labels.dtype)), b.constant(np.empty((0, count), np.float32))
    post = node.string("post_transform", "NONE")
    forest, votes, found, leaf_count = _classic_trees(b, node, rows, "class")
    base = _floats(node, "base_values")
    if len(base) > count or 1 < len(base) < count or (len(base) == 1 and count > 2):
        raise ValueError(f"there are {len(base)} base values for {count} classes")
    scores = aggregate(b, "SUM", forest, votes, found, leaf_count, count)
    scores = add_base(b, scores, [*base.tolist(), *[0.0] * (count - len(base))])
    positive = not (votes.weights < 0).any()
    voted = set(votes.targets.tolist())
    if count == 1:
        winners, labels = above(b, scores, 0.0), np.array([0, 1], np.int64)
    elif count == 2 and len(voted) == 1:
        decisive = scores.slice(1, voted.pop(), 1)
        winners = above(b, decisive, 0.5 if positive else 0.0)
        if votes.targets[0] == 0:
            result = two_classes(b, post, decisive, complement=positive)
            return _classified(b, labels, winners, result)
    else:
        present = None if len(base) else presence(b, forest, votes, found, leaf_count, count)
        candidates = scores if present is None else scalar_map(b, _candidate, present, scores)
        return _classified(b, labels, largest(b, candidates), transform(b, post, scores))
    return _classified(b, labels, winners, transform(b, post, scores))


def _classified(b: Builder, labels: npt.NDArray[Any], winners: View, scores: View) -> tuple[View, View]:
    flat = b.reshape(winners, (winners.size,))
    # Labels of strings end a stage: what they need not wait for comes first.
    result = b.cast(scores, DType.FLOAT32)
    return labels_at(b, labels, flat), result


def _candidate(present: Scalar, score: Scalar) -> Scalar:
    return select(present > 0.0, score, -np.inf)


def _floats(node: Node, name: str) -> npt.NDArray[Any]:
    """Floats given as a list (float32) or as a tensor, which may be float64."""
    if f"{name}_as_tensor" in node.attributes:
        return node.tensor(f"{name}_as_tensor").reshape(-1)
    return np.array(node.attributes.get(name, ()), np.float32)


def _classic_trees(b: Builder, node: Node, rows: View, prefix: str) -> tuple[Forest, Votes, View, int]:
    """Forest, votes, the leaves that ``rows`` come to, and the number of leaves."""
    thresholds, weights = _floats(node, "nodes_values"), _floats(node, f"{prefix}_weights")
    numbers = {
        name: node.integers(f"nodes_{name}", ())
        for name in ("treeids", "nodeids", "featureids", "truenodeids", "falsenodeids")
    }
    modes = node.strings("nodes_modes", ())
    count = len(modes)
    missing = node.integers("nodes_missing_value_tracks_true", ()) or (0,) * count
    lengths = {len(thresholds), len(missing), *map(len, numbers.values())}
    if lengths != {count}:
        raise ValueError(f"there are {count} nodes, but not as many of each of their attributes")
    unknown = set(modes) - {"LEAF", *MODES[:-1]}
    if unknown:
        raise ValueError(f"the mode {unknown.pop()!r} is none of LEAF, {', '.join(MODES[:-1])}")
    keys = list(zip(numbers["treeids"], numbers["nodeids"], strict=True))
    order = sorted(range(count), key=lambda i: modes[i] != "LEAF")
    places = {keys[i]: place for place, i in enumerate(order)}
    if len(places) != count:
        raise ValueError("two nodes of a tree have the same number")
    leaf_count = modes.count("LEAF")

    def place(tree: int, number: int) -> int:
        if (tree, number) not in places:
            raise ValueError(f"tree {tree} has no node {number}")
        return places[tree, number]

    splits = []
    for i in order[leaf_count:]:
        tree = numbers["treeids"][i]
        splits.append(
            Split(
                MODES.index(modes[i]),
                numbers["featureids"][i],
                thresholds[i],
                place(tree, numbers["truenodeids"][i]),
                place(tree, numbers["falsenodeids"][i]),
                bool(missing[i]),
            )
        )
    first: dict[int, int] = {}
    for i, (tree, _) in enumerate(keys):
        first.setdefault(tree, places[keys[i]])
    compared = DType.FLOAT64 if thresholds.dtype == np.float64 else rows.dtype
    forest = make_forest(leaf_count, splits, list(first.values()), {}, compared)
    trees, nodes = node.integers(f"{prefix}_treeids", ()), node.integers(f"{prefix}_nodeids", ())
    if len(trees) != len(nodes):
        raise ValueError(f"{prefix}_treeids and {prefix}_nodeids differ in length")
    leaves = np.array([place(*key) for key in zip(trees, nodes, strict=True)], np.int64)
    if leaves.size and leaves.max() >= leaf_count:
        raise ValueError("a weight belongs to a node that is no leaf")
    summed = np.float64 if DType.FLOAT64 in (rows.dtype, DType.from_numpy(weights.dtype)) else np.float32
    targets = np.array(node.integers(f"{prefix}_ids", ()), np.int64)
    votes = Votes(leaves, targets, weights.astype(summed))
    return forest, votes, descend(b, forest, b.cast(rows, compared)), leaf_count
