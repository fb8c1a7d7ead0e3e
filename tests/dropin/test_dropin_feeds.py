"""What runs take as feeds and names, and what they make of it, call by call beside onnxruntime."""

from __future__ import annotations

import collections
import types

import numpy as np
import onnxruntime
import pytest
from both_modules import MODULES, X, identity, info, model, outcome, same, sums
from onnx import TensorProto, helper

import onnxplan.onnxruntime

sessions = {}


def session(ort, content):
    key = ort.__name__, content
    if key not in sessions:
        sessions[key] = ort.InferenceSession(content)
    return sessions[key]


def read_only():
    array = X.copy()
    array.flags.writeable = False
    return array


FEEDS = {
    "array": X,
    "nested list": [[1, 2], [3, 4]],
    "list of floats": [[1.5, 2], [3, 4]],
    "list of arrays": [X[0], X[1]],
    "list of NumPy scalars": [[np.float32(1), np.float64(2)]],
    "large integer in a list": [[2**70, 1]],
    "double": X.astype(np.float64),
    "int32": X.astype(np.int32),
    "int64": X.astype(np.int64),
    "half": X.astype(np.float16),
    "bool": X > 1,
    "strided": np.arange(8, dtype=np.float32).reshape(2, 4)[:, ::2],
    "transposed": X.T,
    "reversed": X[::-1],
    "misaligned": np.frombuffer(b"\0" + X.tobytes(), np.float32, offset=1).reshape(2, 2),
    "read-only": read_only(),
    "matrix": X.view(np.matrix),
    "other rank": X[0],
    "higher rank": X[None],
    "other extent": np.ones((2, 3), np.float32),
    "no elements": np.zeros((0, 2), np.float32),
    "empty list": [],
    "nested empty list": [[]],
    "ragged list": [[1, 2], [3]],
    "list of strings": [["a", "b"], ["c", "d"]],
    "list of None": [[None, 1]],
    "objects": X.astype(object),
    "texts": np.array([["a", "b"]]),
    "tuple": ((1, 2), (3, 4)),
    "bytes": b"abc",
    "range": range(2),
    "float": 1.0,
    "NumPy scalar": np.float32(1),
    "None": None,
    "NaN and infinities": np.array([[np.nan, np.inf], [-np.inf, -0.0]], np.float32),
}


@pytest.mark.parametrize("name", FEEDS)
def test_a_float_input_is_fed(name):
    found, _ = outcome(lambda ort: session(ort, sums()).run(None, {"x": FEEDS[name]}), onnxruntime)
    ours, _ = outcome(lambda ort: session(ort, sums()).run(None, {"x": FEEDS[name]}), onnxplan.onnxruntime)
    assert repr(ours) == repr(found)


def test_arrays_in_another_byte_order_are_read_rightly():
    z, _ = session(onnxplan.onnxruntime, sums()).run(None, {"x": X.astype(">f4")})
    np.testing.assert_array_equal(z, X + 1)


TYPES = (
    "DOUBLE",
    "INT8",
    "UINT8",
    "INT16",
    "UINT16",
    "INT32",
    "UINT32",
    "INT64",
    "UINT64",
    "BOOL",
    "FLOAT16",
)
VALUES = {
    "integers": [1, 2],
    "floats": [1.5, 2.0],
    "booleans": [True, False],
    "out of some ranges": [-1, 300],
    "int64 array": np.array([1, 2]),
    "float array": np.ones(2, np.float32),
}


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("kind", TYPES)
def test_lists_take_the_input_type_and_arrays_keep_theirs(kind, values):
    content = identity(getattr(TensorProto, kind))
    same(lambda ort: session(ort, content).run(None, {"x": VALUES[values]}))


TEXTS = {
    "list": ["a", "b"],
    "array": np.array(["a", "bc"]),
    "objects": np.array(["a", "bc"], object),
    "list of bytes": [b"a", b"b"],
    "list of integers": [1, 2],
    "integers": np.array([1, 2]),
    "mixed objects": np.array([1, "a"], object),
    "None": np.array([None, "a"], object),
    "beyond ASCII": ["ä", "日本"],
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_string_input_is_fed(name):
    same(lambda ort: session(ort, identity(TensorProto.STRING)).run(None, {"x": TEXTS[name]}))


def test_byte_strings_are_utf8():
    given = np.array([b"a", "ü".encode()])
    (z,) = session(onnxplan.onnxruntime, identity(TensorProto.STRING)).run(None, {"x": given})
    assert z.tolist() == ["a", "ü"]


CALLS = {
    "no names": lambda s: s.run([], {"x": X}),
    "all names": lambda s: s.run(["z", "r"], {"x": X}),
    "names in another order": lambda s: s.run(["r", "z"], {"x": -X}),
    "names in a tuple": lambda s: s.run(("r",), {"x": X}),
    "a name twice": lambda s: s.run(["r", "r"], {"x": X}),
    "one name": lambda s: s.run(["z"], {"x": X}),
    "a name that is a string": lambda s: s.run("r", {"x": X}),
    "a name that is no string": lambda s: s.run([1], {"x": X}),
    "unknown output": lambda s: s.run(["q"], {"x": X}),
    "an input as output": lambda s: s.run(["x"], {"x": X}),
    "unknown input": lambda s: s.run(None, {"x": X, "q": X}),
    "missing input": lambda s: s.run(None, {}),
    "misspelt input": lambda s: s.run(None, {"q": X}),
    "default fed": lambda s: s.run(None, {"x": X, "y": np.zeros(2, np.float32)}),
    "a list for feeds": lambda s: s.run(None, [X]),
    "None for feeds": lambda s: s.run(None, None),
    "wrong options": lambda s: s.run(None, {"x": X}, 5),
    "keywords": lambda s: s.run(output_names=None, input_feed={"x": X}, run_options=None),
    "ordered feeds": lambda s: s.run(None, collections.OrderedDict(x=X)),
    "mapping proxy": lambda s: s.run(None, types.MappingProxyType({"x": X})),
    "type of the results": lambda s: type(s.run(None, {"x": X})).__name__,
    "writable results": lambda s: [array.flags.writeable for array in s.run(None, {"x": X})],
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("warm", [False, True], ids=["first", "after a plain run"])
def test_a_call(name, warm):
    def call(ort):
        opened = session(ort, sums())
        if warm:
            opened.run(None, {"x": X})
        return CALLS[name](opened)

    same(call)


def test_messages_name_input_type_and_shape():
    opened = session(onnxplan.onnxruntime, sums())
    state = onnxplan.onnxruntime.capi.onnxruntime_pybind11_state
    for feed, parts in (
        (X.astype(np.float64), ("x", "tensor(double)", "tensor(float)")),
        (X[0], ("Invalid rank for input: x Got: 1 Expected: 2",)),
        (np.ones((2, 3), np.float32), ("x", "index: 1 Got: 3 Expected: 2")),
    ):
        with pytest.raises(state.InvalidArgument) as caught:
            opened.run(None, {"x": feed})
        assert str(caught.value).startswith("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : ")
        for part in parts:
            assert part in str(caught.value)


def test_a_failed_run_leaves_the_session_usable(ort):
    opened = session(ort, sums())
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.InvalidArgument):
        opened.run(None, {"x": X[0]})
    np.testing.assert_array_equal(opened.run(None, {"x": X})[0], X + 1)


def test_results_belong_to_the_caller(ort):
    opened = session(ort, sums())
    first = opened.run(None, {"x": X})[0]
    kept = first.copy()
    opened.run(None, {"x": X + 5})
    np.testing.assert_array_equal(first, kept)


def test_shapes_of_scalar_inputs_are_not_checked():
    content = model(
        [helper.make_node("Add", ["x", "c"], ["z"])], [info("x", [2]), info("c", [])], [info("z", [2])]
    )
    for scalar in (np.ones((), np.float32), np.ones(1, np.float32), np.ones(2, np.float32), [1.0]):
        same(lambda ort, c=scalar: session(ort, content).run(None, {"x": X[0], "c": c}))


def test_symbolic_dimensions_of_one_name_may_differ():
    nodes = [helper.make_node("Concat", ["x", "y"], ["z"], axis=0)]
    content = model(nodes, [info("x", ["a"]), info("y", ["a"])], [info("z", ["c"])])
    same(lambda ort: session(ort, content).run(None, {"x": X[0], "y": np.ones(3, np.float32)}))


def test_declared_shapes_of_outputs_may_be_wrong():
    content = model([helper.make_node("Identity", ["x"], ["z"])], [info("x", ["a"])], [info("z", [5])])
    same(lambda ort: session(ort, content).run(None, {"x": X[0]}))


@pytest.mark.parametrize("past", [0, 3])
def test_caches_without_elements(past):
    """Decoders begin with keys and values of no positions."""
    nodes = [helper.make_node("Concat", ["past", "new"], ["present"], axis=2)]
    content = model(
        nodes,
        [info("past", ["n", 2, "p", 4]), info("new", ["n", 2, 1, 4])],
        [info("present", ["n", 2, "t", 4])],
    )
    feeds = {"past": np.ones((1, 2, past, 4), np.float32), "new": np.zeros((1, 2, 1, 4), np.float32)}
    same(lambda ort: session(ort, content).run(None, feeds))


def test_shapes_that_do_not_fit_together_fail():
    content = model(
        [helper.make_node("Add", ["x", "y"], ["z"])], [info("x", ["a"]), info("y", ["b"])], [info("z", ["c"])]
    )
    feeds = {"x": np.ones(2, np.float32), "y": np.ones(3, np.float32)}
    assert same(lambda ort: session(ort, content).run(None, feeds)) == "Fail"


def test_modules_are_not_the_same():
    assert len({module.InferenceSession for module in MODULES.values()}) == 2
