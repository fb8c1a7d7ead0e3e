"""Normalisations as onnxruntime's optimiser writes them."""

import functools

import numpy as np
from cases import BFLOAT16, FLOAT16, FLOAT32, Case, case, uniform

MICROSOFT = "com.microsoft"
CLOSE = {FLOAT32: (2e-5, 2e-5), FLOAT16: (4e-3, 4e-3), BFLOAT16: (3e-2, 3e-2)}


def normalized(x, scale, bias, epsilon, simplified):
    center = 0.0 if simplified else x.mean(-1, keepdims=True)
    inverse = 1 / np.sqrt(((x - center) ** 2).mean(-1, keepdims=True) + epsilon)
    return (x - center) * inverse * scale + bias, center, inverse


def simplified(x, scale):
    result, _, inverse = normalized(x, scale, 0.0, 1e-5, True)
    return result, inverse


def skip(is_simplified, count, x, other, scale, *rest):
    beta = 0.0 if is_simplified or not rest or rest[0] is None else rest[0]
    bias = rest[-1] if len(rest) == (1 if is_simplified else 2) else 0.0
    total = x + other + bias
    result, center, inverse = normalized(total, scale, beta, 1e-3, is_simplified)
    return {1: (result,), 2: (result, total), 4: (result, center, inverse, total)}[count]


def skip_case(name, op_type, inputs, outputs=("y",), dtype=FLOAT32) -> Case:
    names = [output for output in outputs if output]
    types = {"mean": FLOAT32, "inverse": FLOAT32}
    return case(
        name,
        op_type,
        inputs,
        outputs=outputs,
        domain=MICROSOFT,
        attributes={"epsilon": 1e-3},
        reference=functools.partial(skip, op_type == "SkipSimplifiedLayerNormalization", len(names)),
        dtypes=tuple(types.get(output, dtype) for output in names),
        tolerance=CLOSE[dtype],
    )


def skip_cases() -> list[Case]:
    found = []
    row = uniform(FLOAT32, 9)
    x = uniform(FLOAT32, 2, 3, 9)
    for op_type, beta in [
        ("SkipLayerNormalization", {"beta": row}),
        ("SkipSimplifiedLayerNormalization", {}),
    ]:
        for shape in [(2, 3, 9), (1, 3, 9), (3, 9)]:
            inputs = {"x": x, "s": uniform(FLOAT32, *shape), "g": row}
            found.append(skip_case(f"{shape}", op_type, inputs))
        inputs = {"x": x, "s": x, "g": row, **beta, "b": row}
        found.append(skip_case("bias", op_type, inputs, ("y", "", "", "sum")))
        for dtype in (FLOAT16, BFLOAT16):
            small = {"x": uniform(dtype, 2, 3, 9), "s": uniform(dtype, 2, 3, 9), "g": uniform(dtype, 9)}
            found.append(skip_case(f"{dtype}", op_type, small, ("y", "", "", "sum"), dtype))
    all_of = ("y", "mean", "inverse", "sum")
    inputs = {"x": x, "s": x, "g": row, "beta": None, "b": row}
    found.append(skip_case("all outputs", "SkipLayerNormalization", inputs, all_of))
    return found


def embed(ids, segments, words, positions, segment_table, scale, beta, mask=None, places=None):
    total = words[ids] + (positions[: ids.shape[1]] if places is None else positions[places])
    if segments is not None:
        total = total + segment_table[segments]
    counts = np.zeros(len(ids)) if mask is None else (mask == 1).sum(1)
    return normalized(total, scale, beta, 1e-3, False)[0], counts, total


def embed_case(name, *, segments=False, mask=False, places=False) -> Case:
    def numbers(high):
        return uniform(np.int32, 2, 5, low=0, high=high)

    inputs = {
        "ids": numbers(9),
        "segments": numbers(1) if segments else None,
        "words": uniform(FLOAT32, 10, 8),
        "positions": uniform(FLOAT32, 7, 8),
        "table": uniform(FLOAT32, 2, 8) if segments else None,
        "g": uniform(FLOAT32, 8),
        "b": uniform(FLOAT32, 8),
        "mask": numbers(1) if mask else None,
        "places": numbers(6) if places else None,
    }
    return case(
        name,
        "EmbedLayerNormalization",
        inputs,
        outputs=3,
        domain=MICROSOFT,
        attributes={"epsilon": 1e-3},
        reference=embed,
        dtypes=(FLOAT32, np.dtype(np.int32), FLOAT32),
        tolerance=CLOSE[FLOAT32],
    )


CASES = [
    case(
        "",
        "SimplifiedLayerNormalization",
        {"x": uniform(FLOAT32, 2, 3, 9), "g": uniform(FLOAT32, 9)},
        outputs=2,
        reference=simplified,
        dtypes=(FLOAT32, FLOAT32),
        tolerance=CLOSE[FLOAT32],
    ),
    *skip_cases(),
    embed_case("words"),
    embed_case("segments", segments=True, mask=True),
    embed_case("places", places=True),
]
