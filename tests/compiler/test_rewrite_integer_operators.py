"""Graphs between DequantizeLinear and QuantizeLinear: which operators they become, with the same meaning."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxplan
from onnxplan.compiler.evaluate import evaluate_program
from onnxplan.compiler.importer import load_model
from onnxplan.compiler.lowering import lower
from onnxplan.compiler.rewrites.integer_operators import integer_operators

SIGNED, UNSIGNED = np.int8, np.uint8


class Pattern:
    """A graph being written. Inputs ``x0, x1, ...`` are float32, quantised at once."""

    def __init__(self, *shapes, dtype=UNSIGNED, scale=0.02):
        self.random = np.random.default_rng([7, *map(len, shapes)])
        self.nodes, self.constants, self.outputs = [], [], []
        self.dtype, self.scale, self.shapes = dtype, scale, shapes
        self.reals = [self.dequantized(self.quantized(f"x{i}")) for i in range(len(shapes))]

    def constant(self, array):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, op_type, *inputs, outputs=1, **attributes):
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def parameters(self, scale=None, zero=None, dtype=None):
        dtype = dtype or self.dtype
        scale = self.scale if scale is None else scale
        zero = (13 if dtype is UNSIGNED else -7) if zero is None else zero
        return self.constant(np.float32(scale)), self.constant(np.asarray(zero).astype(dtype))

    def quantized(self, real, **parameters):
        return self.node("QuantizeLinear", real, *self.parameters(**parameters))

    def dequantized(self, numbers, **parameters):
        return self.node("DequantizeLinear", numbers, *self.parameters(**parameters))

    def weights(self, *shape, dtype=SIGNED, axis=None, zero=0):
        """Of each channel along ``axis``, if that is given."""
        limits = np.iinfo(dtype)
        numbers = self.constant(self.random.integers(limits.min, limits.max, shape, dtype, endpoint=True))
        count = () if axis is None else (shape[axis],)
        scale = self.random.uniform(0.001, 0.01, count).astype(np.float32)
        zeros = np.full(count, zero, dtype)
        inputs = (numbers, self.constant(scale), self.constant(zeros))
        self.unit = scale * np.float32(self.scale)
        return self.node("DequantizeLinear", *inputs, **({} if axis is None else {"axis": axis}))

    def bias(self, size):
        """In the unit of the sums by the last weights."""
        numbers = self.constant(self.random.integers(-900, 900, size, np.int32))
        unit = np.broadcast_to(self.unit, size).astype(np.float32)
        inputs = (numbers, self.constant(unit), self.constant(np.zeros(size, np.int32)))
        return self.node("DequantizeLinear", *inputs, axis=0)

    def model(self, *outputs, opset=20):
        inputs = [
            helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, shape)
            for i, shape in enumerate(self.shapes)
        ]
        shown = [helper.make_empty_tensor_value_info(name) for name in outputs]
        graph = helper.make_graph(self.nodes, "pattern", inputs, shown, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)

    def feeds(self):
        return {
            f"x{i}": self.random.uniform(-2, 3, shape).astype(np.float32)
            for i, shape in enumerate(self.shapes)
        }


def evaluated(model, feeds):
    stage = lower(model, {name: array.shape for name, array in feeds.items()})
    return evaluate_program(stage.program, feeds)


def check(pattern, *outputs, kept=(), became=(), opset=20):
    """Rewrites the pattern; operators ``became`` must be there afterwards, ``kept`` too, products must not.

    Integers differ by one at most, in one of 50 elements; floats by a rounding.
    """
    model = load_model(pattern.model(*outputs, opset=opset))
    feeds = pattern.feeds()
    before = [node.op_type for node in model.graph.nodes]
    expected = evaluated(model, feeds)
    rewritten = integer_operators(model)
    assert [node.op_type for node in model.graph.nodes] == before
    found = evaluated(rewritten, feeds)
    assert found.keys() == expected.keys()
    for name, right in expected.items():
        assert found[name].dtype == right.dtype
        assert found[name].shape == right.shape
        if right.dtype.kind == "f":
            np.testing.assert_allclose(found[name], right, 1e-4, 1e-5)
        else:
            distance = np.abs(found[name].astype(int) - right.astype(int))
            assert distance.max(initial=0) <= 1
            assert np.count_nonzero(distance) <= 1 + distance.size // 50
    types = [node.op_type for node in rewritten.graph.nodes]
    for op_type in (*became, *kept):
        assert op_type in types, types
    if became:
        assert not set(types) & {"Conv", "MatMul", "Gemm"} - set(kept), types
    return types


@pytest.mark.parametrize("dtype", [UNSIGNED, SIGNED])
@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("biased", ["", "int32", "float32"])
def test_convolution(dtype, axis, biased):
    p = Pattern((1, 4, 6, 6), dtype=dtype)
    inputs = [p.reals[0], p.weights(6, 2, 3, 3, axis=axis)]
    if biased:
        inputs.append(p.bias(6) if biased == "int32" else p.constant(p.random.uniform(-1, 1, 6).astype("f4")))
    y = p.node("Conv", *inputs, group=2, pads=[1, 0, 1, 0], strides=[1, 2])
    assert "QuantizeLinear" in check(p, p.quantized(y, scale=0.05), became=["QLinearConv"])


def test_weights_of_unsigned_bytes():
    p = Pattern((1, 4, 6, 6))
    y = p.node("Conv", p.reals[0], p.weights(6, 4, 3, 3, dtype=UNSIGNED, zero=131))
    check(p, p.quantized(y, scale=0.1), became=["QLinearConv"])


@pytest.mark.parametrize("follower", ["Relu", "Clip", "Sigmoid", "none", "shown", "read twice"])
def test_convolution_whose_result_is_not_just_quantised(follower):
    p = Pattern((1, 4, 6, 6))
    y = p.node("Conv", p.reals[0], p.weights(6, 4, 3, 3, axis=0), p.bias(6))
    if follower == "none":
        check(p, y, became=["ConvInteger"])
        return
    if follower == "Clip":
        y = p.node("Clip", y, p.constant(np.float32(0)), p.constant(np.float32(1.5)))
    elif follower in ("Relu", "Sigmoid"):
        y = p.node(follower, y)
    # A zero point of 13 leaves room below 0, so that Relu does something.
    outputs = [p.quantized(y, scale=0.05)]
    if follower == "shown":
        outputs.append(y)
    elif follower == "read twice":
        outputs.append(p.node("Exp", y))
    check(p, *outputs, became=["ConvInteger"])


@pytest.mark.parametrize(("dtype", "zero"), [(UNSIGNED, 0), (SIGNED, -128)])
@pytest.mark.parametrize("follower", ["Relu", "Clip"])
def test_saturation_is_a_relu(dtype, zero, follower):
    p = Pattern((1, 4, 6, 6), dtype=dtype)
    y = p.node("Conv", p.reals[0], p.weights(6, 4, 3, 3))
    bounds = [] if follower == "Relu" else [p.constant(np.float32(0)), p.constant(np.float32(6))]
    y = p.node(follower, y, *bounds)
    types = check(p, p.quantized(y, scale=6 / 255, zero=zero), became=["QLinearConv"])
    assert follower not in types


@pytest.mark.parametrize("shapes", [((2, 3, 8),), ((2, 3, 8), (2, 8, 4)), ((8,),)])
@pytest.mark.parametrize("quantized", [True, False])
def test_matrix_product(shapes, quantized):
    p = Pattern(*shapes)
    right = p.reals[1] if len(shapes) > 1 else p.weights(8, 4, axis=1)
    y = p.node("MatMul", p.reals[0], right)
    if quantized:
        check(p, p.quantized(y, scale=0.1), became=["QLinearMatMul"])
    else:
        check(p, p.node("Relu", y), became=["MatMulIntegerToFloat"])


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("biased", ["", "int32", "float32", "matrix"])
@pytest.mark.parametrize("factors", [{}, {"alpha": 0.5}, {"beta": 0.5}])
def test_general_product(transposed, biased, factors):
    p = Pattern((3, 8))
    shape = (4, 8) if transposed else (8, 4)
    inputs = [p.reals[0], p.weights(*shape, axis=1 - transposed)]
    if biased == "int32":
        inputs.append(p.bias(4))
    elif biased:
        extents = 4 if biased == "float32" else (3, 4)
        inputs.append(p.constant(p.random.uniform(-1, 1, extents).astype("f4")))
    y = p.node("Gemm", *inputs, transB=transposed, **factors)
    check(p, p.quantized(y, scale=0.1), p.quantized(p.reals[0]), became=["QGemm"])


def test_scales_along_another_axis_stay():
    p = Pattern((3, 8))
    check(p, p.quantized(p.node("MatMul", p.reals[0], p.weights(8, 4, axis=0))), kept=["MatMul"])
    p = Pattern((1, 4, 6, 6))
    check(p, p.quantized(p.node("Conv", p.reals[0], p.weights(6, 4, 3, 3, axis=1))), kept=["Conv"])


def test_sums_that_leave_32_bits_stay():
    p = Pattern((1, 40_000), scale=0.02)
    y = p.node("MatMul", p.reals[0], p.weights(40_000, 1, dtype=UNSIGNED))
    check(p, p.quantized(y, scale=9.0), kept=["MatMul"])


def test_coarse_biases_stay_real():
    p = Pattern((3, 8), scale=0.5)
    bias = p.constant(p.random.uniform(-1, 1, 4).astype("f4"))
    y = p.node("Gemm", p.reals[0], p.weights(8, 4), bias)
    # A unit of the sums is larger than a quantum of the result.
    check(p, p.quantized(y, scale=0.001), became=["QGemm", "Add"])


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize(
    ("op_type", "more", "attributes"),
    [
        ("MaxPool", [], {"kernel_shape": [2, 2], "pads": [1, 1, 0, 0]}),
        ("Transpose", [], {"perm": [0, 2, 3, 1]}),
        ("Reshape", [np.array([4, -1])], {}),
        ("Slice", [np.array([1]), np.array([3]), np.array([2])], {}),
        ("Gather", [np.array([2, 0])], {"axis": 1}),
        ("Flatten", [], {}),
    ],
)
def test_moves_are_of_bytes(op_type, more, attributes, same):
    p = Pattern((2, 4, 6, 6))
    y = p.node(op_type, p.reals[0], *map(p.constant, more), **attributes)
    types = check(p, p.quantized(y, **({} if same else {"scale": 0.013})), kept=[op_type])
    assert types.count("DequantizeLinear") == (0 if same else 1)


def test_positions_of_maxima_are_left_alone():
    p = Pattern((2, 4, 6, 6))
    y, positions = p.node("MaxPool", p.reals[0], outputs=2, kernel_shape=[2, 2])
    check(p, p.quantized(y), positions, kept=["DequantizeLinear"])


def test_split():
    p = Pattern((2, 6))
    parts = p.node("Split", p.reals[0], outputs=2, axis=1, num_outputs=2)
    types = check(p, p.quantized(parts[0]), p.quantized(p.node("Exp", parts[1]), scale=0.1))
    assert types.index("Split") < types.index("DequantizeLinear")


@pytest.mark.parametrize("same", [True, False])
def test_concatenation(same):
    p = Pattern((2, 3), (2, 4))
    second = p.reals[1] if same else p.dequantized(p.quantized("x1", scale=0.03), scale=0.03)
    y = p.quantized(p.node("Concat", p.reals[0], second, axis=1))
    check(p, y, kept=["Concat" if same else "QLinearConcat"])


@pytest.mark.parametrize(
    ("op_type", "attributes"),
    [
        ("Add", {}),
        ("Mul", {}),
        ("Sigmoid", {}),
        ("LeakyRelu", {"alpha": 0.2}),
        ("Softmax", {"axis": 1}),
        ("Relu", {}),
        ("AveragePool", {"kernel_shape": [2, 2]}),
        ("GlobalAveragePool", {}),
    ],
)
def test_elementwise_operators_and_reductions_are_fused_by_passes(op_type, attributes):
    """They stay as they are in the graph; where nothing is pooled, one step reads bytes and writes bytes."""
    p = Pattern((1, 4, 6, 6))
    reals = p.reals * (2 if op_type in ("Add", "Mul") else 1)
    y = p.quantized(p.node(op_type, *reals, **attributes), scale=0.01)
    check(p, y, kept=[op_type])
    with onnxplan.InferenceSession(p.model(y), threads=1) as session:
        steps = session.plan({"x0": (1, 4, 6, 6)}).steps
    assert len(steps) <= (3 if "Average" in op_type else 1)


def test_bytes_quantised_again_stay_as_they_are():
    p = Pattern((2, 3))
    again = p.quantized(p.dequantized(p.quantized(p.reals[0])))
    types = check(p, again)
    assert types == ["QuantizeLinear", "Identity"]
    # Another scale, another type.
    p = Pattern((2, 3))
    check(
        p,
        p.quantized(p.reals[0], scale=0.03),
        p.quantized(p.reals[0], dtype=SIGNED),
        kept=["DequantizeLinear"],
    )


def test_shared_values():
    """One dequantisation with several readers, a float-only one among them; weights read by two products."""
    p = Pattern((1, 4, 6, 6))
    weights = p.weights(4, 4, 1, 1, axis=0)
    first = p.dequantized(p.quantized(p.node("Conv", p.reals[0], weights)))
    second = p.quantized(p.node("Conv", first, weights), scale=0.05)
    norm = p.node("Exp", first)
    types = check(p, second, norm, p.node("Exp", weights), first, became=["QLinearConv"])
    assert types.count("QLinearConv") == 2


def test_branches():
    """A branch reads dequantised values of the graph around it, and what that no longer computes."""
    p = Pattern((2, 8))
    again = p.quantized(p.reals[0])
    weights = p.weights(8, 4)
    inner = helper.make_graph(
        [
            helper.make_node("MatMul", [p.reals[0], weights], ["product"]),
            helper.make_node("QuantizeLinear", ["product", *p.parameters(scale=0.1)], ["inner"]),
            helper.make_node("DequantizeLinear", [again, *p.parameters()], ["outer"]),
        ],
        "then",
        [],
        [helper.make_empty_tensor_value_info(name) for name in ("inner", "outer")],
    )
    other = helper.make_graph(
        [
            helper.make_node("Identity", [again], ["a"]),
            helper.make_node("Identity", [p.reals[0]], ["b"]),
        ],
        "else",
        [],
        [helper.make_empty_tensor_value_info(name) for name in ("a", "b")],
    )
    for condition in (True, False):
        p.nodes.append(
            helper.make_node(
                "If",
                [p.constant(condition)],
                [f"{condition}0", f"{condition}1"],
                then_branch=inner,
                else_branch=other,
            )
        )
    check(p, "True0", "True1", "False0", "False1", again)


def test_constants_that_nodes_return():
    p = Pattern((2, 8))
    scale = helper.make_node("Constant", [], ["s"], value=numpy_helper.from_array(np.float32(0.1)))
    zero = helper.make_node("Constant", [], ["z"], value=numpy_helper.from_array(np.int8(3)))
    p.nodes[:0] = [scale, zero]
    y = p.node("QuantizeLinear", p.node("MatMul", p.reals[0], p.weights(8, 4)), "s", "z")
    check(p, y, became=["QLinearMatMul"])


@pytest.mark.parametrize("what", ["a scale that is fed", "float16", "int16", "blocks"])
def test_what_kernels_do_not_take_stays(what):
    p = Pattern((2, 8), (1,))
    x, weights = p.reals[0], p.weights(8, 4)
    if what == "a scale that is fed":
        scale = p.node("Abs", "x1")
        x = p.node("DequantizeLinear", p.quantized("x0"), p.node("Squeeze", scale), p.parameters()[1])
    elif what == "float16":
        small = p.constant(np.float16(0.02))
        x = p.node("DequantizeLinear", p.quantized("x0"), small, p.parameters()[1])
        weights = p.constant(np.ones((8, 4), np.float16))
    elif what == "int16":
        x = p.dequantized(p.quantized("x0", dtype=np.int16), dtype=np.int16)
    else:
        blocks = p.constant(np.ones((2, 4), np.float32))
        numbers = p.constant(np.ones((8, 4), np.int8))
        weights = p.node("DequantizeLinear", numbers, blocks, axis=0, block_size=4)
    check(p, p.node("MatMul", x, weights), kept=["MatMul"], opset=21)


def test_without_optimisation_nothing_is_rewritten():
    p = Pattern((1, 4, 6, 6))
    y = p.node("Conv", p.reals[0], p.weights(6, 4, 3, 3), p.bias(6))
    model = p.model(p.quantized(y, scale=0.05))
    for optimize, real in ((0, True), (1, False)):
        with onnxplan.InferenceSession(model, threads=1, optimize=optimize) as session:
            plan = session.plan({"x0": (1, 4, 6, 6)})
            (product,) = (step for step in plan.steps if "conv" in step.kernel.family)
            assert product.operands[0].dtype.is_float is real
            assert len(session.run_sync(p.feeds())) == 1
