"""Normalizer, Scaler, Imputer, FeatureVectorizer, LinearRegressor and LinearClassifier."""

import ml_reference
import numpy as np
from cases import FLOAT16, FLOAT32, FLOAT64, Case, case, special, uniform

DOMAIN = "ai.onnx.ml"
INT64, INT32 = np.dtype(np.int64), np.dtype(np.int32)
TYPES = (FLOAT32, FLOAT64, INT64, INT32)
CLOSE = (1e-5, 1e-5)


def normal(kind):
    def reference(x):
        rows = np.atleast_2d(x).astype(np.float64)
        norm = {
            "MAX": lambda: rows.max(axis=1, keepdims=True),
            "L1": lambda: np.abs(rows).sum(axis=1, keepdims=True),
            "L2": lambda: np.sqrt((rows * rows).sum(axis=1, keepdims=True)),
        }[kind]()
        return (rows / np.where(norm == 0, 1, norm)).reshape(x.shape)

    return reference


def with_zeros(dtype, *shape):
    """Random rows, one of them of zeros."""
    draw = uniform(dtype, *shape)

    def make(random):
        x = draw(random)
        x[1] = 0
        return x

    return make


def one(name, op_type, x, attributes, reference, dtypes=(FLOAT32,), **settings) -> Case:
    return case(
        name,
        op_type,
        {"x": x},
        domain=DOMAIN,
        attributes=attributes,
        reference=reference,
        dtypes=dtypes,
        tolerance=CLOSE,
        **settings,
    )


def scaling_cases() -> list[Case]:
    found = []
    for dtype in TYPES:
        for kind in ("MAX", "L1", "L2"):
            attributes = {"norm": kind}
            found.append(
                one(f"{kind} {dtype}", "Normalizer", with_zeros(dtype, 5, 7), attributes, normal(kind))
            )
        for offset, scale in (([0.5], [2.0]), ([0.5, -1.0, 3.0], [2.0, 0.25, -1.0]), ([1.5], [1, 2, 3.0])):
            found.append(
                one(
                    f"{len(offset)} {len(scale)} {dtype}",
                    "Scaler",
                    uniform(dtype, 5, 3),
                    {"offset": offset, "scale": scale},
                    lambda x, offset=offset, scale=scale: (x - np.array(offset)) * np.array(scale),
                )
            )
    found.append(one("vector", "Normalizer", uniform(FLOAT32, 6), {"norm": "L2"}, normal("L2")))
    found.append(one("no rows", "Normalizer", uniform(FLOAT32, 0, 6), {"norm": "L1"}, normal("L1")))
    return found


def imputed(values, replaced):
    def reference(x):
        missing = np.isnan(x) if replaced != replaced else x == replaced
        return np.where(missing, np.array(values), x)

    return reference


def imputer_cases() -> list[Case]:
    found = []
    for values in ([9.5], [9.5, -2.0, 0.25]):
        for dtype in (FLOAT32, FLOAT64, FLOAT16):
            attributes = {"imputed_value_floats": values, "replaced_value_float": float("nan")}
            name = f"NaN {len(values)} {dtype}"
            x = special(dtype, 6, 3)
            found.append(one(name, "Imputer", x, attributes, imputed(values, np.nan), (dtype,)))
        attributes = {"imputed_value_floats": values}
        x = special(FLOAT32, 6, 3)
        found.append(one(f"zero {len(values)}", "Imputer", x, attributes, imputed(values, 0.0)))
    for dtype in (INT64, INT32):
        attributes = {"imputed_value_int64s": [7, 8, 9], "replaced_value_int64": 2}
        x = uniform(dtype, 20, 3)
        found.append(one(f"{dtype}", "Imputer", x, attributes, imputed([7, 8, 9], 2), (dtype,)))
    return found


def vectorizer_cases() -> list[Case]:
    def reference(widths):
        def concatenated(*inputs):
            parts = []
            for x, width in zip(inputs, widths, strict=True):
                rows = np.atleast_2d(x)[:, :width]
                parts.append(np.pad(rows, [(0, 0), (0, width - rows.shape[1])]))
            return np.concatenate(parts, axis=1)

        return concatenated

    inputs = {"a": uniform(FLOAT32, 4, 3), "b": uniform(INT64, 4, 2), "c": uniform(FLOAT64, 4, 5)}
    settings = {"domain": DOMAIN, "dtypes": (FLOAT32,)}
    return [
        case(
            str(widths),
            "FeatureVectorizer",
            inputs,
            attributes={"inputdimensions": widths},
            reference=reference(widths),
            **settings,
        )
        for widths in ([3, 2, 5], [4, 1, 3])
    ] + [
        case(
            "vectors",
            "FeatureVectorizer",
            {"a": uniform(FLOAT32, 3), "b": uniform(INT32, 2)},
            attributes={"inputdimensions": [3, 2]},
            reference=reference([3, 2]),
            **settings,
        )
    ]


def linear(count, post, labels=None):
    """Attributes and reference of a linear model of three features."""
    random = np.random.default_rng([count, *post.encode()])
    weights = random.uniform(-0.2, 0.2, (count, 3)).astype(np.float32)
    intercepts = random.uniform(0.3, 0.7, count).astype(np.float32)
    attributes = {
        "coefficients": weights.reshape(-1).tolist(),
        "intercepts": intercepts.tolist(),
        "post_transform": post,
    }

    def reference(x):
        scores = np.atleast_2d(x) @ weights.T.astype(np.float64) + intercepts
        if labels is None:
            return ml_reference.transform(post, scores)
        if count == 1:
            return labels[(scores[:, 0] > 0).astype(np.int64)], ml_reference.two_classes(post, scores, True)
        return labels[scores.argmax(axis=1)], ml_reference.transform(post, scores)

    return attributes, reference


def linear_cases() -> list[Case]:
    found = []
    for post in ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"):
        for count in (1, 2, 4):
            attributes, reference = linear(count, post)
            x = uniform(FLOAT32, 9, 3, low=-0.5, high=0.5)
            settings = attributes | {"targets": count}
            found.append(one(f"{count} {post}", "LinearRegressor", x, settings, reference))
            labels = np.array([3, -5, 8, 13][: max(count, 2)])
            attributes, reference = linear(count, post, labels)
            settings = attributes | {"classlabels_ints": labels.tolist()}
            types = (INT64, FLOAT32)
            name = f"{count} {post}"
            found.append(one(name, "LinearClassifier", x, settings, reference, types, outputs=2))
    for dtype in (FLOAT64, INT64, INT32):
        attributes, reference = linear(2, "NONE")
        settings = attributes | {"targets": 2}
        found.append(one(f"{dtype}", "LinearRegressor", uniform(dtype, 9, 3), settings, reference))
    words = np.array(["no", "yes"], object)
    attributes, reference = linear(1, "LOGISTIC", words)
    settings = attributes | {"classlabels_strings": words.tolist()}
    types = (np.dtype(object), FLOAT32)
    x = uniform(FLOAT32, 5, 3, low=-6, high=6)
    found.append(one("strings", "LinearClassifier", x, settings, reference, types, outputs=2))
    return found


CASES = scaling_cases() + imputer_cases() + vectorizer_cases() + linear_cases()
