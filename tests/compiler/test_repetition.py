"""Plans are the same whether what is alike is compiled once or each for itself."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import onnx.compose
import onnx.helper
import onnx.numpy_helper
import onnx.parser
import pytest
from onnx.backend.test.loader import load_model_tests

from onnxplan.compiler.alike import SMALL_SIZE, key_of
from onnxplan.compiler.builder import Builder
from onnxplan.compiler.constant_pool import ConstantPool
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import OnnxPlanError
from onnxplan.compiler.importer import load_model
from onnxplan.compiler.ir import Node, Value
from onnxplan.compiler.lowering import lower
from onnxplan.compiler.pipeline import compile_program
from onnxplan.compiler.repeated_nodes import RepeatedNodes
from onnxplan.compiler.repeated_steps import RepeatedSteps
from onnxplan.compiler.view import View
from onnxplan.kernels.cpu.registry import CpuKernels
from onnxplan.runtime.cpu.target import detect_target

SELECTOR = CpuKernels(detect_target(2))
PARTS = 4
PREFIX = "second_"


def lowered(model, shapes):
    """The program, or the error as text."""
    try:
        return lower(model, shapes, pool=ConstantPool()).program
    except OnnxPlanError as error:
        return f"{type(error).__name__}: {error}"


def planned(model, shapes):
    """The plan and its constants, or the error as text."""
    try:
        return compile_program(lowered(model, shapes), SELECTOR, ConstantPool())
    except OnnxPlanError as error:
        return f"{type(error).__name__}: {error}"


def check_same(model, shapes, monkeypatch, *, compiled=True):
    found = lowered(model, shapes)
    with monkeypatch.context() as patch:
        patch.setattr(RepeatedNodes, "key", staticmethod(lambda node, inputs: None))
        apart = lowered(model, shapes)
        check_same_program(found, apart)
        if not compiled or isinstance(found, str):
            return
        # Constants of nodes that are alike are one, so both plans are made of nodes lowered apart.
        found = planned(model, shapes)
        patch.setattr(RepeatedSteps, "key", staticmethod(lambda operation: None))
        apart = planned(model, shapes)
    if isinstance(found, str):
        assert found == apart
        return
    assert found.plan == apart.plan
    for one, other in zip(found.constants, apart.constants, strict=True):
        np.testing.assert_array_equal(one.view(np.uint8), other.view(np.uint8))


def check_same_program(found, apart):
    if isinstance(found, str):
        assert found == apart
        return
    assert list(found.inputs) == list(apart.inputs)
    assert {name: told(view) for name, view in found.outputs.items()} == {
        name: told(view) for name, view in apart.outputs.items()
    }
    for one, other in zip(found.operations, apart.operations, strict=True):
        assert one.primitive == other.primitive
        assert one.nodes == other.nodes
        assert list(map(told, one.views)) == list(map(told, other.views))


def told(view):
    """All that matters of a view. Names of constants do not: those of nodes that are alike are one."""
    what = view.numpy().tobytes() if view.is_constant else view.storage.name
    return what, view.dtype, view.storage.size, view.layout


@pytest.fixture
def replays(monkeypatch):
    """Counts what is compiled again from patterns."""
    counts = {RepeatedNodes: 0, RepeatedSteps: 0}
    for kind in counts:

        def replay(self, *arguments, kind=kind, own=kind.replay):
            found = own(self, *arguments)
            counts[kind] += found is not None and found is not False
            return found

        monkeypatch.setattr(kind, "replay", replay)
    return counts


def official_cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [case for case in load_model_tests(kind="node") if case.model is not None]


def is_tensor(value):
    return value.type.HasField("tensor_type")


def doubled(model, data, constant, random):
    """The model's nodes twice, on inputs of their own; large inputs numbered in ``constant`` as constants.

    Those of the first are other numbers than the second's.
    """
    second = onnx.compose.add_prefix(model, PREFIX)
    graph = onnx.GraphProto(name="both")
    for number, each in enumerate((model.graph, second.graph)):
        graph.node.extend(each.node)
        graph.output.extend(each.output)
        graph.initializer.extend(each.initializer)
        for position, value in enumerate(each.input):
            array = data[position]
            if position not in constant:
                graph.input.append(value)
                continue
            if number == 0 and array.dtype.kind == "f":
                array = random.permuted(array.reshape(-1)).reshape(array.shape)
            graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
    result = onnx.ModelProto()
    result.CopyFrom(model)
    result.graph.CopyFrom(graph)
    result.functions.extend(second.functions)
    shapes = {
        value.name: data[position].shape
        for each in (model.graph, second.graph)
        for position, value in enumerate(each.input)
        if position not in constant
    }
    return load_model(result.SerializeToString()), shapes


@pytest.mark.parametrize("part", range(PARTS))
def test_official_cases_twice_in_a_model(part, monkeypatch, replays):
    checked = 0
    random = np.random.default_rng(part)
    for case in official_cases()[part::PARTS]:
        if not all(map(is_tensor, [*case.model.graph.input, *case.model.graph.output])):
            continue
        for inputs, _ in case.data_sets[:1]:
            data = [np.asarray(array) for array in inputs]
            if len(data) != len(case.model.graph.input) or any(array.dtype.hasobject for array in data):
                continue
            constant = (range(0), range(1, len(data)), range(len(data)))[checked % 3]
            model, shapes = doubled(case.model, data, constant, random)
            check_same(model, shapes, monkeypatch, compiled=checked % 4 == 0)
            checked += 1
    assert checked > 300
    assert replays[RepeatedNodes] > 500
    assert replays[RepeatedSteps] > 50


def test_normalizations_of_other_parameters_derive_their_own(monkeypatch, replays):
    channels = 2 * SMALL_SIZE
    random = np.random.default_rng(0)
    nodes, initializers = [], []
    for layer in range(4):
        names = [f"{kind}{layer}" for kind in ("scale", "bias", "mean", "variance")]
        initializers += [
            onnx.numpy_helper.from_array(random.uniform(0.5, 2, channels).astype(np.float32), name)
            for name in names
        ]
        nodes.append(onnx.helper.make_node("BatchNormalization", [f"x{layer}", *names], [f"x{layer + 1}"]))
    tensor = onnx.helper.make_tensor_value_info
    shape = (1, channels, 3, 3)
    graph = onnx.helper.make_graph(
        nodes,
        "norms",
        [tensor("x0", 1, shape)],
        [tensor(f"x{layer + 1}", 1, shape) for layer in range(4)],
        initializers,
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 15)])
    check_same(load_model(proto.SerializeToString()), {"x0": shape}, monkeypatch)
    assert replays[RepeatedNodes] == 3


def test_weights_of_other_elements_are_packed_for_themselves(monkeypatch, replays):
    random = np.random.default_rng(0)
    weights = [random.standard_normal((32, 32)).astype(np.float32) for _ in range(3)]
    nodes = [onnx.helper.make_node("MatMul", [f"x{n}", f"w{n}"], [f"x{n + 1}"]) for n in range(3)]
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "products",
        [tensor("x0", 1, (8, 32))],
        [tensor("x3", 1, (8, 32))],
        [onnx.numpy_helper.from_array(each, f"w{n}") for n, each in enumerate(weights)],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 15)])
    check_same(load_model(proto.SerializeToString()), {"x0": (8, 32)}, monkeypatch)
    assert replays[RepeatedNodes] == 2
    assert replays[RepeatedSteps] >= 1


def test_small_constants_are_told_apart_by_their_elements():
    builder = Builder(ConstantPool())
    small = [builder.constant(np.full(SMALL_SIZE, value, np.int64)) for value in (1, 1, 2)]
    large = [builder.constant(np.full(SMALL_SIZE + 1, value, np.int64)) for value in (1, 2)]
    first, again, other = (key_of("op", [view]) for view in small)
    assert first == again
    assert first.parts != other.parts
    assert first.complete
    one, two = (key_of("op", [view]) for view in large)
    assert one == two
    assert not one.complete


def test_keys_tell_apart_what_rules_can():
    builder = Builder(ConstantPool())
    a, b = (builder.new(DType.FLOAT32, (4, 4)) for _ in range(2))
    base = key_of("op", [a, b])
    assert base == key_of("op", [b, a])
    for views in (
        [a, a],
        [a],
        [a, None],
        [a, b.transpose((1, 0))],
        [a, View(b.storage, 0, (4, 2), (4, 2))],
        [a, builder.constant(np.zeros((4, 4), np.float32))],
    ):
        assert key_of("op", views).parts != base.parts
    assert key_of("other", [a, b]).parts != base.parts


def test_nodes_of_equal_numbers_but_other_types_differ():
    def kind(**attributes):
        return Node("Op", "", 1, (), (Value("y"),), attributes).kind()

    kinds = [kind(alpha=value) for value in (0, 0.0, -0.0, "0", b"0", [0], [0.0], np.zeros(1))]
    assert len(set(kinds)) == len(kinds)
    assert kind(alpha=1.5) == kind(alpha=1.5)
    assert kind(alpha=np.zeros(1)) == kind(alpha=np.zeros(1))
    assert kind(alpha=np.zeros(1000)) is None
