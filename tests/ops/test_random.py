"""Random operators: their generator, their distributions, and that unseeded runs differ."""

import numpy as np
import onnx
import pytest
from cases import tensor_code
from onnx import helper
from philox_reference import philox

import onnxplan

# Known answers of Random123: counter, key, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_reference_gives_the_known_answers(counter, key, result):
    def parse(text):
        return [int(word, 16) for word in text.split()]

    assert [int(word) for word in philox(parse(counter), parse(key))] == parse(result)


def model_of(nodes, inputs, outputs):
    graph = helper.make_graph(
        nodes,
        "random",
        [helper.make_tensor_value_info(name, tensor_code(x.dtype), x.shape) for name, x in inputs.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)])


def runs(nodes, inputs, count, outputs=("y",), **settings):
    """The results of ``count`` runs of one session."""
    with onnxplan.InferenceSession(model_of(nodes, inputs, outputs), **settings) as session:
        results = [session.run_sync(inputs) for _ in range(count)]
    return [{name: tensor.numpy() for name, tensor in result.items()} for result in results]


SHAPE = (60, 1000)
PROBABILITIES = np.full(SHAPE, 0.3, np.float32)
UNSEEDED = [
    ("RandomUniform", {}, {"shape": SHAPE, "low": -1.0, "high": 3.0}, 1.0, 4 / 12**0.5),
    ("RandomUniform", {}, {"shape": SHAPE, "dtype": onnx.TensorProto.DOUBLE}, 0.5, 1 / 12**0.5),
    ("RandomUniformLike", {"x": PROBABILITIES}, {}, 0.5, 1 / 12**0.5),
    ("RandomNormal", {}, {"shape": SHAPE, "mean": 2.0, "scale": 3.0}, 2.0, 3.0),
    ("RandomNormal", {}, {"shape": SHAPE, "dtype": onnx.TensorProto.DOUBLE}, 0.0, 1.0),
    ("RandomNormalLike", {"x": PROBABILITIES}, {"dtype": onnx.TensorProto.FLOAT16}, 0.0, 1.0),
    ("Bernoulli", {"x": PROBABILITIES}, {}, 0.3, 0.21**0.5),
]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("op_type", "inputs", "attributes", "mean", "deviation"), UNSEEDED)
def test_runs_without_a_seed_differ_and_have_the_moments(
    op_type, inputs, attributes, mean, deviation, device, emulated_cuda
):
    node = helper.make_node(op_type, list(inputs), ["y"], **attributes)
    drawn = [result["y"].astype(np.float64) for result in runs([node], inputs, 2, device=device)]
    assert drawn[0].shape == SHAPE
    assert not np.array_equal(drawn[0], drawn[1])
    for sample in [*drawn, drawn[0] - drawn[1], drawn[0][:, 1:] - drawn[0][:, :-1]]:
        difference = sample is not drawn[0] and sample is not drawn[1]
        # Five standard errors: 6e-7 of all good generators fail one of these.
        spread = deviation * (2**0.5 if difference else 1)
        assert abs(sample.mean() - (0 if difference else mean)) < 5 * spread / sample.size**0.5
        assert abs(sample.std() / spread - 1) < 0.02
    emulated_cuda.check()


def test_normal_numbers_have_the_quantiles_of_the_normal_distribution():
    node = helper.make_node("RandomNormal", [], ["y"], shape=[200_000])
    (result,) = runs([node], {}, 1)
    for sigmas, share in [(-2, 0.02275), (-1, 0.15866), (0, 0.5), (1, 0.84134), (2, 0.97725)]:
        assert abs((result["y"] < sigmas).mean() - share) < 0.006


def test_multinomial_has_the_shares_of_its_classes():
    shares = np.array([[0.1, 0.2, 0.7], [0.5, 0.0, 0.5]])
    with np.errstate(divide="ignore"):
        inputs = {"x": (np.log(shares) + 3).astype(np.float32)}
    node = helper.make_node("Multinomial", ["x"], ["y"], sample_size=50_000)
    first, second = (result["y"] for result in runs([node], inputs, 2))
    assert first.dtype == np.int32
    assert not np.array_equal(first, second)
    found = np.stack([np.bincount(row, minlength=3) for row in first]) / 50_000
    assert found[1, 1] == 0
    np.testing.assert_allclose(found, shares, atol=0.012)


@pytest.mark.parametrize("optimize", [1, 0])
def test_dropout_keeps_the_share_and_scales(optimize):
    inputs = {
        "x": np.full(SHAPE, 3.0, np.float32),
        "ratio": np.array(0.4, np.float32),
        "training": np.array(True),
    }
    node = helper.make_node("Dropout", list(inputs), ["y", "mask"])
    first, second = runs([node], inputs, 2, ("y", "mask"), optimize=optimize)
    assert not np.array_equal(first["mask"], second["mask"])
    assert abs(first["mask"].mean() - 0.6) < 0.011
    np.testing.assert_allclose(first["y"], np.where(first["mask"], np.float32(5), 0), rtol=1e-6)


def test_nodes_draw_different_numbers_unless_their_seeds_agree():
    names = ["a", "b", "c", "d", "e"]
    seeds = [{}, {}, {"seed": 1.0}, {"seed": 1.0}, {"seed": 2.0}]
    nodes = [
        helper.make_node("RandomUniform", [], [name], shape=[100], **seed)
        for name, seed in zip(names, seeds, strict=True)
    ]
    first, second = runs(nodes, {}, 2, names)
    assert not np.array_equal(first["a"], first["b"])
    assert np.array_equal(first["c"], first["d"])
    assert not np.array_equal(first["d"], first["e"])
    assert np.array_equal(first["c"], second["c"])


def test_many_nodes_share_kernels():
    names = [f"y{number}" for number in range(40)]
    nodes = [helper.make_node("RandomNormal", [], [name], shape=[3, 100]) for name in names]
    with onnxplan.InferenceSession(model_of(nodes, {}, names)) as session:
        # Stream 0 is inlined, as small numbers are.
        assert len(session.plan().kernels) == 2
        results = session.run_sync({})
    assert len(np.unique([tensor.numpy() for tensor in results.values()], axis=0)) == 40


@pytest.mark.parametrize("seed", [{}, {"seed": 4.0}])
def test_iterations_of_a_loop_draw_different_numbers(seed):
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["condition"], ["go_on"]),
            helper.make_node("RandomNormal", [], ["drawn"], shape=[50], **seed),
        ],
        "body",
        [
            helper.make_tensor_value_info("number", onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info("condition", onnx.TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info("go_on", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("drawn", onnx.TensorProto.FLOAT, [50]),
        ],
    )
    inputs = {"count": np.array(4, np.int64)}
    (result,) = runs([helper.make_node("Loop", ["count", ""], ["y"], body=body)], inputs, 1)
    assert result["y"].shape == (4, 50)
    assert len(np.unique(result["y"], axis=0)) == 4


def test_stages_of_a_run_share_their_numbers():
    """What a stage asks for and what a later one computes hang on the same draw."""
    nodes = [
        helper.make_node("RandomUniform", [], ["drawn"], shape=[40]),
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        helper.make_node("Greater", ["drawn", "half"], ["large"]),
        helper.make_node("Compress", ["drawn", "large"], ["picked"], axis=0),
        helper.make_node("RandomUniformLike", ["picked"], ["other"]),
    ]
    for result in runs(nodes, {}, 3, ("drawn", "picked", "other")):
        assert np.array_equal(result["picked"], result["drawn"][result["drawn"] > 0.5])
        assert result["other"].shape == result["picked"].shape
        assert not np.array_equal(result["other"], result["picked"])
