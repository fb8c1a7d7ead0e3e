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
        ("empty ones of other extents", [(0, 5), (2, 3), (3, 0)], 0, 0, lambda xs: xs[1]),
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


def loop_value(name, dtype, shape=()):
    return value(name, dtype, list(shape))


def head():
    """The first inputs of a Loop's body."""
    return [loop_value("i", INT64), loop_value("going", BOOL)]


def loop_cases() -> list[Case]:
    append = graph(
        "append",
        [
            node("Identity", ["going"], ["go"]),
            node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
            node("Add", ["x", "f"], ["e"]),
            node("SequenceInsert", ["s", "e"], ["t"]),
        ],
        [*head(), sequence("s")],
        [loop_value("go", BOOL), sequence("t")],
    )
    stop = graph(
        "stop",
        [
            node("Mul", ["v", "v"], ["w"]),
            node("ReduceMax", ["w"], ["m"], keepdims=0),
            node("Less", ["m", "limit"], ["go"]),
            node("Concat", ["v", "w"], ["longer"], axis=0),
            node("SequenceInsert", ["s", "longer", "zero"], ["t"]),
        ],
        [*head(), value("v", FLOAT32, [None]), sequence("s")],
        [loop_value("go", BOOL), value("w", FLOAT32, [None]), sequence("t")],
    )
    shrink = graph(
        "shrink",
        [
            node("SequenceErase", ["s", "zero"], ["t"]),
            node("SequenceAt", ["s", "zero"], ["e"]),
            node("SequenceLength", ["t"], ["n"]),
            node("Greater", ["n", "zero"], ["go"]),
            node("ReduceSum", ["e"], ["scan"], keepdims=0),
        ],
        [*head(), sequence("s")],
        [loop_value("go", BOOL), sequence("t"), value("scan", FLOAT32, [])],
    )
    captured = graph(
        "captured",
        [
            node("SequenceAt", ["ss", "i"], ["e"]),
            node("Concat", ["v", "e"], ["w"], axis=0),
            node("Identity", ["going"], ["go"]),
        ],
        [*head(), value("v", FLOAT32, [None, 3])],
        [loop_value("go", BOOL), value("w", FLOAT32, [None, 3])],
    )
    empty = node("SequenceEmpty", [], ["empty"])

    def stopping(x, limit):
        v, s, go = x, [], True
        while go:
            w = v * v
            s.insert(0, np.concatenate([v, w]))
            go, v = w.max() < limit, w
        return s, np.concatenate(s), v

    return [
        many(
            f"loop that appends {count}{' known' if constants else ''}",
            [
                empty,
                node("SequenceInsert", ["empty", "x"], ["one"]),
                node("Loop", ["count", "", "one"], ["s"], body=append),
                node("ConcatFromSequence", ["s"], ["y"], axis=0, new_axis=1),
            ],
            {"count": np.int64(count), "x": uniform(FLOAT32, 2)},
            ["s", "y"],
            lambda count, x: (lambda s: (s, np.stack(s)))([x, *(x + i for i in range(int(count)))]),
            constants=constants,
        )
        for count in (0, 1, 4)
        for constants in ((), ("count",))
    ] + [
        many(
            "loop that data ends",
            [
                empty,
                number("zero", 0),
                node("Loop", ["", "", "x", "empty"], ["v", "s"], body=stop),
                node("ConcatFromSequence", ["s"], ["y"], axis=0),
            ],
            {"x": uniform(FLOAT32, 2, low=1.4, high=1.5), "limit": np.float32(50)},
            ["s", "y", "v"],
            stopping,
        ),
        many(
            "loop that takes from a sequence",
            [number("zero", 0), node("Loop", ["", "", "ss"], ["s", "sums"], body=shrink)],
            {"ss": arrays((2,), (0,), (1, 3))},
            ["s", "sums"],
            lambda ss: ([], np.array([each.sum() for each in ss])),
            folds=False,
        ),
        many(
            "loop that captures a sequence",
            [
                node("SequenceLength", ["ss"], ["n"]),
                node("Loop", ["n", "", "x"], ["y"], body=captured),
            ],
            {"ss": arrays((2, 3), (0, 3), (1, 3)), "x": uniform(FLOAT32, 1, 3)},
            ["y"],
            lambda ss, x: np.concatenate([x, *ss]),
            folds=False,
        ),
    ]


def branch_cases() -> list[Case]:
    found = []
    first = graph("first", [node("SequenceInsert", ["s", "a"], ["t"])], [], [sequence("t")])
    second = graph("second", [node("SequenceErase", ["s"], ["u"])], [], [sequence("u")])
    choice = node("If", ["c"], ["y"], then_branch=first, else_branch=second)
    inputs = {"a": uniform(FLOAT32, 2), "b": uniform(FLOAT32, 3)}
    for truth in (True, False):
        found.append(
            many(
                f"if {truth}",
                [node("Neg", ["b"], ["n"]), node("SequenceConstruct", ["n", "a"], ["s"]), choice],
                {"c": np.bool_(truth), **inputs},
                ["y"],
                lambda c, a, b: [[-b, a, a] if c else [-b]],
            )
        )
    kind = helper.make_optional_type_proto(TENSOR)
    some = graph("some", [node("Optional", ["a"], ["p"])], [], [typed("p", kind)])
    none = graph("none", [node("Optional", [], ["q"], type=TENSOR)], [], [typed("q", kind)])
    get = graph("get", [node("OptionalGetElement", ["o"], ["g"])], [], [value("g")])
    default = graph("default", [node("Neg", ["b"], ["d"])], [], [value("d")])
    for truth in (True, False):
        found.append(
            many(
                f"optional out of an if {truth}",
                [
                    node("If", ["c"], ["o"], then_branch=some, else_branch=none),
                    node("OptionalHasElement", ["o"], ["has"]),
                    node("If", ["has"], ["y"], then_branch=get, else_branch=default),
                ],
                {"c": np.bool_(truth), **inputs},
                ["has", "y"],
                lambda c, a, b: (c, a if c else -b),
                (BOOL, FLOAT32),
            )
        )
    appear = graph(
        "appear",
        [
            node("Identity", ["going"], ["go"]),
            node("OptionalHasElement", ["o"], ["had"]),
            node("Optional", ["a"], ["p"]),
        ],
        [*head(), typed("o", kind)],
        [loop_value("go", BOOL), typed("p", kind), loop_value("had", BOOL)],
    )
    found.append(
        many(
            "optional that a loop carries",
            [
                node("Optional", [], ["nothing"], type=TENSOR),
                number("count", 3),
                node("Loop", ["count", "", "nothing"], ["o", "had"], body=appear),
                node("OptionalGetElement", ["o"], ["y"]),
            ],
            inputs,
            ["had", "y"],
            lambda a, b: (np.array([False, True, True]), a),
            (BOOL, FLOAT32),
        )
    )
    found.append(
        many(
            "optional of a sequence, and what is none",
            [
                node("SequenceConstruct", ["a", "b"], ["s"]),
                node("Optional", ["s"], ["o"], type=SEQUENCE),
                node("Identity", ["o"], ["same"]),
                node("OptionalGetElement", ["same"], ["t"]),
                node("OptionalGetElement", ["a"], ["e"]),
                node("OptionalHasElement", ["b"], ["given"]),
                node("OptionalHasElement", [], ["missing"]),
            ],
            inputs,
            ["t", "e", "given", "missing"],
            lambda a, b: ([a, b], a, True, False),
            (FLOAT32, FLOAT32, BOOL, BOOL),
        )
    )
    collect = graph(
        "collect",
        [
            node("SequenceInsert", ["s", "e"], ["t"]),
            node("SequenceAt", ["ss", "zero"], ["k"]),
            node("Mul", ["e", "k"], ["m"]),
        ],
        [sequence("s"), value("e", FLOAT32, [3])],
        [sequence("t"), value("m", FLOAT32, [3])],
    )
    found.append(
        many(
            "scan that carries a sequence",
            [
                number("zero", 0),
                node("Neg", ["b"], ["n"]),
                node("SequenceConstruct", ["n"], ["ss"]),
                node("Scan", ["ss", "x"], ["s", "y"], body=collect, num_scan_inputs=1),
            ],
            {"b": uniform(FLOAT32, 3), "x": uniform(FLOAT32, 4, 3)},
            ["s", "y"],
            lambda b, x: ([-b, *x], -b * x),
        )
    )
    return found


def depth_case(depth=30) -> Case:
    """Loops of one iteration and Ifs in turn, each of which reads values around all of them."""
    body_nodes = [node("Add", ["v0", "x"], ["w0"]), node("SequenceInsert", ["s0", "w0"], ["t0"])]
    inner, results = body_nodes, ("w0", "t0")
    for level in range(depth):
        names = f"w{level + 1}", f"t{level + 1}"
        if level % 2:
            branch = graph(f"then{level}", inner, [], [value(results[0]), sequence(results[1])])
            other = graph(
                f"else{level}",
                [node("Neg", ["x"], [f"a{level}"]), node("Identity", ["ss"], [f"b{level}"])],
                [],
                [value(f"a{level}"), sequence(f"b{level}")],
            )
            inner = [node("If", ["yes"], names, then_branch=branch, else_branch=other)]
        else:
            carried = f"v{level}", f"s{level}"
            outer = ("v0", "ss") if level + 2 >= depth else (f"v{level + 2}", f"s{level + 2}")
            body = graph(
                f"body{level}",
                [*inner, node("Identity", [f"on{level}"], [f"go{level}"])],
                [
                    loop_value(f"i{level}", INT64),
                    loop_value(f"on{level}", BOOL),
                    value(carried[0]),
                    sequence(carried[1]),
                ],
                [loop_value(f"go{level}", BOOL), value(results[0]), sequence(results[1])],
            )
            source = ("x", "ss") if level + 2 >= depth else outer
            inner = [node("Loop", ["once", "", *source], names, body=body)]
        results = names
    return many(
        f"{depth} levels",
        [
            node("SequenceConstruct", ["x"], ["ss"]),
            *inner,
            node("Identity", [results[0]], ["y"]),
            node("Identity", [results[1]], ["z"]),
        ],
        {"x": uniform(FLOAT32, 3), "once": np.int64(1), "yes": np.bool_(True)},
        ["y", "z"],
        lambda x, once, yes: (x + x, [x, x + x]),
    )


CASES = [
    *element_cases(),
    *split_cases(),
    *concat_cases(),
    *map_cases(),
    *loop_cases(),
    *branch_cases(),
    depth_case(),
]
