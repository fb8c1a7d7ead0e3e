"""Attention and rotary embeddings, of the standard and of com.microsoft."""

import functools
import math

import numpy as np
from attention_reference import attention, join, rotate, split, write_rows
from cases import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Case, case, uniform

MICROSOFT = "com.microsoft"
CLOSE = {FLOAT32: (2e-5, 2e-5), FLOAT64: (1e-11, 1e-11), FLOAT16: (4e-3, 4e-3), BFLOAT16: (3e-2, 3e-2)}


def masked(random_shape, dtype=bool):
    """Booleans, or a bias that is -inf for a third of the keys; the first query sees no key."""

    def make(random):
        keep = random.random(random_shape) < 0.66
        if len(random_shape) > 1:
            keep[..., 0, :] = False
        return (
            keep
            if dtype is bool
            else np.where(keep, random.uniform(-1, 1, random_shape), -np.inf).astype(dtype)
        )

    return make


def standard(attributes, count, query, key, value, mask=None, past_key=None, past_value=None, lengths=None):
    heads, groups = attributes.get("q_num_heads"), attributes.get("kv_num_heads")
    flat = query.ndim == 3
    if flat:
        query, key, value = split(query, heads), split(key, groups), split(value, groups)
    past = 0
    if past_key is not None:
        past = past_key.shape[2]
        key, value = np.concatenate([past_key, key], 2), np.concatenate([past_value, value], 2)
    shape = (*query.shape[:3], key.shape[2])
    keep, bias = np.ones(shape, bool), np.zeros(shape)
    if mask is not None:
        missing = [(0, 0)] * (mask.ndim - 1) + [(0, shape[3] - mask.shape[-1])]
        if mask.dtype == bool:
            keep = np.broadcast_to(np.pad(mask, missing), shape)
        else:
            bias = np.broadcast_to(np.pad(mask, missing, constant_values=-np.inf), shape)
    left, right = attributes.get("left_window_size", -1), attributes.get("right_window_size", -1)
    if attributes.get("is_causal"):
        right = 0

    def allowed(b, i, j):
        place = i + (past if lengths is None else lengths[b] - shape[2])
        seen = (right < 0 or j <= place + right) and (left < 0 or j >= place - left)
        return seen and (lengths is None or j < lengths[b])

    scale = attributes.get("scale", 1 / math.sqrt(query.shape[3]))
    bias = np.where(keep, bias, -np.inf)
    result, stages = attention(query, key, value, scale, allowed, bias, attributes.get("softcap", 0.0))
    outputs = [join(result) if flat else result, key, value]
    return (*outputs, stages[attributes.get("qk_matmul_output_mode", 0)])[:count]


def standard_case(name, inputs, outputs=1, **attributes):
    dtype = np.dtype(attributes.pop("dtype", FLOAT32))
    return case(
        name,
        "Attention",
        inputs,
        outputs=outputs,
        attributes=attributes,
        reference=functools.partial(standard, attributes, outputs),
        dtypes=(dtype,) * outputs,
        tolerance=CLOSE[dtype],
    )


def standard_cases() -> list[Case]:
    def four(heads=4, groups=2, rows=3, keys=5, dtype=FLOAT32):
        return {
            "q": uniform(dtype, 2, heads, rows, 6),
            "k": uniform(dtype, 2, groups, keys, 6),
            "v": uniform(dtype, 2, groups, keys, 7),
        }

    three = {
        "q": uniform(FLOAT32, 2, 3, 24),
        "k": uniform(FLOAT32, 2, 5, 12),
        "v": uniform(FLOAT32, 2, 5, 14),
    }
    heads = {"q_num_heads": 4, "kv_num_heads": 2}
    past = {"pk": uniform(FLOAT32, 2, 2, 4, 6), "pv": uniform(FLOAT32, 2, 2, 4, 7)}
    found = [
        standard_case("4d", four()),
        standard_case("equal heads", four(groups=4)),
        standard_case("one group", four(groups=1)),
        standard_case("3d", three, **heads),
        standard_case("one row", {**three, "q": uniform(FLOAT32, 2, 1, 24)}, **heads),
        standard_case("past", {**three, "m": None, **past}, 3, is_causal=1, **heads),
        standard_case("causal", four(rows=5), is_causal=1),
        standard_case("scale and cap", four(), scale=0.3, softcap=1.5),
        standard_case("window", four(rows=6, keys=6), left_window_size=2, right_window_size=1),
        standard_case("causal window", four(rows=6, keys=6), is_causal=1, left_window_size=1),
        standard_case("no keys", four(keys=0)),
        standard_case("no queries", four(rows=0)),
        standard_case("double softmax", four(), softmax_precision=11),
    ]
    for shape in [(3, 5), (5,), (1, 3, 5), (2, 4, 3, 5), (2, 1, 3, 4), (3, 2)]:
        for dtype in (bool, np.float32):
            found.append(standard_case(f"mask{shape}{dtype.__name__}", {**four(), "m": masked(shape, dtype)}))
    for mode in range(4):
        inputs = {**four(), "m": masked((3, 5)), "pk": None, "pv": None}
        found.append(standard_case(f"mode{mode}", inputs, 4, softcap=2.0, qk_matmul_output_mode=mode))
    lengths = {"m": None, "pk": None, "pv": None, "n": np.array([2, 5])}
    for causal in (0, 1):
        found.append(standard_case(f"lengths causal{causal}", {**four(), **lengths}, is_causal=causal))
    masks = {"m": masked((3, 5), np.float32)}
    found.append(standard_case("lengths masked", {**four(), **lengths, **masks}, left_window_size=2))
    for dtype in (FLOAT64, FLOAT16, BFLOAT16):
        found.append(standard_case(f"{dtype}", four(dtype=dtype), is_causal=1, dtype=dtype))
    for dtype in (FLOAT32, FLOAT16, BFLOAT16):
        many = four(rows=37, keys=70, dtype=dtype)
        found.append(standard_case(f"many {dtype}", many, dtype=dtype))
        found.append(standard_case(f"many causal {dtype}", many, is_causal=1, dtype=dtype))
    return found


def rotary(attributes, x, cosines, sines, positions=None):
    heads = split(x, attributes["num_heads"]) if x.ndim == 3 else x
    if positions is not None:
        cosines, sines = cosines[positions], sines[positions]
    result = rotate(heads, cosines, sines, attributes.get("interleaved", 0))
    return join(result) if x.ndim == 3 else result


def rotary_of_caches(attributes, x, positions, cosines, sines):
    if positions.ndim == 1:
        positions = positions + np.tile(np.arange(x.shape[-2]), (x.shape[0], 1))
    return rotary(attributes, x, cosines, sines, positions)


def rotary_cases() -> list[Case]:
    found = []
    positions = np.array([[0, 8, 3], [2, 2, 5]])
    for interleaved in (0, 1):
        for turned in (0, 4):
            half = (turned or 8) // 2
            attributes = {"interleaved": interleaved, "rotary_embedding_dim": turned, "num_heads": 5}
            settings = {"attributes": attributes, "reference": functools.partial(rotary, attributes)}
            caches = {"c": uniform(FLOAT32, 9, half), "s": uniform(FLOAT32, 9, half)}
            name = f"{interleaved}{turned}"
            for shape in [(2, 5, 3, 8), (2, 3, 40)]:
                x = {"x": uniform(FLOAT32, *shape)}
                inputs = {**x, **caches, "p": positions}
                found.append(case(f"{name}{shape}", "RotaryEmbedding", inputs, **settings))
                full = {"c": uniform(FLOAT32, 2, 3, half), "s": uniform(FLOAT32, 2, 3, half)}
                found.append(case(f"{name}{shape}full", "RotaryEmbedding", {**x, **full}, **settings))
                contrib = {**settings, "reference": functools.partial(rotary_of_caches, attributes)}
                for places in (positions, np.array([4])):
                    inputs = {**x, "p": places, **caches}
                    label = f"{MICROSOFT} {name}{shape}{places.ndim}"
                    found.append(case(label, "RotaryEmbedding", inputs, domain=MICROSOFT, **contrib))
    return found


def multi_head(attributes, count, query, key=None, value=None, bias=None, padding=None, added=None, *past):
    heads = attributes["num_heads"]
    if query.ndim == 5:
        query, key, value = (query[..., n, :].transpose(0, 2, 1, 3) for n in range(3))
    else:
        if key.ndim == 5:
            key, value = (key[..., n, :].transpose(0, 2, 1, 3) for n in range(2))
        if bias is not None:
            ends = np.cumsum([x.shape[2] if x.ndim == 3 else x.shape[1] * x.shape[3] for x in (query, key)])
            pieces = np.split(bias, ends)
            query, key, value = (
                x + piece if x.ndim == 3 else x for x, piece in zip((query, key, value), pieces, strict=True)
            )
        query, key, value = (split(x, heads) if x.ndim == 3 else x for x in (query, key, value))
    if past:
        key, value = np.concatenate([past[0], key], 2), np.concatenate([past[1], value], 2)
    total = 0.0 if added is None else added
    if padding is not None and padding.ndim == 1:
        padding = np.arange(key.shape[2]) < padding[:, None]
    if padding is not None:
        rows = padding[:, None, None] if padding.ndim == 2 else padding[:, None]
        total = total + np.where(rows > 0, 0.0, -10000.0)
    before = key.shape[2] - query.shape[2]

    def allowed(b, i, j):
        return not attributes.get("unidirectional") or j <= i + before

    scale = attributes.get("scale", 1 / math.sqrt(query.shape[3]))
    result, stages = attention(query, key, value, scale, allowed, total)
    return (join(result), key, value, stages[2])[:count]


def multi_head_cases() -> list[Case]:
    def inputs(**more):
        return {"q": uniform(FLOAT32, 2, 3, 8), "k": keys, "v": keys, **more}

    def made(name, feeds, outputs=1, **attributes):
        attributes = {"num_heads": 2, **attributes}
        return case(
            name,
            "MultiHeadAttention",
            feeds,
            outputs=outputs,
            domain=MICROSOFT,
            attributes=attributes,
            reference=functools.partial(multi_head, attributes, outputs),
            dtypes=(FLOAT32,) * outputs,
            tolerance=CLOSE[FLOAT32],
        )

    keys = uniform(FLOAT32, 2, 5, 8)
    heads = uniform(FLOAT32, 2, 2, 5, 4)
    bias = uniform(FLOAT32, 24)
    past = uniform(FLOAT32, 2, 2, 4, 4)
    none = {"bias": None, "mask": None}
    return [
        made("plain", inputs()),
        made("scaled", inputs(), scale=0.3),
        made("wide values", inputs(v=uniform(FLOAT32, 2, 5, 12))),
        made("bias", inputs(bias=bias), 3),
        made("row mask", inputs(bias=None, mask=uniform(np.int32, 2, 5, low=0, high=1))),
        made("full mask", inputs(bias=bias, mask=uniform(np.int32, 2, 3, 5, low=0, high=1))),
        made("lengths", inputs(bias=None, mask=np.array([3, 1], np.int32))),
        made("scores", inputs(bias=None, mask=np.array([3, 5], np.int32)), 4, unidirectional=1),
        made("added", inputs(**none, added=uniform(FLOAT32, 1, 2, 3, 5))),
        made(
            "mask and added",
            inputs(
                bias=None, mask=uniform(np.int32, 2, 5, low=0, high=1), added=uniform(FLOAT32, 2, 1, 3, 5)
            ),
        ),
        made("split keys", inputs(k=heads, v=heads)),
        made("split keys with bias", inputs(k=heads, v=heads, bias=bias)),
        made("past", inputs(**none, added=None, pk=past, pv=past), 3, unidirectional=1),
        made("packed", {"q": uniform(FLOAT32, 2, 3, 2, 3, 4)}),
        made("packed keys", {"q": uniform(FLOAT32, 2, 3, 8), "k": uniform(FLOAT32, 2, 5, 2, 2, 4)}),
    ]


def group_query(attributes, query, key, value, past_key, past_value, last, total, *rest):
    cosines, sines, positions, bias, sinks = (*rest, None)[:5]
    heads, groups = attributes["num_heads"], attributes["kv_num_heads"]
    if key is None:
        packed = split(query, heads + 2 * groups)
        query, key, value = np.split(packed, [heads, heads + groups], 1)
    else:
        query, key, value = split(query, heads), split(key, groups), split(value, groups)
    rows, length = query.shape[2], int(total[0])
    starts = np.zeros(len(last), int) if rows == length else last + 1 - rows
    if cosines is not None:
        places = starts[:, None] + np.arange(rows) if positions is None else positions
        turn = functools.partial(
            rotate,
            cosines=cosines[places],
            sines=sines[places],
            interleaved=attributes.get("rotary_interleaved", 0),
        )
        query, key = turn(query), turn(key)
    present = []
    for past, new in ((past_key, key), (past_value, value)):
        held = np.zeros((*new.shape[:2], 0, new.shape[3])) if past is None else past
        missing = max(length - held.shape[2], 0)
        present.append(write_rows(np.pad(held, [(0, 0), (0, 0), (0, missing), (0, 0)]), new, starts, 2))
    window = attributes.get("local_window_size", -1)

    def allowed(b, i, j):
        if not attributes.get("causal", 1):
            return True
        return j <= starts[b] + i and (window <= 0 or j > starts[b] + i - window)

    result, stages = attention(
        query,
        present[0][:, :, :length],
        present[1][:, :, :length],
        attributes.get("scale", 1 / math.sqrt(query.shape[3])),
        allowed,
        0.0 if bias is None else bias,
        attributes.get("softcap", 0.0),
        bool(attributes.get("smooth_softmax")),
        sinks,
    )
    raw, weights = np.where(np.isinf(stages[2]), 0, stages[2]), stages[3]
    return join(result), *present, *[(), (raw,), (weights,)][attributes.get("qk_output", 0)]


def group_query_case(name, rows, lengths, held, *, packed=False, added=None, sinks=None, **attributes):
    attributes = {"num_heads": 4, "kv_num_heads": 2, **attributes}
    batch = len(lengths)
    new, past = uniform(FLOAT32, batch, rows, 16), uniform(FLOAT32, batch, 2, held, 8)
    cache = uniform(FLOAT32, 32, 4) if attributes.get("do_rotary") else None
    inputs = {
        "q": uniform(FLOAT32, batch, rows, 64 if packed else 32),
        "k": None if packed else new,
        "v": None if packed else new,
        "pk": past if held else None,
        "pv": past if held else None,
        "last": np.array(lengths, np.int32) - 1,
        "total": np.array([max(lengths)], np.int32),
        "c": cache,
        "s": cache,
        "p": None,
        "bias": added,
        **({} if sinks is None else {"sinks": sinks}),
    }
    outputs = 4 if "qk_output" in attributes else 3
    return case(
        name,
        "GroupQueryAttention",
        inputs,
        outputs=outputs,
        domain=MICROSOFT,
        attributes=attributes,
        reference=functools.partial(group_query, attributes),
        dtypes=(FLOAT32,) * outputs,
        tolerance=CLOSE[FLOAT32],
    )


CASES = [
    *standard_cases(),
    *rotary_cases(),
    *multi_head_cases(),
    group_query_case("prompt", 5, [5, 3], 0),
    group_query_case("prompt turned", 5, [5], 0, do_rotary=1, packed=True),
    group_query_case("prompt in a buffer", 5, [5], 9, rotary_interleaved=1, do_rotary=1),
    group_query_case("step", 1, [7, 4], 6, do_rotary=1),
    group_query_case("step in a buffer", 1, [7, 9], 12, local_window_size=3),
    group_query_case("steps", 3, [9, 6], 6, scale=0.2, softcap=1.5),
    group_query_case("smooth", 5, [5, 5], 0, smooth_softmax=1),
    group_query_case("biased", 1, [7, 7], 6, added=uniform(FLOAT32, 1, 4, 1, 7)),
    group_query_case("sinks", 5, [5, 5], 0, sinks=uniform(FLOAT32, 4), local_window_size=3),
    group_query_case("sinks of a step", 1, [7, 4], 6, sinks=uniform(FLOAT32, 4), softcap=1.5),
    group_query_case("all keys", 5, [5, 5], 0, causal=0),
    group_query_case("scores", 5, [5, 5], 0, qk_output=1, local_window_size=3),
    group_query_case("weights", 1, [7, 4], 6, qk_output=2, sinks=uniform(FLOAT32, 4)),
]
