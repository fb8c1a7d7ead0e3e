"""Adagrad, Adam and Momentum."""

import numpy as np
from cases import FLOAT32, FLOAT64, Case, case, uniform


def each(kinds, outputs, step):
    """A reference that applies ``step`` to each parameter; ``kinds`` tensors of it in, ``outputs`` out."""

    def reference(rate, count, *tensors):
        number = len(tensors) // kinds
        results = [step(rate, int(count), *tensors[i::number]) for i in range(number)]
        return [result[kind] for kind in range(outputs) for result in results]

    return reference


def single(value):
    """An attribute's value: attributes are of float32."""
    return float(np.float32(value))


def adagrad(norm, epsilon, decay):
    def step(rate, count, x, gradient, squares):
        gradient = norm * x + gradient
        squares = squares + gradient**2
        return x - rate / (1 + count * decay) * gradient / (np.sqrt(squares) + epsilon), squares

    return step


def adam(alpha, beta, norm, norm_after, epsilon):
    def step(rate, count, x, gradient, first, second):
        gradient = norm * x + gradient
        first = alpha * first + (1 - alpha) * gradient
        second = beta * second + (1 - beta) * gradient**2
        if count > 0:
            rate = rate * np.sqrt(1 - beta**count) / (1 - alpha**count)
        return (1 - norm_after) * (x - rate * first / (np.sqrt(second) + epsilon)), first, second

    return step


def momentum(norm, alpha, beta, mode):
    def step(rate, count, x, gradient, velocity):
        gradient = norm * x + gradient
        velocity = alpha * velocity + (beta if count > 0 else 1) * gradient
        return x - rate * (velocity if mode == "standard" else gradient + alpha * velocity), velocity

    return step


def optimizer_cases() -> list[Case]:
    found = []
    for op_type, kinds, attributes, step in [
        ("Adagrad", 3, {}, adagrad(0.0, single(1e-6), 0.0)),
        (
            "Adagrad",
            3,
            {"norm_coefficient": 0.5, "epsilon": 0.25, "decay_factor": 0.125},
            adagrad(0.5, 0.25, 0.125),
        ),
        ("Adam", 4, {}, adam(single(0.9), single(0.999), 0.0, 0.0, single(1e-6))),
        (
            "Adam",
            4,
            {
                "alpha": 0.75,
                "beta": 0.875,
                "norm_coefficient": 0.5,
                "norm_coefficient_post": 0.25,
                "epsilon": 0.125,
            },
            adam(0.75, 0.875, 0.5, 0.25, 0.125),
        ),
        *(
            (
                "Momentum",
                3,
                {"norm_coefficient": 0.5, "alpha": 0.75, "beta": 0.25, "mode": mode},
                momentum(0.5, 0.75, 0.25, mode),
            )
            for mode in ("standard", "nesterov")
        ),
    ]:
        for count in (0, 3):
            for rate, dtype, shapes in [
                (FLOAT32, FLOAT32, ((3, 5),)),
                (FLOAT32, FLOAT64, ((4,), (2, 3))),
                (FLOAT64, FLOAT32, ((), (0, 2))),
            ]:
                inputs = {"rate": np.array(0.125, rate), "count": np.array(count, np.int64)}
                for kind in range(kinds):
                    # The last kind is a sum of squares, but for Momentum.
                    low = 0.0 if kind == kinds - 1 else -2.0
                    for number, shape in enumerate(shapes):
                        inputs[f"t{kind}{number}"] = uniform(dtype, *shape, low=low, high=2.0)
                outputs = (kinds - 1) * len(shapes)
                found.append(
                    case(
                        f"{attributes.get('mode', len(attributes))} {count} {rate} {dtype}",
                        op_type,
                        inputs,
                        outputs=outputs,
                        attributes=attributes,
                        domain="ai.onnx.preview.training",
                        reference=each(kinds, kinds - 1, step),
                        dtypes=(dtype,) * outputs,
                        tolerance={FLOAT32: (1e-5, 1e-5), FLOAT64: (1e-10, 1e-10)}[dtype],
                    )
                )
    return found


CASES = optimizer_cases()
