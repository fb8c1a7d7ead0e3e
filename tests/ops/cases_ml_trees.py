"""TreeEnsemble, TreeEnsembleRegressor and TreeEnsembleClassifier."""

import ml_reference
import numpy as np
from cases import FLOAT16, FLOAT32, FLOAT64, Case, case, make_tensor

DOMAIN = "ai.onnx.ml"
TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
INT64 = np.dtype(np.int64)


def features(dtype, rows, columns, *, missing=True):
    """Multiples of a half, so that thresholds are met; some NaN, infinities and zeros of both signs."""

    def make(random):
        x = random.integers(-4, 5, (rows, columns)) / 2
        if np.dtype(dtype).kind == "f" and missing:
            flat = x.reshape(-1)
            places = random.permutation(flat.size)[:6]
            values = [np.nan, np.inf, -np.inf, -0.0, np.nextafter(np.float32(0), np.float32(-1)), np.nan]
            flat[places] = values[: len(places)]
        return x.astype(dtype)

    return make


def regressor(name, trees, *, dtype=FLOAT32, rows=7, columns=4, targets=1, version=3, **extra):
    """A case of TreeEnsembleRegressor; ``trees`` are the attributes of its nodes and votes."""
    kind, post = extra.get("aggregate_function", "SUM"), extra.get("post_transform", "NONE")
    base = extra.get("base_values", extra.get("base_values_as_tensor"))

    def reference(x):
        scores, _ = ml_reference.aggregate(kind, ml_reference.leaf_votes("target", trees, x), targets)
        return ml_reference.transform(post, scores + (0 if base is None else np.asarray(base)))

    return case(
        f"{name} {dtype}",
        "TreeEnsembleRegressor",
        {"x": features(dtype, rows, columns)},
        domain=DOMAIN,
        opsets={DOMAIN: version},
        attributes=trees | {"n_targets": targets} | extra,
        reference=reference,
        dtypes=(FLOAT32,),
        tolerance=(1e-5, 1e-5),
    )


def regressor_cases() -> list[Case]:
    found = []
    for number, mode in enumerate(ml_reference.MODES):
        trees = ml_reference.random_trees("target", trees=6, features=4, targets=1, seed=number, modes=[mode])
        found += [regressor(mode, trees, dtype=np.dtype(dtype)) for dtype in ("float32", "float64", "int64")]
    mixed = ml_reference.random_trees("target", trees=11, features=4, targets=3, seed=7)
    sparse = ml_reference.random_trees("target", trees=2, features=4, targets=3, seed=8, every_target=False)
    single = ml_reference.random_trees("target", trees=1, features=4, targets=1, seed=9)
    for kind in ("SUM", "AVERAGE", "MIN", "MAX"):
        found.append(regressor(f"{kind}", mixed, targets=3, aggregate_function=kind, version=1))
        settings = {"aggregate_function": kind, "base_values": [0.5, -1.0, 2.0]}
        found.append(regressor(f"{kind} one vote a leaf", sparse, targets=3, **settings))
    for post in TRANSFORMS[:3]:
        found.append(regressor(post, mixed, targets=3, post_transform=post))
    found.append(regressor("LOGISTIC of one target", single, post_transform="LOGISTIC"))
    found.append(regressor("only a leaf", single))
    found.append(regressor("no rows", mixed, targets=3, rows=0))
    found.append(regressor("one row", mixed, targets=3, rows=1, dtype=np.dtype(np.int32)))
    return found


def classifier(name, trees, labels, *, rows=8, post="NONE", base=(), version=3) -> Case:
    count = len(labels)
    positive = min(trees["class_weights"]) >= 0
    voted = set(trees["class_ids"])
    texts = isinstance(labels[0], str)

    def reference(x):
        scores, present = ml_reference.aggregate("SUM", ml_reference.leaf_votes("class", trees, x), count)
        scores = scores + np.array([*base, *[0] * (count - len(base))])
        result = ml_reference.transform(post, scores)
        if count == 1:
            return (scores[:, 0] > 0).astype(np.int64), result
        if count == 2 and len(voted) == 1:
            second = scores[:, list(voted)]
            winners = (second[:, 0] > (0.5 if positive else 0)).astype(np.int64)
            if voted == {0}:
                result = ml_reference.two_classes(post, second, positive)
        else:
            winners = np.where(present | bool(base), scores, -np.inf).argmax(axis=1)
        return np.array(labels, object if texts else np.int64)[winners], result

    attributes = {"post_transform": post, **({"base_values": list(base)} if base else {})}
    attributes["classlabels_strings" if texts else "classlabels_int64s"] = labels
    return case(
        name,
        "TreeEnsembleClassifier",
        {"x": features(FLOAT32, rows, 4)},
        outputs=2,
        domain=DOMAIN,
        opsets={DOMAIN: version},
        attributes=trees | attributes,
        reference=reference,
        dtypes=(np.dtype(object) if texts else INT64, FLOAT32),
        tolerance=(1e-5, 1e-5),
    )


def classifier_cases() -> list[Case]:
    def trees(targets, seed, **settings):
        return ml_reference.random_trees("class", trees=7, features=4, targets=targets, seed=seed, **settings)

    found = []
    three, second = trees(3, 20), trees(1, 21)
    second["class_ids"] = [1] * len(second["class_ids"])
    first, positive = trees(1, 22), trees(1, 23, positive=True)
    positive["class_weights"] = [weight / 7 for weight in positive["class_weights"]]
    for post in TRANSFORMS[:3]:
        found.append(classifier(f"three {post}", three, [5, -7, 9], post=post))
        found.append(classifier(f"first of two {post}", first, [4, 5], post=post))
        found.append(classifier(f"first of two, positive {post}", positive, [4, 5], post=post))
        found.append(classifier(f"second of two {post}", second, [4, 5], post=post))
    found += [
        classifier("first of two, positive PROBIT", positive, [4, 5], post="PROBIT"),
        classifier("both of two", trees(2, 24), [4, 5], version=1),
        classifier("three, base", three, [1, 2, 3], base=(0.5, -0.5, 0.25)),
        classifier("first of two, base", first, [4, 5], base=(0.25,)),
        classifier("sparse votes", trees(4, 25, every_target=False), [0, 1, 2, 3]),
        classifier("one label", first, [1]),
        classifier("no rows", three, [5, 7, 9], rows=0),
        classifier("strings", three, ["red", "green", "blue"]),
    ]
    return found


# x0 <= 0.5 ? x1 in {1, 2, 5} : x1 > 2; the last tree is a leaf.
FLAT = {
    "n_targets": 2,
    "tree_roots": [0, 3],
    "nodes_featureids": [0, 1, 1, 0],
    "nodes_truenodeids": [1, 0, 2, 4],
    "nodes_trueleafs": [0, 1, 1, 1],
    "nodes_falsenodeids": [2, 1, 3, 4],
    "nodes_falseleafs": [0, 1, 1, 1],
    "leaf_targetids": [0, 1, 1, 0, 0],
}
WEIGHTS = np.array([5.0, -1.5, 2.25, 0.5, 1.0])


def flat_reference(kind, missing):
    def reference(x):
        found = []
        for first, second in x:
            if first <= 0.5 or (np.isnan(first) and missing[0]):
                leaf = 0 if second in (1, 2, 5) or (np.isnan(second) and missing[1]) else 1
            else:
                leaf = 2 if second > 2 or (np.isnan(second) and missing[2]) else 3
            found.append([[(FLAT["leaf_targetids"][i], WEIGHTS[i])] for i in (leaf, 4)])
        return ml_reference.aggregate(kind, found, 2)[0]

    return reference


def flat_cases() -> list[Case]:
    found = []
    for dtype in (FLOAT32, FLOAT64, FLOAT16):
        for number, kind in enumerate(("AVERAGE", "SUM", "MIN", "MAX")):
            missing = [number & 1, number >> 1, 1]
            attributes = FLAT | {
                "aggregate_function": number,
                "nodes_modes": np.array([0, 6, 3, 0], np.uint8),
                "nodes_splits": np.array([0.5, 0, 2, 0], dtype),
                "leaf_weights": WEIGHTS.astype(dtype),
                "membership_values": np.array([5, 1, 2, np.nan], dtype),
                "nodes_missing_value_tracks_true": [*missing, 0],
            }
            tensors = {
                name: make_tensor(name, value) if isinstance(value, np.ndarray) else value
                for name, value in attributes.items()
            }
            found.append(
                case(
                    f"{kind} {dtype}",
                    "TreeEnsemble",
                    {"x": flat_features(dtype)},
                    domain=DOMAIN,
                    opsets={DOMAIN: 5},
                    attributes=tensors,
                    reference=flat_reference(kind, missing),
                )
            )
    return found


def flat_features(dtype):
    def make(random):
        x = random.integers(0, 7, (13, 2)).astype(dtype)
        x[:, 0] = random.choice([0.25, 0.5, 0.75, np.nan], 13)
        x[:2, 1] = np.nan
        return x

    return make


CASES = regressor_cases() + classifier_cases() + flat_cases()
