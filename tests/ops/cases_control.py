"""If and Loop, with conditions known when planning and conditions that only a run knows."""

import numpy as np
from cases import BOOL, FLOAT32, Case, tensor_code, uniform
from onnx import TensorProto, helper

INT64 = np.dtype(np.int64)


def value(name, dtype=FLOAT32, shape=None):
    return helper.make_tensor_value_info(name, tensor_code(dtype), shape)


def graph(name, nodes, inputs, outputs, initializers=()):
    return helper.make_graph(nodes, name, inputs, outputs, list(initializers))


def scalar(name, number, dtype=FLOAT32):
    return helper.make_tensor(name, tensor_code(dtype), [], [number])


def node(op_type, inputs, outputs, **attributes):
    return helper.make_node(op_type, inputs, outputs, **attributes)


def many(label, nodes, inputs, outputs, reference, dtypes, **settings) -> Case:
    return Case(
        f"control-{label}",
        tuple(nodes),
        inputs,
        tuple(outputs),
        reference=reference,
        dtypes=dtypes,
        **settings,
    )


def branches():
    """Add and Mul of captured values."""
    then = graph("then", [node("Add", ["a", "b"], ["t"])], [], [value("t")])
    otherwise = graph("else", [node("Mul", ["a", "b"], ["e"])], [], [value("e")])
    return {"then_branch": then, "else_branch": otherwise}


def if_cases() -> list[Case]:
    found = []
    arrays = {"a": uniform(FLOAT32, 3, 4), "b": uniform(FLOAT32, 4)}
    for truth in (True, False):
        for shape in ((), (1,)):
            for constants in ((), ("c",)):
                found.append(
                    many(
                        f"if {truth} {shape}{' constant' if constants else ''}",
                        [node("If", ["c"], ["y"], **branches())],
                        {"c": np.full(shape, truth), **arrays},
                        ["y"],
                        lambda c, a, b: a + b if c else a * b,
                        (FLOAT32,),
                        constants=constants,
                    )
                )
        # The branches return tensors of different shapes, and the condition comes out of the data.
        whole = graph("whole", [node("Identity", ["d"], ["t"])], [], [value("t")])
        total = graph("total", [node("ReduceSum", ["d"], ["e"], keepdims=0)], [], [value("e")])
        found.append(
            many(
                f"if computed {truth}",
                [
                    node("Neg", ["a"], ["n"]),
                    node("Mul", ["n", "a"], ["d"]),
                    node("ReduceMax", ["a"], ["m"], keepdims=0),
                    node("Greater", ["m", "limit"], ["c"]),
                    node("If", ["c"], ["r"], then_branch=whole, else_branch=total),
                    node("Add", ["r", "n"], ["y"]),
                ],
                {"a": uniform(FLOAT32, 3, 4, low=1, high=2), "limit": np.float32(0 if truth else 9)},
                ["y", "m"],
                lambda a, limit: ((-a * a if a.max() > limit else (-a * a).sum()) - a, a.max()),
                (FLOAT32, FLOAT32),
            )
        )
    for outer in (True, False):
        for inner in (True, False):
            nested = graph(
                "outer",
                [
                    node("Sub", ["a", "b"], ["s"]),
                    node("If", ["d"], ["n"], **branches()),
                    node("Add", ["n", "s"], ["o"]),
                ],
                [],
                [value("o"), value("s")],
            )
            plain = graph(
                "plain",
                [node("Neg", ["a"], ["p"]), node("Abs", ["a"], ["q"])],
                [],
                [value("p"), value("q")],
            )

            def meaning(c, d, a, b):
                return ((a + b if d else a * b) + a - b, a - b) if c else (-a, np.abs(a))

            found.append(
                many(
                    f"if {inner} in if {outer}",
                    [node("If", ["c"], ["y", "z"], then_branch=nested, else_branch=plain)],
                    {"c": np.bool_(outer), "d": np.bool_(inner), **arrays},
                    ["y", "z"],
                    meaning,
                    (FLOAT32, FLOAT32),
                )
            )
    return found


def loop_body(stop_at=None):
    """Carries ``v * 2 + i``, returns ``v`` and its sum; stops when the sum exceeds the captured ``limit``."""
    nodes = [
        node("Mul", ["v", "two"], ["d"]),
        node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        node("Add", ["d", "f"], ["w"]),
        node("ReduceSum", ["v"], ["s"], keepdims=0),
        node("Less", ["s", "limit"], ["go"]) if stop_at is None else node("Less", ["i", "stop"], ["go"]),
        node("Identity", ["v"], ["u"]),
    ]
    constants = [scalar("two", 2.0)]
    if stop_at is not None:
        constants.append(scalar("stop", stop_at, INT64))
    return graph(
        "body",
        nodes,
        [value("i", INT64, []), value("going", BOOL, []), value("v", FLOAT32, [3])],
        [value("go", BOOL, []), value("w", FLOAT32, [3]), value("u", FLOAT32, [3]), value("s", FLOAT32, [])],
        constants,
    )


def loop_meaning(count, condition, start, limit, stop_at=None):
    v, elements, sums = start, [], []
    i, go = 0, True if condition is None else bool(condition)
    while go and (count is None or i < count):
        elements.append(v)
        sums.append(v.sum())
        go = i < stop_at if stop_at is not None else v.sum() < limit
        v, i = v * 2 + i, i + 1
    return v, np.array(elements).reshape(len(elements), 3), np.array(sums)


def loop_cases() -> list[Case]:
    found = []
    start = uniform(FLOAT32, 3, low=1, high=2)
    for label, count, condition, limit, stop_at in [
        ("count", 4, None, 1e9, 99),
        ("stopped", 9, True, 1e9, 2),
        ("count and data", 9, True, 40.0, None),
        ("data", None, True, 40.0, None),
        ("data without condition", None, None, 40.0, None),
        ("never", 0, True, 1e9, 99),
        ("false", 5, False, 1e9, 99),
        ("once", 1, True, 1e9, None),
    ]:
        for constants in ((), ("count", "condition")):
            inputs = {
                "count": None if count is None else np.int64(count),
                "condition": None if condition is None else np.bool_(condition),
                "start": start,
                "limit": np.float32(limit),
            }
            names = ["" if inputs[key] is None else key for key in ("count", "condition", "start")]
            known = tuple(key for key in constants if inputs[key] is not None)
            found.append(
                many(
                    f"loop {label}{' constant' if constants else ''}",
                    [
                        node("Loop", names, ["v", "all", "sums"], body=loop_body(stop_at)),
                        node("Neg", ["v"], ["y"]),
                    ],
                    inputs,
                    ["y", "all", "sums"],
                    lambda count, condition, start, limit, stop_at=stop_at: (lambda v, *scans: (-v, *scans))(
                        *loop_meaning(count, condition, start, limit, stop_at)
                    ),
                    (FLOAT32, FLOAT32, FLOAT32),
                    constants=known,
                )
            )
    return [*found, growing_loop(), nested_loop(), passing_loop(), branching_loop()]


def growing_loop() -> Case:
    """What is carried grows with each iteration."""
    body = graph(
        "body",
        [node("Concat", ["v", "v"], ["w"], axis=0), node("Identity", ["going"], ["go"])],
        [value("i", INT64, []), value("going", BOOL, []), value("v", FLOAT32, [None])],
        [value("go", BOOL, []), value("w", FLOAT32, [None])],
    )
    return many(
        "loop growing",
        [node("Loop", ["count", "", "x"], ["y"], body=body)],
        {"count": np.int64(3), "x": uniform(FLOAT32, 2)},
        ["y"],
        lambda count, x: np.tile(x, 8),
        (FLOAT32,),
    )


def nested_loop() -> Case:
    """A loop in a loop, both of whose counts only a run knows; the inner one reads values around both."""
    inner = graph(
        "inner",
        [
            node("Add", ["c", "x"], ["s"]),
            node("Add", ["s", "v"], ["n"]),
            node("Identity", ["on"], ["further"]),
        ],
        [value("j", INT64, []), value("on", BOOL, []), value("c", FLOAT32, [2])],
        [value("further", BOOL, []), value("n", FLOAT32, [2])],
    )
    outer = graph(
        "outer",
        [
            node("Loop", ["inner_count", "", "v"], ["w"], body=inner),
            node("Identity", ["going"], ["go"]),
            node("Neg", ["v"], ["u"]),
        ],
        [value("i", INT64, []), value("going", BOOL, []), value("v", FLOAT32, [2])],
        [value("go", BOOL, []), value("w", FLOAT32, [2]), value("u", FLOAT32, [2])],
    )

    def meaning(count, inner_count, x, start):
        v, scans = start, []
        for _ in range(count):
            c = v
            for _ in range(inner_count):
                c = c + x + v
            scans.append(-v)
            v = c
        return v, np.array(scans)

    return many(
        "loop in loop",
        [node("Loop", ["count", "", "start"], ["y", "scans"], body=outer)],
        {
            "count": np.int64(3),
            "inner_count": np.int64(2),
            "x": uniform(FLOAT32, 2),
            "start": uniform(FLOAT32, 2),
        },
        ["y", "scans"],
        meaning,
        (FLOAT32, FLOAT32),
    )


def passing_loop() -> Case:
    """A body that swaps what it carries and returns a captured value."""
    body = graph(
        "body",
        [node("Identity", ["going"], ["go"])],
        [value("i", INT64, []), value("going", BOOL, []), value("a", FLOAT32, [2]), value("b", FLOAT32, [2])],
        [value("go", BOOL, []), value("b", FLOAT32, [2]), value("a", FLOAT32, [2]), value("n", FLOAT32, [2])],
    )
    return many(
        "loop passing",
        [node("Neg", ["x"], ["n"]), node("Loop", ["count", "", "x", "n"], ["p", "q", "r"], body=body)],
        {"count": np.int64(3), "x": uniform(FLOAT32, 2)},
        ["p", "q", "r"],
        lambda count, x: (-x, x, np.stack([-x] * 3)),
        (FLOAT32, FLOAT32, FLOAT32),
    )


def branching_loop() -> Case:
    """Each iteration branches on what it carries; every iteration's scan output is needed at the end."""
    halve = graph("halve", [node("Mul", ["v", "half"], ["h"])], [], [value("h")], [scalar("half", 0.5)])
    grow = graph("grow", [node("Add", ["v", "x"], ["g"])], [], [value("g")])
    body = graph(
        "body",
        [
            node("ReduceSum", ["v"], ["s"], keepdims=0),
            node("Greater", ["s", "limit"], ["big"]),
            node("If", ["big"], ["w"], then_branch=halve, else_branch=grow),
            node("Identity", ["going"], ["go"]),
            node("Abs", ["w"], ["scan"]),
        ],
        [value("i", INT64, []), value("going", BOOL, []), value("v", FLOAT32, [2])],
        [value("go", BOOL, []), value("w", FLOAT32, [2]), value("scan", FLOAT32, [2])],
        [scalar("limit", 10.0)],
    )

    def meaning(x):
        v, scans = x, []
        for _ in range(6):
            v = v * 0.5 if v.sum() > 10 else v + x
            scans.append(np.abs(v))
        return v, np.array(scans)

    return many(
        "if in loop",
        [
            node("Constant", [], ["count"], value_int=6),
            node("Loop", ["count", "", "x"], ["y", "scans"], body=body),
        ],
        {"x": uniform(FLOAT32, 2, low=1, high=3)},
        ["y", "scans"],
        meaning,
        (FLOAT32, FLOAT32),
    )


CASES = [*if_cases(), *loop_cases()]
