"""Losses of classification."""

import functools

import numpy as np
from cases import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Case, case, uniform

CLOSE = {FLOAT32: (2e-5, 2e-6), FLOAT64: (1e-11, 1e-12), FLOAT16: (2e-3, 2e-3), BFLOAT16: (1e-2, 1e-2)}


def loss(attributes, normalize, outputs, x, labels, weights=None):
    if normalize:
        shifted = x - x.max(1, keepdims=True)
        x = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    losses, counts = np.zeros(labels.shape), np.zeros(labels.shape)
    for place in np.ndindex(labels.shape):
        label = labels[place]
        if label != attributes.get("ignore_index"):
            counts[place] = 1.0 if weights is None else weights[label]
            losses[place] = -x[place[0], label, *place[1:]] * counts[place]
    reduction = attributes.get("reduction", "mean")
    if reduction != "none":
        losses = losses.sum() / (counts.sum() if reduction == "mean" else 1.0)
    return (losses, x)[:outputs]


def loss_case(
    name, op_type, shape, *, dtype=FLOAT32, weighted=False, label_type=np.int64, **attributes
) -> Case:
    def labels(random):
        values = random.integers(0, shape[1], (shape[0], *shape[2:])).astype(label_type)
        if "ignore_index" in attributes:
            values.reshape(-1)[::3] = attributes["ignore_index"]
        return values

    inputs = {"x": uniform(dtype, *shape), "labels": labels}
    if weighted:
        inputs["w"] = uniform(dtype, shape[1], low=0.1, high=2.0)
    outputs = 2 if op_type.startswith("Softmax") else 1
    return case(
        name,
        op_type,
        inputs,
        outputs=outputs,
        attributes=attributes,
        reference=functools.partial(loss, attributes, outputs == 2, outputs),
        dtypes=(np.dtype(dtype),) * outputs,
        tolerance=CLOSE[np.dtype(dtype)],
    )


def loss_cases() -> list[Case]:
    found = []
    for op_type in ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"):
        for reduction in ("none", "sum", "mean"):
            for weighted in (False, True):
                for ignored in ({}, {"ignore_index": 1}, {"ignore_index": -100}):
                    settings = {"reduction": reduction, "weighted": weighted, **ignored}
                    name = f"{reduction}{weighted}{ignored.get('ignore_index')}"
                    found.append(loss_case(name, op_type, (7, 5), **settings))
                    if ignored:
                        found.append(loss_case(f"{name} images", op_type, (2, 3, 4, 5), **settings))
        found.append(loss_case("default", op_type, (3, 4, 2), label_type=np.int32))
        found.append(loss_case("one class", op_type, (3, 1), weighted=True))
        found.append(loss_case("nothing", op_type, (0, 4), reduction="sum"))
        for dtype in (FLOAT64, FLOAT16, BFLOAT16):
            found.append(loss_case(f"{dtype}", op_type, (6, 5, 2), dtype=dtype, weighted=True))
    return found


CASES = loss_cases()
