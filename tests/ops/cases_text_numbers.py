"""Cast between numbers and strings."""

import numpy as np
from cases import TEXT, Case, case, known, special, texts


def cast_cases() -> list[Case]:
    string, code = (
        8,
        {"float32": 1, "uint8": 2, "int64": 7, "bool": 9, "float16": 10, "float64": 11, "uint64": 13},
    )
    cases = []
    for label, low in (("float32", -1e9), ("float64", -1e9), ("float16", -6e4), ("bfloat16", -1e9)):
        cases.append(
            case(
                f"{label} to string",
                "Cast",
                {"x": special(label, 4, 5, low=low, high=-low)},
                attributes={"to": string},
                reference=as_onnxruntime_writes,
                dtypes=(TEXT,),
            )
        )
    floats = np.array([1.5, 1e20, 1e-7, 3, 1234567, 123456789, -0.0, np.inf, -np.inf, np.nan], np.float32)
    written = texts("1.5", "1e+20", "1e-07", "3", "1234567", "1.2345679e+08", "-0", "INF", "-INF", "NaN")
    cases += [
        known("written", "Cast", {"x": floats}, written, attributes={"to": string}),
        known(
            "bool to string",
            "Cast",
            {"x": np.array([[True, False]])},
            texts("1", "0", shape=(1, 2)),
            attributes={"to": string},
        ),
        known(
            "int8 to string",
            "Cast",
            {"x": np.array([-128, 7], np.int8)},
            texts("-128", "7"),
            attributes={"to": string},
        ),
        known(
            "uint64 to string",
            "Cast",
            {"x": np.array([2**64 - 1], np.uint64)},
            texts(str(2**64 - 1)),
            attributes={"to": string},
        ),
        known(
            "nothing to string",
            "Cast",
            {"x": np.empty((0, 2), np.float32)},
            np.empty((0, 2), object),
            attributes={"to": string},
        ),
        known("int64 like string", "CastLike", {"x": np.array([-7]), "s": texts("")}, texts("-7")),
        known(
            "nothing to float",
            "Cast",
            {"x": np.empty((2, 0), object)},
            np.empty((2, 0), np.float32),
            attributes={"to": 1},
        ),
    ]
    numbers = texts("3.14", "1e-5", "INF", "-inf", "NaN", "+INF", "1E8", " 7 ", ".5", "2.", "-0")
    floats = np.array([3.14, 1e-5, np.inf, -np.inf, np.nan, np.inf, 1e8, 7, 0.5, 2, -0.0])
    integers = texts("12", "-7", "+3", "100.5", "1e3", "300", str(2**63))
    wide = np.array([12, -7, 3, 100, 1000, 300, -(2**63)])
    for label, source, result in (
        ("float32", numbers, floats),
        ("float64", numbers, floats),
        ("float16", numbers, floats),
        ("int64", integers, wide),
        ("uint64", integers, wide),
        ("uint8", integers, wide),
        ("bool", texts("0", "1", "-0.0", "0.5", "NaN"), np.array([False, True, False, True, True])),
    ):
        with np.errstate(over="ignore"):
            cases.append(
                known(
                    f"string to {label}",
                    "Cast",
                    {"x": source},
                    result.astype(label),
                    attributes={"to": code[label]},
                )
            )
    return cases


def as_onnxruntime_writes(x):
    special_texts = {"inf": "INF", "-inf": "-INF", "nan": "NaN"}
    found = [f"{item:.8g}" if isinstance(item, float) else str(item) for item in x.reshape(-1).tolist()]
    return texts(*(special_texts.get(item, item) for item in found), shape=x.shape)


CASES = cast_cases()
