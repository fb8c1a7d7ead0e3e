"""Sequences and optionals as inputs and outputs."""

from __future__ import annotations

import asyncio
import pickle

import numpy as np
import pytest
from face_models import FLOAT, refuse, value
from onnx import TensorProto, helper
from structure_models import X, Y, mapping, node, optional, same, sequence, session, tensor

import onnxplan

NEGATE = helper.make_graph(
    [node("Neg", "e", "n")], "negate", [value("e", None)], [helper.make_value_info("n", tensor())]
)


def negating(code=FLOAT, dims=None, **options):
    """A sequence of any tensors to that of their opposites, and its length."""
    nodes = [node("SequenceMap", "xs", "ys", body=NEGATE), node("SequenceLength", "xs", "n")]
    return session(nodes, {"xs": sequence(code, dims)}, {"ys": sequence(code), "n": None}, **options)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_sequences(device, emulated_cuda):
    empty, scalar = np.zeros((0, 4), np.float32), np.array(2, np.float32)
    with negating(device=device) as found:
        for elements in ([X, Y], [Y, X], [], [scalar], [empty, X, scalar], [X] * 5, [X, X]):
            for given in (elements, tuple(elements), [onnxplan.Tensor.from_numpy(item) for item in elements]):
                results = found.run_sync({"xs": given})
                same(results["ys"], [-item for item in elements])
                assert results["n"].numpy() == len(elements)
    emulated_cuda.check()


def test_sequences_in_coroutines_and_at_once():
    async def main(found):
        tasks = [found.run({"xs": [X] * (number % 4)}) for number in range(12)]
        return await asyncio.gather(*tasks)

    with negating() as found:
        for number, results in enumerate(asyncio.run(main(found))):
            same(results["ys"], [-X] * (number % 4))


def test_results_belong_to_the_caller():
    nodes = [node("Identity", "xs", "ys"), node("SequenceInsert", "ys x", "zs")]
    kinds = {"ys": sequence(), "zs": sequence()}
    with session(nodes, {"xs": sequence(), "x": tensor()}, kinds) as found:
        xs, x = [X.copy(), X.copy()], Y.copy()
        first = found.run_sync({"xs": xs, "x": x})
        for tensor_ in [*first["ys"], *first["zs"]]:
            tensor_.numpy()[...] = 7
        np.testing.assert_array_equal(xs[0], X)
        second = found.run_sync({"xs": xs, "x": x})
        same(second["ys"], [X, X])
        same(second["zs"], [X, X, Y])


def test_elements_of_lists_and_numbers():
    with negating() as found:
        same(
            found.run_sync({"xs": [[1, 2], 3, [[4.5]]]})["ys"],
            [-np.float32([1, 2]), np.float32(-3), np.float32([[-4.5]])],
        )


def test_lengths_and_shapes_have_plans_of_their_own():
    with negating(max_plans=2) as found:
        for elements in ([X], [X, Y], [Y], [], [X], [Y, X]) * 2:
            same(found.run_sync({"xs": elements})["ys"], [-item for item in elements])


def test_strings():
    nodes = [
        node("SequenceAt", "xs one", "x"),
        node("ConcatFromSequence", "xs", "all", axis=0),
        node("Equal", "x wanted", "equal"),
        node("Identity", "xs", "ys"),
    ]
    nodes.insert(0, helper.make_node("Constant", [], ["one"], value_int=1))
    nodes.insert(0, helper.make_node("Constant", [], ["wanted"], value_string="b"))
    outputs = {"x": None, "all": None, "equal": None, "ys": sequence(TensorProto.STRING)}
    with session(nodes, {"xs": sequence(TensorProto.STRING)}, outputs) as found:
        for texts in (["a"], ["b", "ü"]), (["c", "d"], ["b"]), (["c", "d"], ["e"]):
            arrays = [np.array(each, object) for each in texts]
            results = found.run_sync({"xs": arrays})
            same(results["x"], arrays[1])
            same(results["all"], np.concatenate(arrays))
            same(results["equal"], arrays[1] == "b")
            same(results["ys"], arrays)


def test_names_of_elements_do_not_collide():
    """The elements of ``x`` are called ``x[0]``, as another input is."""
    nodes = [node("SequenceAt", "x zero", "first"), node("Sub", "first x[0]", "y")]
    nodes.insert(0, helper.make_node("Constant", [], ["zero"], value_int=0))
    nodes += [node("Identity", "x", "z"), node("Neg", "y", "z[0]")]
    outputs = {"y": None, "z": sequence(), "z[0]": None}
    with session(nodes, {"x": sequence(), "x[0]": tensor(dims=[3])}, outputs) as found:
        results = found.run_sync({"x": [X, Y], "x[0]": Y[0] + 5})
        same(results["y"], X - (Y[0] + 5))
        same(results["z"], [X, Y])
        same(results["z[0]"], Y[0] + 5 - X)


BAD_SEQUENCES = [
    ({"xs": X}, ["xs", "seq(float32[?, 3])", "expected a list of its elements", "float32[2, 3]"]),
    ({"xs": onnxplan.Tensor.from_numpy(X)}, ["expected a list", "Tensor"]),
    ({"xs": None}, ["expected a list", "None"]),
    ({"xs": {"a": X}}, ["expected a list", "dict"]),
    ({"xs": [X, X.astype(np.float64)]}, ["xs[1]", "expected float32", "float64[2, 3]"]),
    ({"xs": [X, None]}, ["xs[1]", "NoneType"]),
    ({"xs": [X, [X]]}, ["xs[1]", "has rank 2", "[1, 2, 3]"]),
    ({"xs": [X, X[0]]}, ["xs[1]", "rank 1"]),
    ({"xs": [X, Y, X[:, :2]]}, ["xs[2]", "dimension 1 is 2", "expected 3"]),
    ({}, ["missing", "xs: seq(float32[?, 3])"]),
]


@pytest.mark.parametrize(("feeds", "parts"), BAD_SEQUENCES)
def test_bad_sequences(feeds, parts):
    with negating(dims=[None, 3]) as found:
        refuse(found, feeds, *parts)
        same(found.run_sync({"xs": [X, Y]})["ys"], [-X, -Y])


def test_a_position_that_a_run_finds_out_of_range():
    inputs = {"xs": sequence(), "i": tensor(TensorProto.INT64, [])}
    with session([node("SequenceAt", "xs i", "y")], inputs, {"y": None}) as found:
        refuse(
            found,
            {"xs": [X, Y], "i": 2},
            "'y'",
            "position 2 is out of range for 2 elements",
            "[2, 3], [1, 3]",
        )
        refuse(found, {"xs": [], "i": 0}, "out of range for 0 elements", "no elements")
        for position in (-2, -1, 0, 1):
            same(found.run_sync({"xs": [X, Y], "i": position})["y"], [X, Y][position])


def test_optionals():
    then = helper.make_graph(
        [node("OptionalGetElement", "x", "e"), node("Neg", "e", "t")], "t", [], [value("t", None)]
    )
    otherwise = helper.make_graph(
        [helper.make_node("Constant", [], ["f"], value_float=5.0)], "f", [], [value("f", None)]
    )
    nodes = [
        node("OptionalHasElement", "x", "has"),
        node("If", "has", "y", then_branch=then, else_branch=otherwise),
        node("Identity", "x", "same"),
    ]
    kind = optional(tensor(dims=["n", 3]))
    with session(nodes, {"x": kind, "a": tensor(dims=[1])}, {"has": None, "y": None, "same": kind}) as found:
        assert [info.type for info in found.inputs] == ["optional(tensor(float))", "float32"]
        a = np.ones(1, np.float32)
        for _ in range(3):
            results = found.run_sync({"x": X, "a": a})
            assert results["has"].numpy()
            same(results["y"], -X)
            same(results["same"], X)
            for feeds in ({"x": None, "a": a}, {"a": a}):
                results = found.run_sync(feeds)
                assert not results["has"].numpy()
                same(results["y"], np.float32(5))
                assert results["same"] is None
        refuse(found, {"x": X[:, :2], "a": a}, "input x: float32[", "dimension 1 is 2")
        refuse(found, {"x": [[X]], "a": a}, "rank")
        refuse(found, {"x": X.astype(int), "a": a}, "expected float32")


def test_an_optional_without_a_value_that_is_needed():
    with session(
        [node("OptionalGetElement", "x", "y")], {"x": optional(sequence())}, {"y": sequence()}
    ) as found:
        refuse(
            found,
            {"x": None},
            "'y'",
            "there is no seq(tensor(float)) in it",
            "x optional(seq(tensor(float))) absent",
        )
        same(found.run_sync({"x": [X, Y]})["y"], [X, Y])
        same(found.run_sync({"x": []})["y"], [])


def test_only_optionals_on_the_hot_path():
    """Feeds that look like those of the latest plan, but for a ``None`` among them."""
    with session([node("Identity", "x", "y")], {"x": optional(tensor(dims=[3]))}, {"y": None}) as found:
        for given in (X[0], X[1], None, X[0], None):
            same(found.run_sync({"x": given})["y"], given)


def test_metadata():
    nodes = [node("Identity", "xs", "ys"), node("Identity", "o", "p"), node("SequenceEmpty", "", "e")]
    seq_map = helper.make_sequence_type_proto(mapping(TensorProto.STRING, TensorProto.DOUBLE))
    inputs = {"xs": sequence(dims=["n", 3]), "o": optional(sequence(TensorProto.INT64)), "m": seq_map}
    with session(
        nodes, inputs, {"ys": sequence(), "p": optional(sequence(TensorProto.INT64)), "e": None}
    ) as found:
        assert found.input_names == ("xs", "o", "m")
        assert [info.type for info in found.inputs] == [
            "seq(tensor(float))",
            "optional(seq(tensor(int64)))",
            "seq(map(string,tensor(double)))",
        ]
        assert all(info.dims is None for info in found.inputs)
        assert "xs: seq(float32[n, 3])" in repr(found)
        assert isinstance(found.inputs[0], onnxplan.StructureInfo)
    with session(nodes[2:], {}, {"e": None}) as found:
        assert found.outputs[0].type == "seq(tensor(float))"
        same(found.run_sync({})["e"], [])


def test_out():
    with negating() as found:
        targets = [np.empty((2, 3), np.float32), np.empty((1, 3), np.float32)]
        results = found.run_sync({"xs": [X, Y]}, out={"ys": targets})
        np.testing.assert_array_equal(targets[0], -X)
        np.testing.assert_array_equal(targets[1], -Y)
        assert all(np.shares_memory(t.numpy(), a) for t, a in zip(results["ys"], targets, strict=True))
        for out, part in [
            ([targets[0]], "'ys' is 1 arrays, the output is a sequence of 2"),
            (targets[0], "'ys' is an array, the output is a sequence of 2"),
            (targets[::-1], "'ys[0]' is float32[1, 3], the output is float32[2, 3]"),
            ([targets[0], targets[0][:1]], "'ys[1]' shares memory with output 'ys[0]'"),
            ([targets[0], X], "'ys[1]' shares memory with input 'xs[0]'"),
        ]:
            with pytest.raises(onnxplan.InvalidFeedsError) as caught:
                found.run_sync({"xs": [X, Y]}, out={"ys": out})
            assert part in str(caught.value)
    with session([node("Identity", "x", "y")], {"x": optional(tensor())}, {"y": optional(tensor())}) as found:
        target = np.full((2, 3), 9, np.float32)
        assert found.run_sync({}, out={"y": target})["y"] is None
        assert (target == 9).all()
        found.run_sync({"x": X}, out={"y": target})
        np.testing.assert_array_equal(target, X)
    labels = {"classlabels_int64s": [1, 2, 3]}
    with (
        session([node("ZipMap", "x", "z", **labels)], {"x": tensor()}, {"z": None}) as found,
        pytest.raises(onnxplan.InvalidFeedsError, match="made of maps"),
    ):
        found.run_sync({"x": X}, out={"z": np.empty((2, 3), np.float32)})


def test_fetches():
    with negating() as found:
        assert list(found.run_sync({"xs": [X]}, fetches=["n"])) == ["n"]
        results = found.run_sync({"xs": [X]}, fetches=["ys"])
        assert list(results) == ["ys"]
        same(results["ys"], [-X])


def test_plans_for_shapes():
    with negating(dims=[None, 3]) as found:
        assert len(found.plan({"xs": [(2, 3), (1, 3)]}).inputs) == 2
        compiled = found.compiled_kernels
        found.warmup_sync([{"xs": []}, {"xs": [(2, 3)] * 3}])
        same(found.run_sync({"xs": [X] * 3})["ys"], [-X] * 3)
        assert found.compiled_kernels == compiled
        for shapes, part in [
            ({}, "xs: seq(float32[?, 3])"),
            ({"xs": [(2, 4)]}, "dimension 1 is 4"),
            ({"xs": 3}, "a list of the elements' shapes"),
            ({"xs": [3]}, "a shape is a sequence of integers"),
        ]:
            with pytest.raises(onnxplan.InvalidFeedsError) as caught:
                found.plan(shapes)
            assert part in str(caught.value)
    with session([node("Identity", "x", "y")], {"x": optional(tensor())}, {"y": None}) as found:
        assert found.plan({"x": (2, 3)}).inputs[0].shape == (2, 3)
        for shapes in ({}, {"x": None}):
            assert found.plan(shapes).inputs == ()


def test_device_tensors_in_sequences(emulated_cuda):
    with negating(device="cuda") as found:
        first = found.run_sync({"xs": [X, Y]}, outputs="device")
        assert [item.location for item in first["ys"]] == ["cuda:0"] * 2
        # Results of one run and arrays of the host are the elements of another.
        second = found.run_sync({"xs": [*first["ys"], X]}, outputs="device")
        same(second["ys"], [X, Y, -X])
    labels = {"classlabels_int64s": [1, 2, 3]}
    with session([node("ZipMap", "x", "z", **labels)], {"x": tensor()}, {"z": None}, device="cuda") as found:
        assert found.run_sync({"x": Y}, outputs="device")["z"] == [{1: 0.0, 2: 1.0, 3: 2.0}]
    emulated_cuda.check()


def test_backend():
    import onnxplan.backend as backend

    construct = helper.make_node("SequenceConstruct", ["a", "b"], ["s"])
    (found,) = backend.run_node(construct, [X, Y])
    assert [item.tolist() for item in found] == [X.tolist(), Y.tolist()]
    length = helper.make_node("SequenceLength", ["s"], ["n"])
    assert backend.run_node(length, [[X, Y, X]])[0] == 3
    assert backend.run_node(length, [[]])[0] == 0
    graph = helper.make_graph(
        [length], "g", [helper.make_value_info("s", sequence())], [helper.make_empty_tensor_value_info("n")]
    )
    assert backend.is_compatible(helper.make_model(graph))


def test_what_takes_tensors_names_the_node():
    with session([node("Neg", "xs", "y")], {"xs": sequence()}, {"y": None}) as found:
        refuse(
            found, {"xs": [X]}, "node 'y' (Neg of seq(tensor(float)) of 1)", "input 0 is a sequence; a tensor"
        )
    with session([node("SequenceLength", "x", "y")], {"x": tensor()}, {"y": None}) as found:
        refuse(
            found, {"x": X}, "node 'y' (SequenceLength of float32[2, 3])", "input 0 is a tensor; a sequence"
        )
    with session([node("Add", "x x", "y")], {"x": optional(tensor())}, {"y": None}) as found:
        refuse(found, {"x": None}, "input 0 is an optional without a value; a tensor is expected")


def test_pickling():
    with negating() as found, pickle.loads(pickle.dumps(found)) as other:
        same(other.run_sync({"xs": [X]})["ys"], [-X])
    assert pickle.loads(pickle.dumps(found.inputs)) == found.inputs
