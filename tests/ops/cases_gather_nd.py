"""GatherND: slices picked by tuples of indices."""

import numpy as np
from cases import BFLOAT16, BOOL, FLOAT16, FLOAT32, FLOAT64, INTEGERS, Case, case, distinct, uniform

INT64 = np.dtype(np.int64)


def gather_nd(batch=0):
    """The operator's definition, a loop over the tuples."""

    def reference(data, indices):
        length = indices.shape[-1]
        shape = (*indices.shape[:-1], *data.shape[batch + length :])
        result = np.empty(shape, data.dtype)
        for place in np.ndindex(indices.shape[:-1]):
            result[place] = data[(*place[:batch], *indices[place])]
        return result

    return reference


def drawn(data_shape, indices_shape, batch=0):
    """Random tuples, half of them negative."""

    def make(random):
        found = np.empty(indices_shape, np.int64)
        for column in range(indices_shape[-1]):
            extent = data_shape[batch + column]
            found[..., column] = random.integers(-extent, extent, indices_shape[:-1])
        return found

    return make


def gather_nd_cases() -> list[Case]:
    found = []
    for label, data, indices, batch in [
        ("elements of a matrix", (4, 5), (7, 2), 0),
        ("rows of a matrix", (4, 5), (7, 1), 0),
        ("elements of a vector", (6,), (3, 1), 0),
        ("one element", (4, 5), (2,), 0),
        ("one row", (4, 5), (1,), 0),
        ("grid of tuples", (3, 4, 5), (2, 3, 2), 0),
        ("all of three axes", (3, 4, 5), (2, 2, 3), 0),
        ("planes", (3, 4, 5), (4, 1), 0),
        ("one batch axis", (3, 4, 5), (3, 6, 1), 1),
        ("one batch axis, pairs", (3, 4, 5), (3, 6, 2), 1),
        ("one tuple a batch", (3, 4, 5), (3, 2), 1),
        ("two batch axes", (2, 3, 4, 5), (2, 3, 1), 2),
        ("two batch axes, grid", (2, 3, 4, 5), (2, 3, 2, 2, 2), 2),
        ("batch of one", (1, 4, 5), (1, 3, 2), 1),
        ("batch of nothing", (0, 4), (0, 1), 1),
        ("no tuples", (4, 5), (0, 2), 0),
        ("no tuples of nothing", (0, 5), (0, 1), 0),
        ("empty rows", (4, 0), (3, 1), 0),
        ("size one", (1, 1, 3), (2, 2), 0),
    ]:
        inputs = {"data": uniform(FLOAT32, *data), "indices": drawn(data, indices, batch)}
        for constants in ((), ("indices",), ("data",)):
            found.append(
                case(
                    f"{label}{f' constant {constants[0]}' if constants else ''}",
                    "GatherND",
                    inputs,
                    attributes={"batch_dims": batch} if batch else {},
                    constants=constants,
                    reference=gather_nd(batch),
                )
            )
    for dtype in (*INTEGERS, BOOL, FLOAT16, BFLOAT16, FLOAT64, np.dtype(np.complex64)):
        data = uniform(BOOL, 5, 7) if dtype == BOOL else distinct(dtype, 5, 7)
        for length in (1, 2):
            inputs = {"data": data, "indices": drawn((5, 7), (6, length))}
            found.append(case(f"{dtype} {length}", "GatherND", inputs, reference=gather_nd()))
    for opset in (11, 12, 13):
        inputs = {"data": uniform(FLOAT32, 5, 7), "indices": drawn((5, 7), (6, 2))}
        found.append(case("", "GatherND", inputs, opset=opset, reference=gather_nd()))
    diagonal = np.stack([np.arange(4)] * 2, axis=1)
    inputs = {"data": uniform(FLOAT32, 4, 4), "indices": diagonal}
    found.append(case("diagonal", "GatherND", inputs, constants=("indices",), reference=gather_nd()))
    return found


CASES = gather_nd_cases()
