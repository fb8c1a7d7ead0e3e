"""Convolutions and attention that carry a state; ONNX's reference evaluator says what is right."""

from cases import FLOAT16, FLOAT32, Case, case, uniform

CLOSE = {FLOAT32: (3e-5, 3e-5), FLOAT16: (4e-3, 4e-3)}


def convolution_case(name, length, kernel, *, bias=True, past=True, dtype=FLOAT32, **attributes) -> Case:
    inputs = {
        "x": uniform(dtype, 2, 5, length),
        "w": uniform(dtype, 5, 1, kernel),
        "b": uniform(dtype, 5) if bias else None,
        "past": uniform(dtype, 2, 5, kernel - 1) if past else None,
    }
    settings = {"attributes": attributes, "tolerance": CLOSE[dtype]}
    return case(name, "CausalConvWithState", inputs, outputs=2, **settings)


def attention_case(rule, heads, *, tokens=4, past=True, wide_decay=True, rates=2) -> Case:
    small = {"low": -0.5, "high": 0.5}
    inputs = {
        "q": uniform(FLOAT32, 2, tokens, heads * 3, **small),
        "k": uniform(FLOAT32, 2, tokens, 2 * 3, **small),
        "v": uniform(FLOAT32, 2, tokens, 2 * 5, **small),
        "past": uniform(FLOAT32, 2, 2, 3, 5) if past else None,
        "g": uniform(FLOAT32, 2, tokens, 6 if wide_decay else 2, **small) if "gated" in rule else None,
        "r": uniform(FLOAT32, 2, tokens, rates, **small) if "delta" in rule else None,
    }
    attributes = {"q_num_heads": heads, "kv_num_heads": 2, "update_rule": rule}
    name = f"{rule}{heads}{tokens}{past}{wide_decay}{rates}"
    settings = {"attributes": attributes, "tolerance": CLOSE[FLOAT32]}
    return case(name, "LinearAttention", inputs, outputs=2, **settings)


CASES = [
    convolution_case("plain", 7, 3, bias=False, past=False),
    convolution_case("state", 7, 4),
    convolution_case("one", 1, 4, activation="silu"),
    convolution_case("pointwise", 3, 1, past=False, activation="swish"),
    *(
        attention_case(rule, heads)
        for rule in ("linear", "gated", "delta", "gated_delta")
        for heads in (2, 4)
    ),
    attention_case("gated_delta", 4, tokens=1, past=False, wide_decay=False, rates=1),
]
