"""GatherElements, ScatterElements, Scatter and ScatterND."""

import numpy as np
from cases import BFLOAT16, BOOL, FLOAT16, FLOAT32, FLOAT64, INTEGERS, Case, case, distinct, special, uniform

INT32, INT64 = np.dtype(np.int32), np.dtype(np.int64)
COMBINE = {
    "none": lambda old, new: new,
    "add": lambda old, new: old + new,
    "mul": lambda old, new: old * new,
    "min": np.minimum,
    "max": np.maximum,
}


def drawn(extent, *shape, dtype=INT64, unique=None):
    """Random indices, half of them negative; along the axis ``unique`` none stands for the same position."""

    def make(random):
        found = random.integers(-extent, extent, shape)
        if unique is not None:
            orders = random.random((*shape[:unique], extent, *shape[unique + 1 :])).argsort(axis=unique)
            found = np.take(orders, np.arange(shape[unique]), axis=unique)
            found = found - extent * (random.random(shape) < 0.5)
        return found.astype(dtype)

    return make


def gather_elements(axis):
    def reference(data, indices):
        result = np.empty(indices.shape, data.dtype)
        for place in np.ndindex(indices.shape):
            source = list(place)
            source[axis] = indices[place]
            result[place] = data[tuple(source)]
        return result

    return reference


def scatter_elements(axis, reduction="none"):
    def reference(data, indices, updates):
        result = data.copy()
        for place in np.ndindex(indices.shape):
            target = list(place)
            target[axis] = indices[place]
            result[tuple(target)] = COMBINE[reduction](result[tuple(target)], updates[place])
        return result

    return reference


def scatter_nd(reduction="none"):
    def reference(data, indices, updates):
        result = data.copy()
        for place in np.ndindex(indices.shape[:-1]):
            target = tuple(indices[place])
            result[target] = COMBINE[reduction](result[target], updates[place])
        return result

    return reference


def element_cases() -> list[Case]:
    found = []
    for label, data, indices, axis in [
        ("rows", (4, 5), (3, 5), 0),
        ("columns", (4, 5), (4, 2), 1),
        ("fewer of both", (4, 5), (2, 3), 1),
        ("negative axis", (2, 3, 4), (2, 3, 3), -1),
        ("middle", (2, 6, 3), (2, 4, 3), 1),
        ("vector", (7,), (3,), 0),
        ("size one", (1, 3, 1), (1, 2, 1), 1),
        ("none", (4, 5), (0, 5), 0),
        ("none of nothing", (0, 5), (0, 5), 0),
        ("more than the axis", (3, 4), (5, 4), 0),
    ]:
        drawn_indices = drawn(max(data[axis], 1), *indices)
        inputs = {"data": uniform(FLOAT32, *data), "indices": drawn_indices}
        settings = {"attributes": {"axis": axis}, "reference": gather_elements(axis)}
        for constants in ((), ("indices",), ("data",)):
            name = f"{label}{f' constant {constants[0]}' if constants else ''}"
            found.append(case(name, "GatherElements", inputs, constants=constants, **settings))
        inputs = inputs | {"updates": uniform(FLOAT32, *indices)}
        for constants in ((), ("indices",), ("data",)):
            name = f"{label}{f' constant {constants[0]}' if constants else ''}"
            settings = {"attributes": {"axis": axis}, "reference": scatter_elements(axis)}
            found.append(case(name, "ScatterElements", inputs, constants=constants, **settings))
    for dtype in (*INTEGERS, BOOL, FLOAT16, BFLOAT16, FLOAT64, np.dtype(np.complex64)):
        data = uniform(BOOL, 5, 7) if dtype == BOOL else distinct(dtype, 5, 7)
        updates = uniform(BOOL, 5, 3) if dtype == BOOL else distinct(dtype, 5, 3)
        inputs = {"data": data, "indices": drawn(7, 5, 3, dtype=INT32)}
        settings = {"attributes": {"axis": 1}}
        found.append(case(f"{dtype}", "GatherElements", inputs, reference=gather_elements(1), **settings))
        inputs = {"data": data, "indices": drawn(7, 5, 3, dtype=INT32), "updates": updates}
        found.append(case(f"{dtype}", "ScatterElements", inputs, reference=scatter_elements(1), **settings))
        if dtype == np.complex64:
            continue
        for reduction in ("add", "mul", "min", "max"):
            inputs = {"data": data, "indices": drawn(7, 5, 3, unique=1), "updates": updates}
            settings = {"attributes": {"axis": 1, "reduction": reduction}}
            reference = scatter_elements(1, reduction)
            found.append(
                case(f"{dtype} {reduction}", "ScatterElements", inputs, reference=reference, **settings)
            )
    for reduction in COMBINE:
        inputs = {
            "data": special(FLOAT32, 3, 4),
            "indices": drawn(3, 9, 4),
            "updates": special(FLOAT32, 9, 4),
        }
        settings = {"attributes": {"reduction": reduction}, "reference": scatter_elements(0, reduction)}
        found.append(case(f"repeated {reduction}", "ScatterElements", inputs, **settings))
    for op_type, opsets in [
        ("GatherElements", (11, 13)),
        ("ScatterElements", (11, 13, 16)),
        ("Scatter", (9,)),
    ]:
        inputs = {"data": uniform(FLOAT32, 5, 7), "indices": drawn(5, 2, 7)}
        reference = gather_elements(0)
        if op_type != "GatherElements":
            inputs = inputs | {"updates": uniform(FLOAT32, 2, 7)}
            reference = scatter_elements(0)
        for opset in opsets:
            found.append(case("", op_type, inputs, opset=opset, reference=reference))
    return found


def tuples(data_shape, indices_shape):
    def make(random):
        result = np.empty(indices_shape, np.int64)
        for column in range(indices_shape[-1]):
            extent = data_shape[column]
            result[..., column] = random.integers(-extent, extent, indices_shape[:-1])
        return result

    return make


def tuple_cases() -> list[Case]:
    found = []
    for label, data, indices in [
        ("elements of a matrix", (4, 5), (7, 2)),
        ("rows of a matrix", (4, 5), (3, 1)),
        ("wide rows", (4, 133), (9, 1)),
        ("one element", (4, 5), (2,)),
        ("one row", (4, 5), (1,)),
        ("grid", (3, 4, 5), (2, 3, 2)),
        ("planes", (3, 4, 5), (4, 1)),
        ("no tuples", (4, 5), (0, 2)),
        ("no tuples of nothing", (0, 5), (0, 1)),
        ("empty rows", (4, 0), (3, 1)),
    ]:
        shape = (*indices[:-1], *data[indices[-1] :])
        inputs = {
            "data": uniform(FLOAT32, *data),
            "indices": tuples(data, indices),
            "updates": uniform(FLOAT32, *shape),
        }
        for reduction in COMBINE:
            settings = {"attributes": {"reduction": reduction}, "reference": scatter_nd(reduction)}
            found.append(case(f"{label} {reduction}", "ScatterND", inputs, **settings))
            if reduction in ("none", "add"):
                name = f"{label} {reduction} constant indices"
                found.append(case(name, "ScatterND", inputs, constants=("indices",), **settings))
    inputs = {
        "data": uniform(FLOAT32, 4, 5),
        "indices": tuples((4, 5), (3, 1)),
        "updates": uniform(FLOAT32, 3, 5),
    }
    for opset in (11, 13, 16, 18):
        found.append(case("", "ScatterND", inputs, opset=opset, reference=scatter_nd()))
    for dtype in (BOOL, np.dtype(np.uint8), FLOAT16, np.dtype(np.complex128)):
        inputs = {
            "data": uniform(dtype, 6, 3, 5),
            "indices": tuples((6,), (4, 1)),
            "updates": uniform(dtype, 4, 3, 5),
        }
        found.append(case(f"{dtype}", "ScatterND", inputs, reference=scatter_nd()))
    return found


CASES = [*element_cases(), *tuple_cases()]
