"""LSTM, GRU and RNN, against their equations in float64, one sequence at a time."""

import functools
import inspect

import numpy as np
from cases import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Case, case, uniform
from onnxruntime_case import MICROSOFT, onnxruntime_case


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# Name in lower case: function, default alpha and beta.
ACTIVATIONS = {
    "relu": (lambda x: np.maximum(x, 0), ()),
    "tanh": (np.tanh, ()),
    "sigmoid": (sigmoid, ()),
    "affine": (lambda x, a, b: a * x + b, (1.0, 0.0)),
    "leakyrelu": (lambda x, a: np.where(x >= 0, x, a * x), (0.01,)),
    "thresholdedrelu": (lambda x, a: np.where(x >= a, x, 0), (1.0,)),
    "scaledtanh": (lambda x, a, b: a * np.tanh(b * x), (1.0, 1.0)),
    "hardsigmoid": (lambda x, a, b: np.minimum(np.maximum(a * x + b, 0), 1), (0.2, 0.5)),
    "elu": (lambda x, a: np.where(x >= 0, x, a * (np.exp(x) - 1)), (1.0,)),
    "softsign": (lambda x: x / (1 + np.abs(x)), ()),
    "softplus": (lambda x: np.log1p(np.exp(x)), ()),
}


def activations(names, alphas, betas):
    """Functions of one argument; parameters are consumed in order by those that take them."""
    alphas, betas = list(alphas), list(betas)
    bound = []
    for name in names:
        function, defaults = ACTIVATIONS[name.lower()]
        lists = (alphas, betas)[: len(defaults)]
        chosen = [given.pop(0) if given else default for given, default in zip(lists, defaults, strict=True)]
        count = len(inspect.signature(function).parameters) if defaults else 1
        assert count == 1 + len(defaults)
        bound.append(functools.partial(_call, function, chosen))
    return bound


def _call(function, parameters, x):
    return function(x, *parameters)


def lstm_step(x, h, c, weights, functions, clip, coupled, before_reset):
    w, r, b, p = weights
    size = h.size
    f, g, k = functions
    part = [slice(i * size, (i + 1) * size) for i in range(4)]
    total = [clip(w[s] @ x + r[s] @ h + b[s] + b[4 * size :][s]) for s in part]
    raw = [w[s] @ x + r[s] @ h + b[s] + b[4 * size :][s] for s in part]
    i = f(clip(raw[0] + p[:size] * c))
    forget = 1 - i if coupled else f(clip(raw[2] + p[2 * size :] * c))
    new = forget * c + i * g(total[3])
    o = f(clip(raw[1] + p[size : 2 * size] * new))
    return o * k(new), new


def gru_step(x, h, c, weights, functions, clip, coupled, before_reset):
    w, r, b, _ = weights
    size = h.size
    f, g = functions
    z, reset, hidden = (slice(i * size, (i + 1) * size) for i in range(3))
    wb, rb = b[: 3 * size], b[3 * size :]
    update = f(clip(w[z] @ x + r[z] @ h + wb[z] + rb[z]))
    gate = f(clip(w[reset] @ x + r[reset] @ h + wb[reset] + rb[reset]))
    if before_reset:
        candidate = g(clip(w[hidden] @ x + gate * (r[hidden] @ h + rb[hidden]) + wb[hidden]))
    else:
        candidate = g(clip(w[hidden] @ x + r[hidden] @ (gate * h) + rb[hidden] + wb[hidden]))
    return (1 - update) * candidate + update * h, c


def rnn_step(x, h, c, weights, functions, clip, coupled, before_reset):
    w, r, b, _ = weights
    return functions[0](clip(w @ x + r @ h + b[: h.size] + b[h.size :])), c


KINDS = {
    "LSTM": (4, ("Sigmoid", "Tanh", "Tanh"), lstm_step),
    "GRU": (3, ("Sigmoid", "Tanh"), gru_step),
    "RNN": (1, ("Tanh",), rnn_step),
}


def layer(
    x, w, r, b=None, lengths=None, initial_h=None, initial_c=None, p=None, *, kind, direction="forward",
    layout=0, clip=None, input_forget=0, linear_before_reset=0, activation_alpha=(), activation_beta=(),
    hidden_size=None, **given,
):  # fmt: skip
    """The outputs of the operator ``kind``."""
    gates, defaults, step = KINDS[kind]
    directions, size = w.shape[0], r.shape[2]
    if layout:
        x = x.swapaxes(0, 1)
        initial_h, initial_c = (None if s is None else s.swapaxes(0, 1) for s in (initial_h, initial_c))
    steps, batch, _ = x.shape
    names = given.get("activations", defaults * directions)
    functions = activations(names, activation_alpha, activation_beta)
    bounded = (lambda v: np.clip(v, -clip, clip)) if clip else (lambda v: v)
    y = np.zeros((steps, directions, batch, size))
    y_h, y_c = np.zeros((2, directions, batch, size))
    for d in range(directions):
        backwards = direction == "reverse" or d == 1
        weights = (
            w[d],
            r[d],
            np.zeros(2 * gates * size) if b is None else b[d],
            np.zeros(3 * size) if p is None else p[d],
        )
        own = functions[d * len(defaults) : (d + 1) * len(defaults)]
        for n in range(batch):
            h = np.zeros(size) if initial_h is None else initial_h[d, n]
            c = np.zeros(size) if initial_c is None else initial_c[d, n]
            times = range(steps if lengths is None else lengths[n])
            for t in reversed(times) if backwards else times:
                h, c = step(x[t, n], h, c, weights, own, bounded, input_forget, linear_before_reset)
                y[t, d, n] = h
            y_h[d, n], y_c[d, n] = h, c
    if layout:
        y, y_h, y_c = y.transpose(2, 0, 1, 3), y_h.swapaxes(0, 1), y_c.swapaxes(0, 1)
    return (y, y_h, y_c) if kind == "LSTM" else (y, y_h)


def make(
    kind, name, attributes=None, *, dtype=FLOAT32, steps=5, batch=3, inputs=4, size=3, optional="b",
    **settings,
) -> Case:  # fmt: skip
    """``optional`` names the optional inputs: b biases, l lengths, h and c states, p peepholes."""
    attributes = {"hidden_size": size, **(attributes or {})}
    gates = KINDS[kind][0]
    d = 2 if attributes.get("direction") == "bidirectional" else 1
    swapped = attributes.get("layout", 0)
    x = (batch, steps, inputs) if swapped else (steps, batch, inputs)
    state = (batch, d, size) if swapped else (d, batch, size)
    draw = functools.partial(uniform, dtype, low=-1, high=1)
    lengths = np.array([steps, 0, *range(1, batch)][:batch], np.int32).clip(0, steps)
    feeds = {
        "x": draw(*x),
        "w": draw(d, gates * size, inputs),
        "r": draw(d, gates * size, size),
        "b": draw(d, 2 * gates * size) if "b" in optional else None,
        "lengths": lengths if "l" in optional else None,
        "h": draw(*state) if "h" in optional else None,
    }
    if kind == "LSTM":
        feeds["c"] = draw(*state) if "c" in optional else None
        feeds["p"] = draw(d, 3 * size) if "p" in optional else None
    settings.setdefault("tolerance", (1e-5, 1e-5) if dtype == FLOAT32 else None)
    outputs = 3 if kind == "LSTM" else 2
    return case(
        name,
        kind,
        feeds,
        outputs=outputs,
        attributes=attributes,
        reference=functools.partial(layer, kind=kind, **attributes),
        dtypes=(dtype,) * outputs,
        **settings,
    )


def shared_cases(kind: str) -> list[Case]:
    found = [make(kind, "plain", optional=""), make(kind, "biases")]
    everything = "blhcp"
    for direction in ("forward", "reverse", "bidirectional"):
        for layout in (0, 1):
            attributes = {"direction": direction, "layout": layout}
            found.append(make(kind, f"{direction} {layout}", attributes))
            found.append(make(kind, f"{direction} {layout} everything", attributes, optional=everything))
    # Weights that are constants, as they nearly always are.
    found.append(
        make(kind, "weights", {"direction": "bidirectional"}, optional=everything, constants=("w", "r", "b"))
    )
    found.append(make(kind, "clip", {"clip": 0.4}, optional=everything))
    found.append(make(kind, "one step", steps=1, batch=1))
    found.append(make(kind, "no steps", steps=0, optional="bhc"))
    found.append(make(kind, "one unit", size=1, inputs=1, optional=everything))
    found.append(make(kind, "wide", size=17, inputs=9, steps=3, batch=2, optional=everything))
    for dtype, tolerance in ((FLOAT64, None), (FLOAT16, (5e-3, 5e-3)), (BFLOAT16, (4e-2, 4e-2))):
        found.append(make(kind, f"{dtype}", dtype=dtype, optional=everything, tolerance=tolerance))
    found.append(make(kind, "old", {"direction": "reverse"}, optional="bh", opset=7))
    count = len(KINDS[kind][1])
    names = ["Relu", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu", "Softsign"]
    names += ["Softplus", "sigmoid", "TANH"]
    for first in range(len(names)):
        used = [names[(first + i) % len(names)] for i in range(2 * count)]
        found.append(make(kind, f"{'-'.join(used)}", {"activations": used, "direction": "bidirectional"}))
    used = (["HardSigmoid", "LeakyRelu", "ScaledTanh"] * 2)[: 2 * count]
    parameters = {"activation_alpha": [0.3, 0.1, 0.7, 0.25], "activation_beta": [0.4, 0.8]}
    attributes = {"activations": used, "direction": "bidirectional", **parameters}
    found.append(make(kind, "parameters", attributes))
    return found


def missing_output_cases() -> list[Case]:
    """Only some of the outputs are asked for."""
    found = []
    for names in (["y"], ["", "y_h"], ["", "", "y_c"], ["y", "", "y_c"]):
        whole = make("LSTM", "part", optional="bh")
        kept = [i for i, name in enumerate(names) if name]
        found.append(
            case(
                f"only {'-'.join(filter(None, names))}",
                "LSTM",
                whole.inputs,
                outputs=names,
                attributes={"hidden_size": 3},
                reference=lambda *values, kept=kept: [layer(*values, kind="LSTM")[i] for i in kept],
                dtypes=(FLOAT32,) * len(kept),
                tolerance=(1e-5, 1e-5),
            )
        )
    return found


def quantized_cases() -> list[Case]:
    """DynamicQuantizeLSTM: weights are dequantised, the input is quantised as a whole."""

    def reference(x, w, r, b, lengths, h, c, p, w_scale, w_zero, r_scale, r_zero, **attributes):
        extent = max(x.max(), 0) - min(x.min(), 0)
        scale = np.float32(extent / 255)
        zero = np.round(-min(x.min(), 0) / scale)
        rounded = (np.clip(np.round(x / scale) + zero, 0, 255) - zero) * scale
        d, _, columns = w.shape
        parameters = (
            np.broadcast_to(v.reshape(d, 1, -1), (d, 1, columns)).astype(float)
            for v in (w_scale, w_zero, r_scale, r_zero)
        )
        ws, wz, rs, rz = parameters
        w, r = ((w - wz) * ws).swapaxes(1, 2), ((r - rz) * rs).swapaxes(1, 2)
        return layer(rounded, w, r, b, lengths, h, c, p, kind="LSTM", **attributes)

    found = []
    for name, dtype, columns, optional, attributes in (
        ("uint8", np.uint8, False, "b", {}),
        ("int8 columns", np.int8, True, "bhcp", {"direction": "reverse"}),
        ("uint8 columns", np.uint8, True, "blhcp", {"direction": "bidirectional", "clip": 1.0}),
        ("int8", np.int8, False, "", {"direction": "bidirectional", "input_forget": 1}),
    ):
        d, size = 2 if attributes.get("direction") == "bidirectional" else 1, 3
        limits = np.iinfo(dtype)
        shape = (d, 4 * size) if columns else (d,)
        draw = functools.partial(uniform, FLOAT32, low=-1, high=1)
        scale = uniform(FLOAT32, *shape, low=0.002, high=0.01)
        zero = np.full(shape, 131 if dtype is np.uint8 else 0, dtype)
        inputs = {
            "x": draw(5, 3, 4),
            "w": uniform(dtype, d, 4, 4 * size, low=limits.min, high=limits.max),
            "r": uniform(dtype, d, size, 4 * size, low=limits.min, high=limits.max),
            "b": draw(d, 8 * size) if "b" in optional else None,
            "lengths": np.array([5, 1, 2], np.int32) if "l" in optional else None,
            "h": draw(d, 3, size) if "h" in optional else None,
            "c": draw(d, 3, size) if "c" in optional else None,
            "p": draw(d, 3 * size) if "p" in optional else None,
            "w_scale": scale,
            "w_zero": zero,
            "r_scale": scale,
            "r_zero": zero,
        }
        settings = {
            "outputs": 3,
            "attributes": {"hidden_size": size, **attributes},
            "constants": ("w", "r", "w_scale", "w_zero", "r_scale", "r_zero"),
        }
        found.append(
            case(
                name,
                "DynamicQuantizeLSTM",
                inputs,
                domain=MICROSOFT,
                reference=functools.partial(reference, **attributes),
                dtypes=(FLOAT32,) * 3,
                # A tie of the input's rounding may fall to either side.
                tolerance=(1e-4, 1e-4),
                **settings,
            )
        )
        # It quantises the states, too.
        near = {**settings, "tolerance": (0.0, 2e-2)}
        found.append(onnxruntime_case(name, "DynamicQuantizeLSTM", inputs, **near))
    return found


CASES = [
    *quantized_cases(),
    *(found for kind in KINDS for found in shared_cases(kind)),
    make("LSTM", "coupled", {"input_forget": 1}, optional="blhcp"),
    make(
        "LSTM",
        "coupled clip",
        {"input_forget": 1, "clip": 0.3, "direction": "bidirectional"},
        optional="bhcp",
    ),
    make("GRU", "before reset", {"linear_before_reset": 1}, optional="blh"),
    make("GRU", "before reset without biases", {"linear_before_reset": 1}, optional="h"),
    make("GRU", "before reset both", {"linear_before_reset": 1, "direction": "bidirectional", "clip": 0.5}),
    make("GRU", "before reset batch first", {"linear_before_reset": 1, "layout": 1}, optional="blh"),
    *missing_output_cases(),
]
