"""SVMRegressor and SVMClassifier."""

import itertools

import ml_reference
import numpy as np
from cases import FLOAT32, FLOAT64, Case, case, uniform

DOMAIN = "ai.onnx.ml"
INT64 = np.dtype(np.int64)
GAMMA, OFFSET, DEGREE = 0.25, 0.5, 3.0


def similarity(kind, x, vectors):
    """The kernel function of all rows of two matrices."""
    product = x @ vectors.T
    if kind == "LINEAR":
        return product
    if kind == "RBF":
        return np.exp(-GAMMA * ((x[:, None] - vectors) ** 2).sum(axis=2))
    inner = product * GAMMA + OFFSET
    return inner**DEGREE if kind == "POLY" else np.tanh(inner)


def drawn(seed, *shape):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def listed(array):
    return array.reshape(-1).tolist()


def model(name, op_type, attributes, reference, dtypes, dtype=FLOAT32, rows=9) -> Case:
    return case(
        f"{name} {dtype}",
        op_type,
        {"x": uniform(dtype, rows, 4, low=-2, high=2)},
        outputs=len(dtypes),
        domain=DOMAIN,
        attributes=attributes,
        reference=reference,
        dtypes=dtypes,
        tolerance=(1e-4, 1e-5),
    )


def regressor(kind, supports, dtype=FLOAT32, rows=9, **extra) -> Case:
    vectors, weights = drawn(1, supports, 4), drawn(2, supports or 4)
    attributes = {"coefficients": listed(weights), "rho": [0.25], "n_supports": supports} | extra
    if supports:
        attributes |= {"support_vectors": listed(vectors), "kernel_params": [GAMMA, OFFSET, DEGREE]}

    def reference(x):
        terms = similarity(kind, x, vectors.astype(np.float64)) if supports else x
        scores = terms @ weights[:, None].astype(np.float64) + 0.25
        if extra.get("one_class"):
            return np.where(scores > 0, 1, -1)
        return ml_reference.transform(extra.get("post_transform", "NONE"), scores)

    name = " ".join([kind, str(supports), *map(str, extra.values())])
    attributes["kernel_type"] = kind
    return model(name, "SVMRegressor", attributes, reference, (FLOAT32,), dtype, rows)


def classifier(kind, sizes, labels, post="NONE", dtype=FLOAT32) -> Case:
    count, total = len(labels), sum(sizes)
    vectors = drawn(3, total, 4)
    weights = drawn(4, count - 1, total) if total else drawn(5, count, 4)
    pairs = list(itertools.combinations(range(count), 2))
    rho = drawn(6, len(pairs) if total else 1) / 4
    texts = isinstance(labels[0], str)
    attributes = {"coefficients": listed(weights), "rho": listed(rho), "kernel_type": kind}
    attributes["classlabels_strings" if texts else "classlabels_ints"] = labels
    attributes["post_transform"] = post
    if total:
        attributes |= {"support_vectors": listed(vectors), "vectors_per_class": list(sizes)}
        attributes["kernel_params"] = [GAMMA, OFFSET, DEGREE]

    def reference(x):
        if not total:
            scores = x @ weights.T.astype(np.float64) + rho[0]
            winners = scores.argmax(axis=1)
        else:
            terms = similarity(kind, x, vectors.astype(np.float64))
            owner = np.repeat(np.arange(count), sizes)
            scores = np.empty((len(x), len(pairs)))
            votes = np.zeros((len(x), count))
            for column, (one, other) in enumerate(pairs):
                coefficients = np.where(owner == one, weights[other - 1], 0)
                coefficients = coefficients + np.where(owner == other, weights[one], 0)
                scores[:, column] = terms @ coefficients + rho[column]
                won = scores[:, column] > 0
                votes[:, one] += won
                votes[:, other] += ~won
            winners = votes.argmax(axis=1)
        found = np.array(labels, object if texts else np.int64)[winners]
        if count == 2:
            return found, ml_reference.two_classes(post, scores, positive=False)
        return found, ml_reference.transform(post, scores)

    dtypes = (np.dtype(object) if texts else INT64, FLOAT32)
    name = f"{kind} {'-'.join(map(str, sizes))} of {count} {'words ' if texts else ''}{post}"
    return model(name, "SVMClassifier", attributes, reference, dtypes, dtype)


def svm_cases() -> list[Case]:
    found = []
    for kind in ("LINEAR", "POLY", "RBF", "SIGMOID"):
        found += [regressor(kind, 7), regressor(kind, 7, FLOAT64), classifier(kind, (3, 1, 4), [5, -6, 7])]
    for dtype in (np.dtype(np.int32), INT64):
        found += [regressor("RBF", 3, dtype), classifier("RBF", (3, 1, 4, 2), [5, 6, 7, 8], dtype=dtype)]
    found += [
        regressor("LINEAR", 0),
        regressor("RBF", 7, one_class=1),
        regressor("LINEAR", 3, post_transform="LOGISTIC"),
        regressor("RBF", 7, rows=1, one_class=0),
        classifier("LINEAR", (), [5, -6, 7]),
        classifier("LINEAR", (), [5, -6, 7, 1], "SOFTMAX"),
        classifier("RBF", (2, 3, 4), [5, -6, 7], "LOGISTIC"),
        classifier("RBF", (2, 3, 4), ["a", "b", "c"]),
        classifier("RBF", (4, 3), [5, -6]),
        classifier("POLY", (4, 3), [5, -6], "LOGISTIC"),
    ]
    return found


CASES = svm_cases()
