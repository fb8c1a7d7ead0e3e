"""Sequences and optionals across If, Loop and Scan."""

from __future__ import annotations

import numpy as np
from cases import BOOL, FLOAT32, Case, uniform
from cases_control import INT64, graph, node, value
from cases_sequences import SEQUENCE, TENSOR, arrays, many, number, sequence, typed
from onnx import TensorProto, helper


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


CASES = [*loop_cases(), *branch_cases(), depth_case()]
