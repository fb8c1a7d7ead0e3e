"""Sequences and optionals: within a graph, as its inputs and outputs, and across If, Loop and Scan."""

from __future__ import annotations

import numpy as np
from cases import BOOL, EXACT, FLOAT32, FLOATS, Case, case, distinct, is_float, special, uniform
from cases_control import INT64, graph, node, value
from onnx import TensorProto, helper

INT32 = np.dtype(np.int32)
TENSOR = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
SEQUENCE = helper.make_sequence_type_proto(TENSOR)


def typed(name, kind):
    return helper.make_value_info(name, kind)


def sequence(name):
    return typed(name, SEQUENCE)


def number(name, value_int):
    return node("Constant", [], [name], value_int=value_int)


def many(label, nodes, inputs, outputs, reference, dtypes=None, **settings) -> Case:
    dtypes = dtypes or (FLOAT32,) * len(outputs)
    return Case(
        f"sequences-{label}",
        tuple(nodes),
        inputs,
        tuple(outputs),
        reference=reference,
        dtypes=dtypes,
        **settings,
    )


def arrays(*shapes, dtype=FLOAT32):
    """A maker of lists of arrays."""

    def make(random):
        return [uniform(dtype, *shape)(random) for shape in shapes]

    return make


def moved(items, erase=None, insert=None):
    """A copy of a list with one element less or more."""
    found = list(items)
    if erase is not None:
        del found[erase]
    if insert is not None:
        found.insert(*insert)
    return found


def element_cases() -> list[Case]:
    found = []
    inputs = {"a": uniform(FLOAT32, 2, 3), "b": uniform(FLOAT32), "c": uniform(FLOAT32, 0, 4)}
    construct = node("SequenceConstruct", ["a", "b", "c"], ["s"])
    for position in (-3, -1, 0, 1):
        for label, dtype, constants in (("", INT64, ()), (" known", INT32, ("i",))):
            found.append(
                many(
                    f"at {position}{label}",
                    [construct, node("SequenceAt", ["s", "i"], ["e"]), node("Neg", ["e"], ["y"])],
                    {**inputs, "i": np.array(position, dtype)},
                    ["y"],
                    lambda a, b, c, i, position=position: -[a, b, c][position],
                    constants=constants,
                    tolerance=EXACT,
                )
            )
        found.append(
            many(
                f"erase {position}",
                [construct, node("SequenceErase", ["s", "i"], ["y"])],
                {**inputs, "i": np.int64(position)},
                ["y"],
                lambda a, b, c, i, position=position: [moved([a, b, c], erase=position)],
            )
        )
    for position in (-3, -1, 0, 2, 3):
        found.append(
            many(
                f"insert {position}",
                [construct, node("SequenceInsert", ["s", "b", "i"], ["y"])],
                {**inputs, "i": np.int32(position)},
                ["y"],
                lambda a, b, c, i, position=position: [moved([a, b, c], insert=(position, b))],
            )
        )
    found.append(
        many(
            "defaults and length",
            [
                construct,
                node("SequenceInsert", ["s", "a"], ["longer"]),
                node("SequenceErase", ["s"], ["shorter"]),
                node("SequenceLength", ["longer"], ["n"]),
            ],
            inputs,
            ["longer", "shorter", "n"],
            lambda a, b, c: ([a, b, c, a], [a, b], 4),
            (FLOAT32, FLOAT32, INT64),
        )
    )
    for code in (None, TensorProto.DOUBLE, TensorProto.BOOL):
        dtype = FLOAT32 if code is None else helper.tensor_dtype_to_np_dtype(code)
        attributes = {} if code is None else {"dtype": code}
        found.append(
            many(
                f"empty {dtype}",
                [
                    node("SequenceEmpty", [], ["s"], **attributes),
                    node("SequenceInsert", ["s", "a"], ["y"]),
                    node("SequenceLength", ["s"], ["n"]),
                ],
                {"a": uniform(dtype, 2)},
                ["s", "y", "n"],
                lambda a: ([], [a], 0),
                (dtype, dtype, INT64),
            )
        )
    texts = np.array(["a", "ü"], object)
    found.append(
        many(
            "strings",
            [
                node("SequenceConstruct", ["a", "b"], ["s"]),
                node("ConcatFromSequence", ["s"], ["y"], axis=-1),
                node("SequenceErase", ["s"], ["t"]),
            ],
            {"a": texts, "b": texts[::-1]},
            ["y", "t"],
            lambda a, b: (np.concatenate([a, b]), [a]),
            (np.dtype(object),) * 2,
        )
    )
    return found


def split_cases() -> list[Case]:
    found = []
    for label, shape, split, attributes, bounds in [
        ("rows", (3, 2), None, {}, [1, 2]),
        ("columns", (2, 3), None, {"axis": -1, "keepdims": 1}, [1, 2]),
        ("no keepdims", (2, 3), None, {"axis": 1, "keepdims": 0}, [1, 2]),
        ("nothing", (0, 2), None, {}, None),
        ("nothing no keepdims", (0, 2), None, {"keepdims": 0}, None),
        ("size", (7, 2), np.int64(3), {}, [3, 6]),
        ("size, keepdims ignored", (6, 2), np.int32(3), {"keepdims": 0}, [3]),
        ("large size", (3, 2), np.int64(9), {}, []),
        ("lengths", (2, 6), np.array([1, 0, 5]), {"axis": 1}, [1, 1]),
        ("one length", (2, 6), np.array([2], np.int32), {"axis": 0}, []),
    ]:
        axis = attributes.get("axis", 0)
        drop = split is None and not attributes.get("keepdims", 1)

        def meaning(x, *_, axis=axis, drop=drop, bounds=bounds):
            parts = [] if bounds is None else np.split(x, bounds, axis)
            return [[part.squeeze(axis) for part in parts] if drop else parts]

        for constants in ((), ("s",)) if split is not None else ((),):
            found.append(
                case(
                    f"{label}{' known' if constants else ''}",
                    "SplitToSequence",
                    {"x": distinct(FLOAT32, *shape), **({} if split is None else {"s": split})},
                    attributes=attributes,
                    reference=meaning,
                    constants=constants,
                )
            )
    return found


def concat_cases() -> list[Case]:
    found = []
    for label, shapes, axis, new, meaning in [
        ("rows", [(2, 3), (1, 3), (0, 3)], 0, 0, lambda xs: np.concatenate(xs)),
        ("columns", [(2, 1), (2, 3)], -1, 0, lambda xs: np.concatenate(xs, 1)),
        ("one", [(2, 1)], 1, 0, lambda xs: xs[0]),
        ("empty ones of other extents", [(0, 5), (2, 3), (0, 0)], 0, 0, lambda xs: xs[1]),
        ("nothing but empty ones", [(0, 3), (0, 3)], 0, 0, lambda xs: xs[0]),
        ("stack", [(2, 3)] * 4, 0, 1, lambda xs: np.stack(xs)),
        ("stack last", [(2, 3)] * 4, -1, 1, lambda xs: np.stack(xs, -1)),
        ("stack middle", [(2, 3)] * 2, 1, 1, lambda xs: np.stack(xs, 1)),
        ("stack scalars", [()] * 3, 0, 1, lambda xs: np.stack(xs)),
        ("stack empty", [(2, 0)] * 3, -2, 1, lambda xs: np.stack(xs, -2)),
    ]:
        found.append(
            case(
                label,
                "ConcatFromSequence",
                {"xs": arrays(*shapes)},
                attributes={"axis": axis, "new_axis": new},
                reference=meaning,
                folds=False,
            )
        )
    for dtype in (*FLOATS, INT32, BOOL):
        found.append(
            many(
                f"split and concat {dtype}",
                [
                    node("SplitToSequence", ["x"], ["s"], axis=1, keepdims=0),
                    node("ConcatFromSequence", ["s"], ["y"], axis=1, new_axis=1),
                ],
                {"x": special(dtype, 3, 4) if is_float(dtype) else uniform(dtype, 3, 4)},
                ["y"],
                lambda x: x,
                (dtype,),
                tolerance=EXACT,
            )
        )
    return found


def map_cases() -> list[Case]:
    add = graph("add", [node("Add", ["p", "q"], ["r"])], [value("p"), value("q")], [value("r")])
    two = graph(
        "two",
        [node("Add", ["p", "x"], ["r"]), node("Shape", ["p"], ["t"])],
        [value("p")],
        [value("r"), value("t", INT64)],
    )
    outer = graph(
        "outer",
        [node("SequenceAt", ["ss", "zero"], ["h"]), node("Mul", ["p", "h"], ["r"])],
        [value("p")],
        [value("r")],
    )
    shapes = (2, 3), (1, 3), (0, 3)
    return [
        many(
            "map of two",
            [node("SequenceMap", ["xs", "ys"], ["zs"], body=add)],
            {"xs": arrays(*shapes), "ys": arrays(*shapes)},
            ["zs"],
            lambda xs, ys: [[x + y for x, y in zip(xs, ys, strict=True)]],
            folds=False,
        ),
        many(
            "map of a sequence and a tensor",
            [node("SequenceMap", ["xs", "y"], ["zs"], body=add)],
            {"xs": arrays(*shapes), "y": uniform(FLOAT32, 3)},
            ["zs"],
            lambda xs, y: [[x + y for x in xs]],
            folds=False,
        ),
        many(
            "map with captures and two outputs",
            [node("SequenceMap", ["xs"], ["zs", "shapes"], body=two)],
            {"xs": arrays(*shapes), "x": uniform(FLOAT32, 3)},
            ["zs", "shapes"],
            lambda xs, x: ([each + x for each in xs], [np.array(each.shape) for each in xs]),
            (FLOAT32, INT64),
            folds=False,
        ),
        many(
            "map of nothing",
            [node("SequenceEmpty", [], ["s"]), node("SequenceMap", ["s", "x"], ["zs"], body=add)],
            {"x": uniform(FLOAT32, 3)},
            ["zs"],
            lambda x: [[]],
        ),
        many(
            "map that captures a sequence",
            [number("zero", 0), node("SequenceMap", ["ss"], ["zs"], body=outer)],
            {"ss": arrays((2, 3), (1, 3))},
            ["zs"],
            lambda ss: [[each * ss[0] for each in ss]],
            folds=False,
        ),
    ]


CASES = [*element_cases(), *split_cases(), *concat_cases(), *map_cases()]
