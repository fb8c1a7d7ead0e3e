"""FusedConv and FusedGemm."""

import numpy as np
from cases import FLOAT32, Case, case, uniform
from onnxruntime_case import MICROSOFT, onnxruntime_case

CONVOLUTIONS = (
    (None, None),
    ("Relu", None),
    ("Tanh", None),
    ("Sigmoid", None),
    ("LeakyRelu", [0.2]),
    ("Clip", [-1.0, 1.5]),
    ("HardSigmoid", [0.3, 0.4]),
)
PRODUCTS = (
    ("Relu", {}),
    ("Tanh", {}),
    ("Sigmoid", {}),
    ("Softplus", {}),
    ("Softsign", {}),
    ("LeakyRelu", {"alpha": 0.2}),
    ("Elu", {"alpha": 0.7}),
    ("Celu", {"alpha": 0.7}),
    ("ThresholdedRelu", {"alpha": 0.7}),
    ("HardSigmoid", {"alpha": 0.2, "beta": 0.4}),
    ("Selu", {"alpha": 1.2, "gamma": 1.1}),
)


def convolution_inputs(added):
    inputs = {
        "x": uniform(FLOAT32, 1, 4, 6, 6, low=-1, high=1),
        "w": uniform(FLOAT32, 8, 4, 3, 3, low=-0.3, high=0.3),
        "b": uniform(FLOAT32, 8, low=-1, high=1),
    }
    return inputs | ({"z": uniform(FLOAT32, 1, 8, 4, 4, low=-1, high=1)} if added else {})


def convolution_cases() -> list[Case]:
    found = []
    for activation, parameters in CONVOLUTIONS:
        attributes = {"kernel_shape": [3, 3]}
        attributes |= {"activation": activation} if activation else {}
        attributes |= {"activation_params": parameters} if parameters else {}
        added = activation not in ("Relu", "Tanh")
        found.append(
            onnxruntime_case(
                f"{activation}",
                "FusedConv",
                convolution_inputs(added),
                attributes=attributes,
                constants=("w", "b"),
                tolerance=(2e-5, 2e-5),
            )
        )

    def silu(x, w, b):
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))
        total = np.einsum("ncyxij,mcij->nmyx", windows, w) + b[:, None, None]
        return total / (1 + np.exp(-total))

    attributes = {"kernel_shape": [3, 3], "activation": "Silu"}
    settings = {"domain": MICROSOFT, "attributes": attributes, "reference": silu}
    found.append(case("Silu", "FusedConv", convolution_inputs(False), **settings))
    return found


def product_cases() -> list[Case]:
    found = []
    for activation, parameters in PRODUCTS:
        attributes = {"transB": 1, "alpha": 0.5, "beta": 2.0}
        attributes |= {f"activation_{name}": value for name, value in parameters.items()}
        attributes["activation"] = activation
        inputs = {"a": uniform(FLOAT32, 3, 4), "w": uniform(FLOAT32, 5, 4), "c": uniform(FLOAT32, 5)}
        found.append(
            onnxruntime_case(
                f"{activation}", "FusedGemm", inputs, attributes=attributes, tolerance=(2e-5, 2e-5)
            )
        )
    return found


CASES = [*convolution_cases(), *product_cases()]
