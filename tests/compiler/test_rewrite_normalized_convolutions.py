"""Convolutions and the BatchNormalization behind them: which become one operator; plans stay the same."""

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxplan.compiler.constant_pool import ConstantPool
from onnxplan.compiler.evaluate import evaluate_program
from onnxplan.compiler.importer import load_model
from onnxplan.compiler.lowering import lower
from onnxplan.compiler.pipeline import compile_program
from onnxplan.compiler.repeated_nodes import RepeatedNodes
from onnxplan.compiler.rewrites.normalized_convolutions import OP_TYPE, normalized_convolutions
from onnxplan.kernels.cpu.registry import CpuKernels
from onnxplan.runtime.cpu.target import detect_target
from onnxplan.runtime.model_planner import ModelPlanner
from onnxplan.runtime.planner import Request
from tests.models.light_networks import softened, with_random_weights

SELECTOR = CpuKernels(detect_target(2))
CHANNELS = 5
BLOCK = "c = Conv(x, w)   n = BatchNormalization(c, scale, offset, average, variance)"
BIASED = BLOCK.replace("x, w", "x, w, bias")


def parsed(nodes, *, outputs="float[n, m, h, v] y", types="float", opset=17, inputs="", **constants):
    """A model of one image ``x`` with three channels; ``constants`` take the place of the usual ones."""
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}, "ai.onnx.preview.training": 1]> '
        f"net ({types}[n, 3, h, v] x{inputs}) => ({outputs}) {{ {nodes} }}"
    )
    for name, values in (usual_constants() | constants).items():
        if values is not None:
            dtype = {"float": np.float32, "float16": np.float16, "double": np.float64}[types]
            values = np.asarray(values) if name == "size" else np.asarray(values, dtype)
            proto.graph.initializer.append(numpy_helper.from_array(values, name))
    return load_model(proto)


def usual_constants():
    random = np.random.default_rng(0)
    names = ("scale", "offset", "average", "variance", "bias")
    found = {name: random.uniform(0.5, 1.5, CHANNELS) for name in names}
    return found | {
        "w": random.standard_normal((CHANNELS, 3, 3, 3)),
        "w2": random.standard_normal((CHANNELS, 3, 3, 3)),
        "w3": random.standard_normal((CHANNELS, 3, 3, 3)),
        "ones": np.ones(CHANNELS),
        "zeros": np.zeros(CHANNELS),
        "half": np.full((CHANNELS, 1, 1), 0.5),
        "size": np.array([1, CHANNELS, -1], np.int64),
    }


def operators(model):
    return [node.op_type for node in model.graph.nodes]


def evaluated(model, x):
    return evaluate_program(lower(model, {"x": x.shape}).program, {"x": x})


def image(*shape, dtype=np.float32):
    return np.random.default_rng(1).standard_normal(shape).astype(dtype)


def planned(model, shapes, pool):
    return compile_program(lower(model, shapes, pool=pool).program, SELECTOR, pool)


def check_same(found, expected):
    """The same kernels do the same with the same constants. Names of storages may differ."""
    assert [step.kernel for step in found.plan.steps] == [step.kernel for step in expected.plan.steps]
    assert [step.tiles for step in found.plan.steps] == [step.tiles for step in expected.plan.steps]
    assert found.plan.arena_bytes == expected.plan.arena_bytes
    for one, other in zip(found.constants, expected.constants, strict=True):
        np.testing.assert_array_equal(one, other)


def check_plans(model, many_shapes, *, nodes=True):
    """Plans of the model and of what it becomes are the same; each shares a pool with those before.

    ``nodes`` says whether steps are of the same nodes, too.
    """
    rewritten = normalized_convolutions(model)
    assert OP_TYPE in operators(rewritten)
    own, other = ConstantPool(), ConstantPool()
    for shapes in many_shapes:
        found, expected = planned(rewritten, shapes, own), planned(model, shapes, other)
        check_same(found, expected)
        assert not nodes or str(found.plan) == str(expected.plan)


@pytest.mark.parametrize("block", [BLOCK, BIASED])
def test_two_nodes_become_one(block):
    model = parsed(f"{block}   y = Relu(n)")
    before = operators(model)
    rewritten = normalized_convolutions(model)
    assert operators(model) == before
    assert operators(rewritten) == [OP_TYPE, "Relu"]
    node = rewritten.graph.nodes[0]
    assert node.labels == ("c", "n")
    program = lower(rewritten, {"x": (1, 3, 6, 7)}).program
    assert str(program.operations[0]) == (
        "%2:float32[1, 4, 5, 5] = conv[strides=1x1, dilations=1x1, pads=0x0, groups=1, accumulator=float32, "
        "epilogue=add(x0, x1)](x:float32[1, 6, 7, 3]@0[126, 7, 1, 42], w:scaled:float32[3, 3, 3, 5], "
        "w:shift:float32[1, 4, 5, 5]@0[0, 0, 0, 1])"
    )
    assert [operation.nodes for operation in program.operations] == [("c", "n"), ("y",)]
    check_plans(model, [{"x": (n, 3, 9, 8)} for n in (1, 3, 2, 1)])


@pytest.mark.parametrize(
    "tail",
    [
        "s = Sigmoid(n)   y = Mul(n, s)",
        "d = Conv(x, w2)   e = BatchNormalization(d, scale, offset, average, variance)   y = Add(n, e)",
        "d = Conv(x, w2)   y = Sub(d, n)",
        "r = Relu(n)   y = Mul(r, half)",
    ],
)
def test_what_follows_may_be_any_function_or_sum_of_computed_values(tail):
    check_plans(parsed(f"{BIASED}   {tail}"), [{"x": (1, 3, 9, 8)}, {"x": (4, 3, 5, 5)}])


@pytest.mark.parametrize("name", ["resnet50", "shufflenet"])
def test_plans_of_networks(name):
    model = load_model(softened(with_random_weights(name)))
    shapes = {value.name: value.type.shape for value in model.graph.inputs if value.default is None}
    check_plans(model, [shapes])


@pytest.mark.parametrize(
    ("nodes", "options"),
    [
        ("y = Relu(n)   z = Relu(c)", {"outputs": "float[n, m, h, v] y, float[n, m, h, v] z"}),
        ("y = Relu(n)", {"outputs": "float[n, m, h, v] y, float[n, m, h, v] c"}),
        ("y = Relu(n)", {"outputs": "float[n, m, h, v] y, float[n, m, h, v] n"}),
        ("y = Mul(n, half)", {}),
        ("y = Sub(half, n)", {}),
        ("f = Relu(half)   y = Div(n, f)", {}),
        ("y = Reshape(n, size)", {"outputs": "float[n, m, h] y"}),
        ("r = Relu(n)   k = Identity(n)   y = Add(r, k)", {}),
        ("y = Relu(n)", {"inputs": f", float[{CHANNELS}] scale", "scale": None}),
        ("y = Relu(n)", {"inputs": f", float[{CHANNELS}, 3, 3, 3] w"}),
        ("y = Relu(n)", {"scale": np.ones(CHANNELS + 1)}),
        (
            "yes = ReduceMax<keepdims = 0>(x)   one = Greater(yes, yes)   "
            "y = If<then_branch = a () => (float[n, m, h, v] p) { p = Relu(c) },"
            " else_branch = b () => (float[n, m, h, v] q) { q = Relu(n) }>(one)",
            {},
        ),
    ],
)
def test_what_others_see_or_could_fold_stays(nodes, options):
    model = parsed(f"{BLOCK}   {nodes}", **options)
    assert normalized_convolutions(model) is model


def test_a_gradient_names_what_is_between():
    gradient = 'g = ai.onnx.preview.training.Gradient<xs = ["x"], y = "c">(x)'
    model = parsed(f"{BLOCK}   y = Relu(n)   {gradient}", outputs="float[n, m, h, v] y, float[n, 3, h, v] g")
    assert normalized_convolutions(model) is model
    assert evaluated(model, image(1, 3, 5, 5)).keys() == {"y", "g"}


def test_training_stays():
    block = BLOCK.replace("n = BatchNormalization", "n, m, v = BatchNormalization<training_mode = 1>")
    model = parsed(f"{block}   y = Relu(n)")
    assert normalized_convolutions(model) is model


@pytest.mark.parametrize("types", ["float", "double", "float16"])
@pytest.mark.parametrize("block", [BLOCK, BIASED])
@pytest.mark.parametrize("opset", [7, 9, 14, 17])
def test_results(types, block, opset):
    model = parsed(f"{block}   y = Relu(n)", types=types, outputs=f"{types}[n, m, h, v] y", opset=opset)
    dtype = {"float": np.float32, "float16": np.float16, "double": np.float64}[types]
    x = image(2, 3, 7, 5, dtype=dtype)
    rewritten = normalized_convolutions(model)
    assert OP_TYPE in operators(rewritten)
    tolerance = {"float": 1e-5, "double": 1e-12, "float16": 2e-2}[types]
    expected, found = evaluated(model, x)["y"], evaluated(rewritten, x)["y"]
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, tolerance, tolerance * 10)


@pytest.mark.parametrize(
    "constants",
    [
        {"variance": np.full(CHANNELS, 1e-38), "scale": np.full(CHANNELS, 3e38)},
        {"variance": np.full(CHANNELS, -1.0)},
        {"scale": np.ones(CHANNELS), "variance": np.full(CHANNELS, 1 - 2**-17)},
        {"offset": np.zeros(CHANNELS), "average": np.zeros(CHANNELS)},
    ],
    ids=["overflow", "nan", "weights that stay", "no shift"],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_parameters_that_are_special(constants):
    """Also beside a convolution that is alike in all but its parameters."""
    twin = (
        "   d = Conv(x, w2)   e = BatchNormalization<epsilon = 7.63e-06>(d, scale, offset, average, variance)"
    )
    usual = "   g = Conv(x, w3)   i = BatchNormalization<epsilon = 7.63e-06>(g, half_, half_, half_, half_)"
    block = BLOCK.replace("BatchNormalization", "BatchNormalization<epsilon = 7.63e-06>")
    nodes = f"{block}{twin}{usual}   j = Add(n, e)   k = Relu(j)   y = Add(k, i)"
    check_plans(
        parsed(nodes, half_=np.full(CHANNELS, 0.5), **constants), [{"x": (1, 3, 9, 8)}] * 2, nodes=False
    )


def test_nodes_that_are_alike_are_lowered_as_if_apart(monkeypatch):
    """Large weights, which are in no key: some are scaled, some stay, some overflow."""
    random = np.random.default_rng(3)
    nodes, constants = [], {}
    for number, scale in enumerate([0.5, 1, 2, 3e38, 1, 0.25]):
        nodes.append(f"c{number} = Conv(x, w{number})")
        nodes.append(
            f"n{number} = BatchNormalization<epsilon = 0.0>(c{number}, s{number}, zeros, zeros, v{number})"
        )
        nodes.append(f"r{number} = Relu(n{number})")
        constants[f"w{number}"] = random.standard_normal((70, 3, 1, 1))
        constants[f"s{number}"] = np.full(70, scale)
        constants[f"v{number}"] = np.full(70, 1e-30 if scale > 3 else 1.0)
    constants["zeros"] = np.zeros(70)
    model = parsed("   ".join([*nodes, f"y = Sum({', '.join(f'r{n}' for n in range(6))})"]), **constants)
    rewritten = normalized_convolutions(model)
    assert operators(rewritten).count(OP_TYPE) == 6
    shapes = {"x": (2, 3, 4, 4)}
    together = planned(rewritten, shapes, ConstantPool())
    with monkeypatch.context() as patch:
        patch.setattr(RepeatedNodes, "key", staticmethod(lambda node, inputs: None))
        apart = planned(rewritten, shapes, ConstantPool())
    check_same(together, apart)
    check_plans(model, [shapes], nodes=False)


def test_weights_are_folded_once_for_all_plans():
    pool = ConstantPool()
    rewritten = normalized_convolutions(parsed(f"{BIASED}   y = Relu(n)"))
    programs = [lower(rewritten, {"x": (n, 3, 8, 8)}, pool=pool).program for n in (1, 2)]
    one, other = (program.operations[0].inputs[1].storage for program in programs)
    assert one is other


def test_folded_weights_take_no_room_among_what_is_recalled():
    """They are computed when they are read, and many of them must not keep others from being recalled."""
    pool = ConstantPool()
    weights = np.ones((512, 3, 32, 32))
    names = {name: np.full(512, 0.5) for name in ("scale", "offset", "average", "variance")}
    rewritten = normalized_convolutions(parsed(f"{BLOCK}   y = Relu(n)", w=weights, **names))
    program = lower(rewritten, {"x": (1, 3, 32, 32)}, pool=pool).program
    assert program.operations[0].inputs[1].storage.constant is None
    assert pool._recalled_bytes < 64 << 10


def test_a_constant_image_is_evaluated():
    model = parsed(f"{BIASED.replace('(x, w', '(k, w')}   r = Relu(n)   y = Mul(r, x)", k=image(1, 3, 5, 5))
    rewritten = normalized_convolutions(model)
    x = image(1, 3, 3, 3)[:, :1]
    assert operators(rewritten) == [OP_TYPE, "Relu", "Mul"]
    np.testing.assert_allclose(evaluated(rewritten, x)["y"], evaluated(model, x)["y"], 1e-5, 1e-5)


def test_nothing_is_joined_without_optimisation():
    model = parsed(f"{BLOCK}   y = Relu(n)")
    request = Request(("x",), ((1, 3, 8, 8),))
    steps = [
        len(ModelPlanner(model, SELECTOR, optimize=level).plan(request, ()).compiled.plan.steps)
        for level in (0, 1)
    ]
    assert steps == [5, 3]


def test_origins_name_both_nodes():
    model = parsed(f"{BLOCK}   y = Relu(n)")
    found = ModelPlanner(model, SELECTOR).origins(Request(("x",), ((1, 3, 8, 8),)), ())
    assert [origin.label for origin in found] == ["c", "n", "y"]
