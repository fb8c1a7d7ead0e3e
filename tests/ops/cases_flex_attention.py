"""FlexAttention, against NumPy in float64."""

import numpy as np
from cases import FLOAT16, FLOAT32, FLOAT64, Case, uniform
from onnx import TensorProto, helper

DOMAIN = "ai.onnx.preview"
CODES = {FLOAT16: TensorProto.FLOAT16, FLOAT32: TensorProto.FLOAT, FLOAT64: TensorProto.DOUBLE}

make = helper.make_node


def graph(nodes, dtype):
    """A modifier of ``s`` that yields ``t``; it may read values of the graph around it."""
    shape = ["B", "H", "L", "S"]
    return helper.make_graph(
        nodes,
        "modifier",
        [helper.make_tensor_value_info("s", CODES[dtype], shape)],
        [helper.make_tensor_value_info("t", CODES[dtype], shape)],
    )


def attended(scale=None, score=None, prob=None):
    def reference(q, k, v, extra=None):
        each = q.shape[1] // k.shape[1]
        k, v = np.repeat(k, each, 1), np.repeat(v, each, 1)
        factor = 1 / np.sqrt(q.shape[3]) if scale is None else np.float32(scale)
        scores = np.matmul(q, np.swapaxes(k, 2, 3)) * factor
        scores = scores if score is None else score(scores, extra)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return np.matmul(weights if prob is None else prob(weights, extra), v)

    return reference


def flex(
    name,
    *,
    heads=(4, 2),
    rows=5,
    keys=7,
    widths=(8, 6),
    dtype=FLOAT32,
    extra=None,
    reference,
    tolerance=None,
    **attributes,
) -> Case:
    inputs = {
        "q": uniform(dtype, 2, heads[0], rows, widths[0], low=-1, high=1),
        "k": uniform(dtype, 2, heads[1], keys, widths[0], low=-1, high=1),
        "v": uniform(dtype, 2, heads[1], keys, widths[1], low=-1, high=1),
    }
    node = make("FlexAttention", ["q", "k", "v"], ["y"], domain=DOMAIN, **attributes)
    return Case(
        f"FlexAttention-{name}",
        (node,),
        inputs if extra is None else {**inputs, "extra": extra},
        ("y",),
        reference=reference,
        opsets={DOMAIN: 1},
        tolerance=tolerance,
    )


def cases() -> list[Case]:
    capped = graph([make("Tanh", ["s"], ["h"]), make("Mul", ["h", "extra"], ["t"])], FLOAT32)
    masked = graph([make("Where", ["extra", "s", "lowest"], ["t"])], FLOAT32)
    masked.initializer.append(helper.make_tensor("lowest", TensorProto.FLOAT, [], [-np.inf]))
    scaled = graph([make("Mul", ["s", "extra"], ["t"])], FLOAT32)
    same = graph([make("Identity", ["s"], ["t"])], FLOAT64)
    return [
        flex("plain", reference=attended()),
        flex("equal heads", heads=(3, 3), rows=9, keys=33, reference=attended()),
        flex("scale", scale=0.3, reference=attended(0.3)),
        flex("float64", dtype=FLOAT64, score_mod=same, prob_mod=same, reference=attended()),
        flex("float16", dtype=FLOAT16, reference=attended()),
        flex(
            "score",
            score_mod=capped,
            extra=np.float32(3),
            reference=attended(score=lambda s, c: np.tanh(s) * c),
        ),
        flex(
            "mask",
            score_mod=masked,
            extra=np.tri(5, 7, dtype=bool),
            reference=attended(score=lambda s, m: np.where(m, s, -np.inf)),
        ),
        flex(
            "weights",
            prob_mod=scaled,
            extra=uniform(FLOAT32, 4, 1, 7, low=0, high=2),
            reference=attended(prob=lambda w, c: w * c),
        ),
        flex(
            "precise",
            softmax_precision=TensorProto.DOUBLE,
            score_mod=same,
            reference=attended(),
        ),
        flex(
            "rough",
            softmax_precision=TensorProto.FLOAT16,
            reference=attended(),
            tolerance=(5e-3, 1e-3),
        ),
        flex("no queries", rows=0, reference=attended()),
    ]


CASES = cases()
