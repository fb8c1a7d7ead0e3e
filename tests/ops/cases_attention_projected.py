"""Attention and QAttention of com.microsoft."""

import functools
import math

import numpy as np
from attention_reference import attention, join, rotate, split
from cases import FLOAT16, FLOAT32, Case, case, uniform
from onnxruntime_case import MICROSOFT, onnxruntime_case

INT32 = np.dtype(np.int32)
CLOSE = (2e-5, 2e-5)


def keep(*shape):
    return uniform(INT32, *shape, low=0, high=1)


def projected(attributes, x, weights, bias, mask=None):
    """Of masks ``(B, 1, M, M)`` only, and with a rotation: what onnxruntime has no kernel on the CPU for."""
    query, key, value = (split(part, 2) for part in np.split(x @ weights + bias, 3, 2))
    rows, half = x.shape[1], query.shape[3] // 2
    if attributes.get("do_rotary"):
        angles = np.arange(rows)[None, :, None] * 10000.0 ** (-np.arange(half) / half)
        query, key = (rotate(part, np.cos(angles), np.sin(angles), 0) for part in (query, key))
    bias = 0.0 if mask is None else np.where(mask[:, :, :rows, :rows] > 0, 0.0, -10000.0)
    return join(attention(query, key, value, 1 / math.sqrt(2 * half), lambda *_: True, bias)[0])


def attention_cases() -> list[Case]:
    weights = {"x": uniform(FLOAT32, 2, 3, 6), "w": uniform(FLOAT32, 6, 24), "b": uniform(FLOAT32, 24)}

    def made(name, outputs=1, *, mask=None, past=None, added=None, inputs=weights, **attributes):
        return onnxruntime_case(
            name,
            "Attention",
            {**inputs, "m": mask, "p": past, "a": added},
            outputs=outputs,
            attributes={"num_heads": 2, **attributes},
            constants=("w",),
            tolerance=CLOSE,
        )

    past = uniform(FLOAT32, 2, 2, 2, 4, 4)
    wide = {**weights, "w": uniform(FLOAT32, 6, 28), "b": uniform(FLOAT32, 28)}
    found = [
        made("plain", 2),
        made("scaled", scale=0.3),
        made("causal", unidirectional=1),
        made("wide values", inputs=wide, qkv_hidden_sizes=[8, 8, 12]),
        made("lengths", mask=np.array([2, 0], np.int32)),
        made("ends and starts", mask=np.array([2, 3, 0, 1], np.int32), unidirectional=1),
        made("mask of keys", mask=keep(2, 3), unidirectional=1, mask_filter_value=-5.0),
        made("mask of one", mask=np.array([[0], [1]], np.int32)),
        made("mask of queries", mask=keep(2, 3, 3)),
        made("added", added=uniform(FLOAT32, 1, 2, 3, 3), mask=keep(2, 3)),
        made("past", 2, past=past),
        made("past of one", 2, past=past, mask=keep(2, 7), unidirectional=1),
    ]
    for name, inputs, attributes in (
        ("projected, mask of all", {**weights, "m": keep(2, 1, 5, 5)}, {}),
        ("projected, turned", weights, {"do_rotary": 1}),
    ):
        found.append(
            case(
                name,
                "Attention",
                inputs,
                domain=MICROSOFT,
                attributes={"num_heads": 2, **attributes},
                reference=functools.partial(projected, attributes),
                tolerance=CLOSE,
            )
        )
    small = {name: uniform(FLOAT16, *shape, low=-1, high=1) for name, shape in SHAPES.items()}
    settings = {"domain": MICROSOFT, "attributes": {"num_heads": 2}, "tolerance": (4e-3, 4e-3)}
    found.append(
        case("projected float16", "Attention", small, reference=functools.partial(projected, {}), **settings)
    )
    return [*found, shared_case()]


SHAPES = {"x": (2, 3, 6), "w": (6, 24), "b": (24,)}


def shared_case() -> Case:
    """Past and present in one buffer, which onnxruntime's kernel for the CPU does not take."""

    def reference(x, weights, bias, mask, past, added, length):
        query, key, value = (split(part, 2) for part in np.split(x @ weights + bias, 3, 2))
        present = past.copy()
        end = length[0] + x.shape[1]
        present[0, :, :, length[0] : end], present[1, :, :, length[0] : end] = key, value
        used = present[:, :, :, :end]
        result = attention(query, *used, 0.5, lambda b, i, j: j <= i + length[0])[0]
        return join(result), present

    inputs = {name: uniform(FLOAT32, *shape) for name, shape in SHAPES.items()}
    inputs |= {"m": None, "p": uniform(FLOAT32, 2, 2, 2, 9, 4), "a": None, "n": np.array([4], np.int32)}
    return case(
        "shared buffer",
        "Attention",
        inputs,
        outputs=2,
        domain=MICROSOFT,
        attributes={"num_heads": 2, "unidirectional": 1, "past_present_share_buffer": 1},
        reference=reference,
        tolerance=CLOSE,
        dtypes=(FLOAT32, FLOAT32),
    )


def quantized_cases() -> list[Case]:
    def made(
        name, outputs=1, *, weights, scale, x_zero=None, w_zero=None, mask=None, past=None, **attributes
    ):
        inputs = {
            "x": uniform(np.uint8, 2, 3, 6, low=0, high=255),
            "w": weights,
            "b": uniform(FLOAT32, 24),
            "xs": np.float32(0.02),
            "ws": scale,
            "m": mask,
            "xz": x_zero,
            "wz": w_zero,
            "p": past,
        }
        return onnxruntime_case(
            name,
            "QAttention",
            inputs,
            outputs=outputs,
            attributes={"num_heads": 2, **attributes},
            constants=tuple(key for key in ("w", "ws", "wz") if inputs[key] is not None),
            tolerance=CLOSE,
            dtypes=(FLOAT32,) * outputs,
        )

    signed = uniform(np.int8, 6, 24, low=-128, high=127)
    unsigned = uniform(np.uint8, 6, 24, low=0, high=255)
    columns = uniform(FLOAT32, 24, low=0.002, high=0.02)
    past = uniform(FLOAT32, 2, 2, 2, 4, 4)
    return [
        made("int8", weights=signed, scale=np.float32(0.01)),
        made("columns", weights=signed, scale=columns, x_zero=np.uint8(128), mask=np.array([2, 3], np.int32)),
        made("uint8", weights=unsigned, scale=np.float32(0.01), x_zero=np.uint8(99), w_zero=np.uint8(130)),
        made(
            "zeros",
            weights=unsigned,
            scale=columns,
            x_zero=np.uint8(99),
            w_zero=uniform(np.uint8, 24, low=90, high=160),
        ),
        made("past", 2, weights=signed, scale=np.float32(0.01), past=past, unidirectional=1),
    ]


CASES = [*attention_cases(), *quantized_cases()]
