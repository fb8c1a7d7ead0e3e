"""Scan: since version 9, and the batched form of version 8."""

import numpy as np
from cases import FLOAT32, OPSET, Case, case, uniform
from onnx import TensorProto, helper


def value(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def scan_body(rank):
    shape = [None] * rank
    nodes = [
        helper.make_node("Add", ["s", "e"], ["t"]),
        helper.make_node("Mul", ["t", "f"], ["o"]),
        helper.make_node("Sub", ["e", "f"], ["p"]),
    ]
    inputs, outputs = ([value(name, shape) for name in names] for names in ("sef", "top"))
    return helper.make_graph(nodes, "body", inputs, outputs)


def scan_meaning(s, a, b, input_axes=(0, 0), reverse=(0, 0), output_axes=(0, 0), prepend=(0, 0)):
    a, b = np.moveaxis(a, input_axes[0], 0), np.moveaxis(b, input_axes[1], 0)
    a, b = a[::-1] if reverse[0] else a, b[::-1] if reverse[1] else b
    first, second = [], []
    for e, f in zip(a, b, strict=True):
        s = s + e
        first.append(s * f)
        second.append(e - f)
    outputs = []
    for elements, axis, backwards in zip((first, second), output_axes, prepend, strict=True):
        outputs.append(np.stack(elements[::-1] if backwards else elements, axis))
    return s, *outputs


def scan_cases() -> list[Case]:
    found = []
    for label, a, b, attributes, keywords in [
        ("plain", (4, 2, 3), (4, 2, 3), {}, {}),
        (
            "axes",
            (2, 4, 3),
            (2, 3, 4),
            {"scan_input_axes": [1, -1], "scan_output_axes": [2, -2]},
            {"input_axes": (1, -1), "output_axes": (2, -2)},
        ),
        (
            "directions",
            (4, 2, 3),
            (4, 2, 3),
            {"scan_input_directions": [1, 0], "scan_output_directions": [0, 1]},
            {"reverse": (1, 0), "prepend": (0, 1)},
        ),
        ("one step", (1, 2, 3), (1, 2, 3), {}, {}),
    ]:
        for opset in (9, OPSET):
            found.append(
                case(
                    label,
                    "Scan",
                    {"s": uniform(FLOAT32, 2, 3), "a": uniform(FLOAT32, *a), "b": uniform(FLOAT32, *b)},
                    outputs=3,
                    attributes={"body": scan_body(2), "num_scan_inputs": 2, **attributes},
                    reference=lambda s, a, b, keywords=keywords: scan_meaning(s, a, b, **keywords),
                    dtypes=(FLOAT32,) * 3,
                    opset=opset,
                )
            )
    return [*found, *batched_scan_cases()]


def batched_scan_cases() -> list[Case]:
    """Version 8: a batch of sequences, each with a length of its own. Beyond it outputs are undefined."""
    found = []
    for lengths in (None, np.array([3, 4, 1], np.int64)):
        for directions in ((0, 0), (0, 1)):

            def meaning(lengths, s, a, b, directions=directions):
                rows = []
                for n in range(3):
                    stop = 4 if lengths is None else lengths[n]
                    s_n, *scans = scan_meaning(s[n], a[n, :stop], b[n, :stop], reverse=directions)
                    rows.append([s_n, *(np.pad(scan, ((0, 4 - stop), (0, 0))) for scan in scans)])
                return [np.stack(column) for column in zip(*rows, strict=True)]

            found.append(
                case(
                    f"{'full' if lengths is None else 'lengths'} {directions}",
                    "Scan",
                    {
                        "lengths": lengths,
                        "s": uniform(FLOAT32, 3, 2),
                        "a": uniform(FLOAT32, 3, 4, 2),
                        "b": uniform(FLOAT32, 3, 4, 2),
                    },
                    outputs=3,
                    attributes={"body": scan_body(1), "num_scan_inputs": 2, "directions": list(directions)},
                    reference=meaning,
                    dtypes=(FLOAT32,) * 3,
                    opset=8,
                )
            )
    return found


CASES = scan_cases()
