"""Activation functions, of the standard and of onnxruntime's domain."""

import math

import numpy as np
from cases import FLOAT32, FLOATS, INTEGERS, SIGNED, Case, case, special, uniform

erf = np.vectorize(math.erf, otypes=[float])


def single(value):
    """An attribute as the model stores it: float32."""
    return float(np.float32(value))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softplus(x):
    return np.logaddexp(x, 0)


def gelu(x):
    return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def elu(x, alpha=1.0):
    return np.where(x < 0, alpha * np.expm1(x), x)


def celu(x, alpha=1.0):
    return np.maximum(x, 0) + np.minimum(alpha * np.expm1(x / alpha), 0)


def shrink(x, bias=0.0, lambd=0.5):
    return np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, np.zeros_like(x)))


SELU = (single(1.67326319), single(1.05070102))


def selu(x, alpha=SELU[0], gamma=SELU[1]):
    return gamma * elu(x, alpha)


# Operator, attributes, meaning.
FUNCTIONS = [
    ("Relu", {}, lambda x: np.maximum(x, 0)),
    ("LeakyRelu", {}, lambda x: np.where(x < 0, single(0.01) * x, x)),
    ("LeakyRelu", {"alpha": 0.3}, lambda x: np.where(x < 0, single(0.3) * x, x)),
    ("LeakyRelu", {"alpha": -2.0}, lambda x: np.where(x < 0, -2.0 * x, x)),
    ("Gelu", {}, gelu),
    ("Gelu", {"approximate": "tanh"}, gelu_tanh),
    ("HardSigmoid", {}, lambda x: np.clip(single(0.2) * x + 0.5, 0, 1)),
    ("HardSigmoid", {"alpha": 0.5, "beta": 0.25}, lambda x: np.clip(0.5 * x + 0.25, 0, 1)),
    ("HardSwish", {}, lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    ("Mish", {}, lambda x: x * np.tanh(softplus(x))),
    ("Softplus", {}, softplus),
    ("Softsign", {}, lambda x: x / (1 + np.abs(x))),
    ("Elu", {}, elu),
    ("Elu", {"alpha": 2.5}, lambda x: elu(x, 2.5)),
    ("Selu", {}, selu),
    ("Selu", {"alpha": 2.0, "gamma": 3.0}, lambda x: selu(x, 2.0, 3.0)),
    ("Celu", {}, celu),
    ("Celu", {"alpha": 2.5}, lambda x: celu(x, 2.5)),
    ("ThresholdedRelu", {}, lambda x: np.where(x > 1, x, 0)),
    ("ThresholdedRelu", {"alpha": -0.5}, lambda x: np.where(x > -0.5, x, 0)),
    ("Shrink", {}, shrink),
    ("Shrink", {"bias": 1.5, "lambd": 1.5}, lambda x: shrink(x, 1.5, 1.5)),
    ("Swish", {}, lambda x: x * sigmoid(x)),
    ("Swish", {"alpha": 1.5}, lambda x: x * sigmoid(1.5 * x)),
]


def function_cases() -> list[Case]:
    found = []
    for op_type, attributes, meaning in FUNCTIONS:
        label = "-".join(f"{key}{value}" for key, value in attributes.items())
        for dtype in FLOATS:
            x = special(dtype, 3, 17)
            settings = {"attributes": attributes, "reference": meaning}
            found.append(case(f"{dtype}{label}", op_type, {"x": x}, **settings))
        if not attributes:
            for shape in ((), (0, 3), (2, 1, 5)):
                x = uniform(FLOAT32, *shape, low=-8, high=8)
                found.append(case(f"{shape}", op_type, {"x": x}, reference=meaning))
            far = np.array([-1e4, -100, -30, -1e-5, 1e-5, 30, 100, 1e4], np.float32)
            found.append(case("far", op_type, {"x": far}, reference=meaning))
    return found


def integer_cases() -> list[Case]:
    found = []
    for dtype in SIGNED:
        x = uniform(dtype, 3, 7, low=-9, high=9)
        found.append(case(f"{dtype}", "Relu", {"x": x}, reference=lambda x: np.maximum(x, 0)))
    for dtype in INTEGERS:
        x = uniform(dtype, 3, 7, low=-9, high=9)
        attributes = {"bias": 1.5, "lambd": 2.5}
        reference = lambda x: np.trunc(shrink(x.astype(float), 1.5, 2.5))  # noqa: E731
        found.append(case(f"{dtype}", "Shrink", {"x": x}, attributes=attributes, reference=reference))
    return found


def slope_cases() -> list[Case]:
    found = []

    def meaning(x, slope):
        return np.where(x < 0, x * slope, x)

    for dtype in (*FLOATS, *(np.dtype(name) for name in ("int32", "int64", "uint32", "uint64"))):
        inputs = {"x": uniform(dtype, 2, 3, 5), "slope": uniform(dtype, 3, 1)}
        found.append(case(f"{dtype}", "PRelu", inputs, reference=meaning))
    for shape in ((), (1,), (5,), (2, 1, 1), (2, 3, 5)):
        inputs = {"x": special(FLOAT32, 2, 3, 5), "slope": uniform(FLOAT32, *shape)}
        found.append(case(f"{shape}", "PRelu", inputs, reference=meaning))
    for opset in (1, 6):
        inputs = {"x": special(FLOAT32, 2, 3, 5), "slope": uniform(FLOAT32, 3)}
        reference = lambda x, slope: meaning(x, slope[:, None])  # noqa: E731
        found.append(case("channels", "PRelu", inputs, opset=opset, reference=reference))
        inputs = {"x": special(FLOAT32, 2, 3, 5), "slope": uniform(FLOAT32, 1)}
        found.append(case("shared", "PRelu", inputs, opset=opset, reference=meaning))
    return found


def old_cases() -> list[Case]:
    """Versions before 6 have other defaults, and an attribute that means nothing any more."""
    x = special(FLOAT32, 3, 7)
    return [
        case("old", "Selu", {"x": x}, opset=1, reference=lambda x: selu(x, single(1.6732), single(1.0507))),
        case("old", "Elu", {"x": x}, opset=1, attributes={"consumed_inputs": [0]}, reference=elu),
    ]


def microsoft_cases() -> list[Case]:
    found = []
    for dtype in FLOATS:
        x, bias = special(dtype, 3, 7), uniform(dtype, 7)
        for op_type, inputs, attributes, meaning in [
            ("Gelu", {"x": x}, {}, gelu),
            ("QuickGelu", {"x": x}, {}, lambda x: x * sigmoid(single(1.702) * x)),
            ("QuickGelu", {"x": x}, {"alpha": 0.5}, lambda x: x * sigmoid(0.5 * x)),
            ("FastGelu", {"x": x}, {}, gelu_tanh),
            ("FastGelu", {"x": x, "bias": bias}, {}, lambda x, bias: gelu_tanh(x + bias)),
            ("BiasGelu", {"x": x, "bias": bias}, {}, lambda x, bias: gelu(x + bias)),
        ]:
            name = f"microsoft-{dtype}-{len(inputs)}{'-'.join(attributes)}"
            settings = {"attributes": attributes, "reference": meaning, "domain": "com.microsoft"}
            found.append(case(name, op_type, inputs, **settings))
    return found


CASES = [*function_cases(), *integer_cases(), *slope_cases(), *old_cases(), *microsoft_cases()]
