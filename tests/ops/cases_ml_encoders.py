"""LabelEncoder, CategoryMapper and OneHotEncoder."""

import numpy as np
from cases import FLOAT32, FLOAT64, Case, case, make_tensor, uniform

DOMAIN = "ai.onnx.ml"
TYPES = {kind: np.dtype(kind) for kind in ("int16", "int32", "int64", "float32", "float64")}
WORDS = np.array(["ash", "oak", "elm", "fir", "oak", "yew"], object)
TEXT = np.dtype(object)


def mapped(keys, values, default):
    """Values where an element is one of the keys, the last of equal ones; NaN equals NaN."""
    table = {"NaN" if key != key else key: value for key, value in zip(keys, values, strict=True)}

    def reference(x):
        found = [table.get("NaN" if item != item else item, default) for item in x.reshape(-1).tolist()]
        return np.array(found, values.dtype).reshape(x.shape)

    return reference


def encoder(name, x, keys, values, default, version=4, **attributes) -> Case:
    return case(
        name,
        "LabelEncoder",
        {"x": x},
        domain=DOMAIN,
        opsets={DOMAIN: version},
        attributes=attributes,
        reference=mapped(keys.tolist(), values, default),
        dtypes=(values.dtype,),
        folds=True,
    )


def tensor_cases() -> list[Case]:
    found = []
    random = np.random.default_rng(5)
    for source in TYPES.values():
        for target in TYPES.values():
            keys = random.permutation(np.arange(-9, 10)).astype(source)
            values = random.integers(-99, 99, 19).astype(target)
            found.append(
                encoder(
                    f"{source} to {target}",
                    uniform(source, 5, 8, low=-14, high=14)
                    if source.kind == "i"
                    else lambda random, source=source: random.integers(-14, 14, (5, 8)).astype(source),
                    keys,
                    values,
                    values.dtype.type(-7),
                    keys_tensor=make_tensor("keys", keys),
                    values_tensor=make_tensor("values", values),
                    default_tensor=make_tensor("default", np.array([-7], target)),
                )
            )
    return found


def list_cases() -> list[Case]:
    integers = np.array([4, -3, 11, 4, 2**40])
    floats = np.array([0.5, np.nan, -0.0, 2.25, np.inf], np.float32)
    numbers = uniform(np.int64, 9, low=-4, high=12)
    special = np.array([np.nan, 0.0, -0.0, np.inf, -np.inf, 0.5, 2.25, 7, -9], np.float32)
    words = np.array([["oak", "ash", "none"], ["yew", "", "oak"]], object)
    found = [
        encoder(
            "integers to floats",
            numbers,
            integers,
            floats,
            np.float32(-0.0),
            keys_int64s=integers.tolist(),
            values_floats=floats.tolist(),
        ),
        encoder(
            "large integers",
            np.array([2**40, 2**40 + 1, 4, 5, -(2**62)]),
            integers,
            np.arange(5),
            -1,
            keys_int64s=integers.tolist(),
            values_int64s=list(range(5)),
        ),
        encoder(
            "floats to integers",
            special,
            floats,
            np.arange(5),
            42,
            version=2,
            keys_floats=floats.tolist(),
            values_int64s=list(range(5)),
            default_int64=42,
        ),
        encoder(
            "only NaN",
            special,
            floats[1:2],
            np.array([6]),
            -1,
            keys_floats=[float("nan")],
            values_int64s=[6],
        ),
        encoder("one key", numbers, np.array([3]), np.array([6]), -1, keys_int64s=[3], values_int64s=[6]),
        encoder(
            "strings to integers",
            words,
            WORDS,
            np.arange(6),
            -1,
            keys_strings=WORDS.tolist(),
            values_int64s=list(range(6)),
        ),
        encoder(
            "integers to strings",
            numbers,
            np.arange(6),
            WORDS,
            "_Unused",
            keys_int64s=list(range(6)),
            values_strings=WORDS.tolist(),
        ),
        encoder("no elements", numbers_of(0), integers, np.arange(5), -1, 4, **pairs(integers)),
        encoder("a scalar", numbers_of(), integers, np.arange(5), -1, 4, **pairs(integers)),
    ]
    for op_type, attributes, codes in (
        ("LabelEncoder", {"classes_strings": WORDS[:4].tolist()}, np.arange(4)),
        (
            "CategoryMapper",
            {"cats_strings": WORDS[:4].tolist(), "cats_int64s": [7, 3, -2, 5]},
            np.array([7, 3, -2, 5]),
        ),
    ):
        for name, x, reference, dtype in (
            ("to strings", numbers, mapped(codes.tolist(), WORDS[:4], "_Unused"), TEXT),
            ("to integers", words, mapped(WORDS[:4].tolist(), codes, -1), np.dtype(np.int64)),
        ):
            found.append(
                case(
                    f"{name} by version 1",
                    op_type,
                    {"x": x},
                    domain=DOMAIN,
                    attributes=attributes,
                    reference=reference,
                    dtypes=(dtype,),
                )
            )
    return found


def numbers_of(*shape):
    return uniform(np.int64, *shape, low=-4, high=12)


def pairs(keys):
    return {"keys_int64s": keys.tolist(), "values_int64s": list(range(len(keys)))}


def one_hot_cases() -> list[Case]:
    found = []
    categories = [3, -2, 7, 3]
    last = np.array([-100, -2, 7, 3])
    for dtype in (np.dtype(np.int64), np.dtype(np.int32), FLOAT32, FLOAT64):
        for shape in ((6,), (3, 5), (0, 2)):
            found.append(
                case(
                    f"{dtype} {shape}",
                    "OneHotEncoder",
                    {"x": uniform(dtype, *shape, low=-3, high=9)},
                    domain=DOMAIN,
                    attributes={"cats_int64s": categories},
                    reference=lambda x: np.trunc(x)[..., None] == last,
                    dtypes=(FLOAT32,),
                )
            )
    words = np.array(["oak", "ash", "none"], object)
    trees = ["ash", "oak", "elm"]
    for name, x, zeros in (("strings", words, 1), ("strings, none missing", words[:2], 0)):
        found.append(
            case(
                name,
                "OneHotEncoder",
                {"x": x},
                domain=DOMAIN,
                attributes={"cats_strings": trees, "zeros": zeros},
                reference=lambda x: x[..., None] == np.array(trees, object),
                dtypes=(FLOAT32,),
            )
        )
    found.append(
        case(
            "none missing",
            "OneHotEncoder",
            {"x": uniform(np.int64, 9, low=0, high=2)},
            domain=DOMAIN,
            attributes={"cats_int64s": [0, 1, 2], "zeros": 0},
            reference=lambda x: x[..., None] == np.arange(3),
            dtypes=(FLOAT32,),
        )
    )
    return found


CASES = tensor_cases() + list_cases() + one_hot_cases()
