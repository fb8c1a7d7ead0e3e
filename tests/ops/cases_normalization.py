"""Softmax and its kin, and the normalisations."""

import math

import numpy as np
from cases import FLOAT32, FLOATS, Case, case, special, uniform

SMALL = (2e-3, 2e-3)
ROUGH = (1e-2, 1e-2)


def tolerance(dtype):
    """Statistics of small floats are exact, so one rounding of results about 1 remains."""
    return {2: ROUGH if dtype != np.float16 else SMALL}.get(dtype.itemsize)


def softmax(x, axes):
    weights = np.exp(x - x.max(axes, keepdims=True, initial=-np.inf))
    return weights / weights.sum(axes, keepdims=True)


def log_softmax(x, axes):
    shifted = x - x.max(axes, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.exp(shifted).sum(axes, keepdims=True))


def hardmax(x, axes):
    if x.size == 0:
        return x
    flat = x.reshape(*x.shape[: axes[0]], -1, *x.shape[axes[-1] + 1 :]) if axes else x[..., None]
    axis = axes[0] if axes else x.ndim
    hot = np.zeros_like(flat)
    np.put_along_axis(hot, flat.argmax(axis, keepdims=True), 1, axis)
    return hot.reshape(x.shape)


def softmax_cases() -> list[Case]:
    found = []
    for op_type, meaning in [("Softmax", softmax), ("LogSoftmax", log_softmax), ("Hardmax", hardmax)]:
        for shape, axis in [
            ((3, 4, 5), None),
            ((3, 4, 5), 0),
            ((3, 4, 5), 1),
            ((3, 4, 5), -2),
            ((9,), 0),
            ((0, 3), 1),
        ]:
            attributes = {} if axis is None else {"axis": axis}
            x = {"x": uniform(FLOAT32, *shape)}
            axes = ((-1 if axis is None else axis) % len(shape),)
            settings = {"attributes": attributes, "reference": _over(meaning, axes)}
            found.append(case(f"{shape}{axis}", op_type, x, **settings))
            first = 1 if axis is None else axis % len(shape)
            settings["reference"] = _over(meaning, tuple(range(first, len(shape))))
            for opset in (1, 11):
                if opset == 11 or axis is None or axis >= 0:
                    found.append(case(f"{shape}{axis}", op_type, x, opset=opset, **settings))
        for dtype in FLOATS:
            settings = {"reference": _over(meaning, (1,)), "tolerance": tolerance(dtype)}
            found.append(case(f"{dtype}", op_type, {"x": uniform(dtype, 3, 50)}, **settings))
    far = np.array([[1e4, 0, -1e4], [-1e30, -1e30, -1e30], [-np.inf, 0, 1], [-np.inf] * 3], np.float32)
    for op_type, meaning in [("Softmax", softmax), ("LogSoftmax", log_softmax)]:
        found.append(case("far", op_type, {"x": far}, reference=_over(meaning, (1,))))
        found.append(case("special", op_type, {"x": special(FLOAT32, 4, 5)}, reference=_over(meaning, (1,))))
    return found


def _over(meaning, axes):
    return lambda x: meaning(x, axes)


def standardized(x, axes, epsilon=1e-5):
    center = x.mean(axes, keepdims=True)
    inverse = 1 / np.sqrt(x.var(axes, keepdims=True) + epsilon)
    return (x - center) * inverse, center, inverse


def layer_cases() -> list[Case]:
    found = []
    for shape, axis, scale, bias in [
        ((3, 4, 5), None, (5,), (5,)),
        ((3, 4, 5), -1, (5,), None),
        ((3, 4, 5), 1, (4, 5), (4, 5)),
        ((3, 4, 5), 0, (3, 4, 5), (3, 4, 5)),
        ((3, 4, 5), -2, (1, 5), (4, 1)),
        ((2, 7), 1, (), ()),
        ((3, 1), 1, (1,), (1,)),
        ((0, 4), 1, (4,), (4,)),
    ]:
        for outputs in (1, 2, 3):
            inputs = {"x": uniform(FLOAT32, *shape), "scale": uniform(FLOAT32, *scale)}
            if bias is not None:
                inputs["bias"] = uniform(FLOAT32, *bias)
            attributes = {} if axis is None else {"axis": axis}
            axes = tuple(range((-1 if axis is None else axis) % len(shape), len(shape)))
            settings = {"attributes": attributes, "outputs": outputs, "reference": _layer(axes, outputs)}
            settings["tolerance"] = (1e-4, 1e-5)
            found.append(
                case(f"{shape}{axis}{scale}{bias}{outputs}", "LayerNormalization", inputs, **settings)
            )
    for dtype in FLOATS:
        inputs = {"x": uniform(dtype, 3, 40), "scale": uniform(dtype, 40), "bias": uniform(dtype, 40)}
        settings = {"outputs": 3, "reference": _layer((1,), 3), "tolerance": ROUGH}
        settings["dtypes"] = (dtype, FLOAT32, FLOAT32)
        found.append(case(f"{dtype}", "LayerNormalization", inputs, **settings))
    inputs = {"x": uniform(FLOAT32, 3, 6, low=1000, high=1001), "scale": uniform(FLOAT32, 6)}
    settings = {"attributes": {"epsilon": 0.1}, "outputs": ["y", "", "inverse"], "tolerance": (1e-3, 1e-3)}
    reference = lambda x, scale: (scale * standardized(x, (1,), 0.1)[0], standardized(x, (1,), 0.1)[2])  # noqa: E731
    found.append(case("offset", "LayerNormalization", inputs, reference=reference, **settings))
    return found


def _layer(axes, outputs):
    def normalize(x, scale, bias=0.0):
        normal, center, inverse = standardized(x, axes)
        return (normal * scale + bias, center, inverse)[:outputs]

    return normalize


def root_mean_cases() -> list[Case]:
    found = []
    for shape, axis, scale in [
        ((3, 4, 5), -1, (5,)),
        ((3, 4, 5), 1, (4, 5)),
        ((3, 4), 0, (3, 4)),
        ((0, 4), -1, (4,)),
    ]:
        inputs = {"x": uniform(FLOAT32, *shape), "scale": uniform(FLOAT32, *scale)}
        reference = _root_mean(tuple(range(axis % len(shape), len(shape))))
        settings = {"attributes": {"axis": axis}, "reference": reference}
        found.append(case(f"{shape}{axis}", "RMSNormalization", inputs, **settings))
    for dtype in FLOATS:
        inputs = {"x": uniform(dtype, 3, 40), "scale": uniform(dtype, 40)}
        settings = {"reference": _root_mean((1,)), "tolerance": tolerance(dtype)}
        found.append(case(f"{dtype}", "RMSNormalization", inputs, **settings))
    inputs = {"x": uniform(np.float16, 3, 40), "scale": uniform(FLOAT32, 40)}
    settings = {"reference": _root_mean((1,)), "dtypes": (FLOAT32,), "tolerance": SMALL}
    found.append(case("mixed", "RMSNormalization", inputs, **settings))
    return found


def _root_mean(axes):
    epsilon = float(np.float32(1e-5))
    return lambda x, scale: x / np.sqrt((x * x).mean(axes, keepdims=True) + epsilon) * scale


def channels(parameter, rank):
    """A vector over the channels, to be broadcast to a tensor of ``rank``."""
    return parameter.reshape(-1, *(1,) * (rank - 2))


def instance_cases() -> list[Case]:
    found = []
    for opset in (1, 6, 22):
        for shape in [(2, 3, 4, 5), (2, 3, 7), (1, 2, 2, 3, 2), (0, 3, 4)]:
            inputs = {"x": uniform(FLOAT32, *shape), "scale": uniform(FLOAT32, 3 if shape[1] == 3 else 2)}
            inputs["bias"] = uniform(FLOAT32, shape[1])
            settings = {"reference": _instance, "opset": opset, "tolerance": (1e-4, 1e-5)}
            found.append(case(f"{shape}", "InstanceNormalization", inputs, **settings))
    for dtype in FLOATS:
        inputs = {"x": uniform(dtype, 2, 3, 20), "scale": uniform(dtype, 3), "bias": uniform(dtype, 3)}
        found.append(case(f"{dtype}", "InstanceNormalization", inputs, reference=_instance, tolerance=ROUGH))
    for groups, channels_ in [(1, 4), (2, 4), (4, 4)]:
        for opset in (18, 21, 28):
            for shape in [(2, channels_, 3, 5), (2, channels_, 3), (2, channels_)]:
                count = groups if opset == 18 else channels_
                inputs = {"x": uniform(FLOAT32, *shape), "scale": uniform(FLOAT32, count)}
                inputs["bias"] = uniform(FLOAT32, count)
                settings = {"attributes": {"num_groups": groups}, "opset": opset, "tolerance": (1e-4, 1e-5)}
                settings["reference"] = _group(groups)
                found.append(case(f"{shape}{groups}", "GroupNormalization", inputs, **settings))
    for dtype in FLOATS:
        inputs = {"x": uniform(dtype, 2, 4, 9), "scale": uniform(dtype, 4), "bias": uniform(dtype, 4)}
        settings = {"attributes": {"num_groups": 2, "epsilon": 0.25}, "tolerance": ROUGH}
        settings["reference"] = _group(2, 0.25)
        found.append(case(f"{dtype}", "GroupNormalization", inputs, **settings))
    return found


def _instance(x, scale, bias):
    normal = standardized(x, tuple(range(2, x.ndim)))[0]
    return normal * channels(scale, x.ndim) + channels(bias, x.ndim)


def _group(groups, epsilon=1e-5):
    def normalize(x, scale, bias):
        grouped = x.reshape(x.shape[0], groups, -1)
        normal = standardized(grouped, (2,), epsilon)[0].reshape(x.shape)
        repeats = x.shape[1] // scale.size
        scale, bias = np.repeat(scale, repeats), np.repeat(bias, repeats)
        return normal * channels(scale, x.ndim) + channels(bias, x.ndim)

    return normalize


def batch_cases() -> list[Case]:
    found = []
    for opset in (1, 6, 7, 9, 14, 15):
        for shape in [(2, 3, 4, 5), (2, 3), (4, 3, 7)]:
            # Before version 9 the attribute is there, and before version 7 one that tells inference.
            attributes = {"epsilon": 0.01} | ({"spatial": 1} if opset < 9 else {})
            attributes |= {"is_test": 1} if opset < 7 else {}
            attributes |= {"consumed_inputs": [0, 0, 0, 1, 1]} if opset < 6 else {}
            inputs = batch_inputs(FLOAT32, shape, (3,))
            settings = {
                "attributes": attributes,
                "opset": opset,
                "reference": _batch(0.01),
                "tolerance": (1e-4, 1e-5),
            }
            found.append(case(f"{shape}", "BatchNormalization", inputs, **settings))
            constants = tuple(inputs)[1:]
            found.append(
                case(f"{shape}-constant", "BatchNormalization", inputs, constants=constants, **settings)
            )
    inputs = batch_inputs(FLOAT32, (2, 3, 4), (3, 4))
    settings = {
        "attributes": {"spatial": 0},
        "opset": 7,
        "reference": _batch(1e-5),
        "tolerance": (1e-4, 1e-5),
    }
    found.append(case("elements", "BatchNormalization", inputs, **settings))
    for dtype in FLOATS:
        inputs = batch_inputs(dtype, (2, 3, 9), (3,))
        settings = {"reference": _batch(1e-5), "tolerance": ROUGH}
        found.append(case(f"{dtype}", "BatchNormalization", inputs, **settings))
        for name, kind in (("scale", dtype), ("mean", FLOAT32)):
            mixed = batch_inputs(FLOAT32, (2, 3, 9), (3,)) | {"x": inputs["x"], name: inputs[name]}
            mixed |= {"scale": inputs["scale"], "bias": inputs["bias"]} if kind == dtype else {}
            found.append(case(f"mixed-{name}-{dtype}", "BatchNormalization", mixed, **settings))
    settings = {
        "attributes": {"training_mode": 1, "momentum": 0.75},
        "outputs": 3,
        "reference": _batch_training(0.75),
    }
    settings["tolerance"] = (1e-4, 1e-5)
    inputs = batch_inputs(FLOAT32, (4, 3, 5, 2), (3,))
    found.append(case("training", "BatchNormalization", inputs, **settings))
    return found


def batch_inputs(dtype, shape, parameters):
    return {
        "x": uniform(dtype, *shape),
        "scale": uniform(dtype, *parameters),
        "bias": uniform(dtype, *parameters),
        "mean": uniform(dtype, *parameters),
        "variance": uniform(dtype, *parameters, low=0.5),
    }


def _batch(epsilon):
    def normalize(x, *parameters):
        scale, bias, average, variance = (p if p.ndim > 1 else channels(p, x.ndim) for p in parameters)
        return (x - average) / np.sqrt(variance + epsilon) * scale + bias

    return normalize


def _batch_training(momentum):
    def normalize(x, scale, bias, average, variance):
        axes = (0, *range(2, x.ndim))
        new_average, new_variance = x.mean(axes), x.var(axes)
        result = _batch(1e-5)(x, scale, bias, new_average, new_variance)
        rest = 1 - momentum
        return result, average * momentum + new_average * rest, variance * momentum + new_variance * rest

    return normalize


def other_cases() -> list[Case]:
    found = []
    for power in (1, 2):
        for shape, axis in [((3, 4), None), ((3, 4, 5), 1), ((3, 4), 0), ((2, 0), 0)]:
            attributes = {"p": power} | ({} if axis is None else {"axis": axis})
            reference = _lp(power, -1 if axis is None else axis)
            for opset in (1, 22):
                settings = {"attributes": attributes, "reference": reference, "opset": opset}
                found.append(
                    case(
                        f"{shape}{axis}{power}",
                        "LpNormalization",
                        {"x": uniform(FLOAT32, *shape)},
                        **settings,
                    )
                )
        zero = np.array([[0, 0], [3, 4]], np.float32)
        settings = {"attributes": {"p": power}, "reference": _lp(power, -1)}
        found.append(case(f"zero{power}", "LpNormalization", {"x": zero}, **settings))
        for dtype in FLOATS:
            x = {"x": uniform(dtype, 3, 8)}
            found.append(case(f"{dtype}{power}", "LpNormalization", x, **settings))
    for shape, axes in [((2, 3, 4, 5), None), ((2, 3, 4), (0, 2)), ((3, 4), (-1,)), ((2, 3, 4), (1,))]:
        attributes = {} if axes is None else {"axes": list(axes)}
        reference = _mean_variance(axes or (0, 2, 3))
        settings = {"attributes": attributes, "reference": reference, "tolerance": (1e-4, 1e-5)}
        found.append(
            case(f"{shape}{axes}", "MeanVarianceNormalization", {"x": uniform(FLOAT32, *shape)}, **settings)
        )
    for dtype in FLOATS:
        settings = {"attributes": {"axes": [1]}, "reference": _mean_variance((1,)), "tolerance": ROUGH}
        found.append(case(f"{dtype}", "MeanVarianceNormalization", {"x": uniform(dtype, 3, 20)}, **settings))
    for shape, size in [((2, 7, 3, 4), 3), ((2, 7, 3, 4), 4), ((1, 3, 5), 9), ((2, 4), 1), ((0, 4, 2), 3)]:
        for attributes in ({}, {"alpha": 0.5, "beta": 0.5, "bias": 2.0}):
            settings = {
                "attributes": {"size": size, **attributes},
                "reference": _local_response(size, **attributes),
            }
            name = f"{shape}{size}{len(attributes)}"
            found.append(case(name, "LRN", {"x": uniform(FLOAT32, *shape)}, **settings))
    for dtype in FLOATS:
        settings = {"attributes": {"size": 3}, "reference": _local_response(3), "tolerance": tolerance(dtype)}
        found.append(case(f"{dtype}", "LRN", {"x": uniform(dtype, 2, 7, 3, high=300)}, **settings))
    return found


def _lp(power, axis):
    def normalize(x):
        norm = (np.abs(x) ** power).sum(axis, keepdims=True) ** (1 / power)
        return np.where(norm == 0, 0, x / norm)

    return normalize


def _mean_variance(axes):
    return lambda x: (x - x.mean(axes, keepdims=True)) / (x.std(axes, keepdims=True) + 1e-9)


ALPHA = float(np.float32(1e-4))


def _local_response(size, alpha=ALPHA, beta=0.75, bias=1.0):
    def normalize(x):
        total = np.zeros_like(x)
        for channel in range(x.shape[1]):
            start = max(0, channel - math.floor((size - 1) / 2))
            end = channel + math.ceil((size - 1) / 2) + 1
            total[:, channel] = (x[:, start:end] ** 2).sum(1)
        return x / (bias + alpha / size * total) ** beta

    return normalize


CASES = [
    *softmax_cases(),
    *layer_cases(),
    *root_mean_cases(),
    *instance_cases(),
    *batch_cases(),
    *other_cases(),
]
