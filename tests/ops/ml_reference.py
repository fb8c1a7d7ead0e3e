"""Operators of ai.onnx.ml in plain NumPy and Python, and random trees for them."""

import numpy as np

MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")


def transform(kind, scores):
    """A post transform of scores ``(N, K)`` in float64."""
    scores = np.asarray(scores, np.float64)
    if kind == "NONE":
        return scores
    if kind == "LOGISTIC":
        return 1 / (1 + np.exp(-scores))
    if kind == "PROBIT":
        x = 2 * scores - 1
        log = np.log(1 - x * x)
        v = 2 / (np.pi * 0.147) + log / 2
        return np.sign(x) * np.sqrt(2 * (np.sqrt(v * v - log / 0.147) - v))
    power = np.exp(scores - scores.max(axis=1, keepdims=True))
    if kind == "SOFTMAX_ZERO":
        power = np.where(np.abs(scores) > 1e-7, power, 0)
    return power / power.sum(axis=1, keepdims=True)


def holds(mode, x, threshold, missing):
    """Does a row go the way of true?"""
    if np.isnan(x):
        return bool(missing) or mode == "BRANCH_NEQ"
    return {
        "BRANCH_LEQ": x <= threshold,
        "BRANCH_LT": x < threshold,
        "BRANCH_GTE": x >= threshold,
        "BRANCH_GT": x > threshold,
        "BRANCH_EQ": x == threshold,
        "BRANCH_NEQ": x != threshold,
    }[mode]


def random_trees(prefix, *, trees, features, targets, seed, modes=MODES, every_target=True, positive=False):
    """Attributes of a random ensemble; thresholds are multiples of a half, so that features meet them.

    Each leaf votes for all targets, or for one; the numbers of nodes are neither sorted nor dense.
    """
    random = np.random.default_rng(seed)
    names = ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")
    columns = {name: [] for name in (*names, "missing_value_tracks_true")}
    votes = {name: [] for name in ("treeids", "nodeids", "ids", "weights")}

    def grow(tree, number, depth):
        leaf = depth == 0 or (depth < 4 and random.random() < 0.2)
        mode = "LEAF" if leaf else str(random.choice(modes))
        children = (0, 0) if leaf else (10 * number + 1, 10 * number + 4)
        row = (tree, number, int(random.integers(features)), float(random.integers(-3, 4) / 2), mode)
        for name, value in zip(columns, (*row, *children, int(random.integers(2))), strict=True):
            columns[name].append(value)
        if not leaf:
            for child in children:
                grow(tree, child, depth - 1)
            return
        for target in range(targets) if every_target else [int(random.integers(targets))]:
            weight = float(np.float32(random.uniform(0 if positive else -1, 1)))
            for name, value in zip(votes, (tree, number, target, weight), strict=True):
                votes[name].append(value)

    for tree in range(trees):
        grow(2 * tree + 3, 7, tree % 5)
    attributes = {f"nodes_{name}": column for name, column in columns.items()}
    return attributes | {f"{prefix}_{name}": column for name, column in votes.items()}


def leaf_votes(prefix, attributes, x):
    """For each row, for each tree, the list of ``(target, weight)`` of its leaf."""
    columns = {name[6:]: column for name, column in attributes.items() if name.startswith("nodes_")}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    nodes = {(row["treeids"], row["nodeids"]): row for row in rows}
    roots = {}
    for row in rows:
        roots.setdefault(row["treeids"], row)
    votes = {}
    parts = [attributes[f"{prefix}_{name}"] for name in ("treeids", "nodeids", "ids", "weights")]
    for tree, number, target, weight in zip(*parts, strict=True):
        votes.setdefault((tree, number), []).append((target, weight))
    result = []
    for features in x:
        found = []
        for tree, node in roots.items():
            while node["modes"] != "LEAF":
                value = features[node["featureids"]]
                yes = holds(node["modes"], value, node["values"], node["missing_value_tracks_true"])
                node = nodes[tree, node["truenodeids" if yes else "falsenodeids"]]
            found.append(votes.get((tree, node["nodeids"]), []))
        result.append(found)
    return result


def aggregate(kind, found, targets):
    """Scores ``(N, targets)`` in float64, and which of them anything votes for."""
    scores = np.zeros((len(found), targets))
    present = np.zeros((len(found), targets), bool)
    for row, trees in enumerate(found):
        for target in range(targets):
            weights = [weight for leaf in trees for other, weight in leaf if other == target]
            if weights:
                present[row, target] = True
                combine = {"MIN": min, "MAX": max}.get(kind, sum)
                scores[row, target] = combine(weights) / (len(trees) if kind == "AVERAGE" else 1)
    return scores, present


def two_classes(post, second, positive):
    """Scores of two classes from those of the second ``(N, 1)``."""
    if post == "LOGISTIC":
        return transform(post, np.hstack([-second, second]))
    if post == "PROBIT":
        return transform(post, np.hstack([1 - second, second]))
    return np.hstack([1 - second if positive else -second, second])
