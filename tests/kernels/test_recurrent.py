import numpy as np
import pytest
from harness import available_isas, is_cuda
from layouts import assert_close, laid_out, run, select

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.primitives import Recurrent
from onnxplan.compiler.view import Storage, View
from onnxplan.kernels.cpu.recurrent import PARAMETERS

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
DEFAULTS = {"lstm": ("Sigmoid", "Tanh", "Tanh"), "gru": ("Sigmoid", "Tanh"), "rnn": ("Tanh",)}
ACTIVATIONS = [
    "Relu",
    "Tanh",
    "Sigmoid",
    "Affine",
    "LeakyRelu",
    "ThresholdedRelu",
    "ScaledTanh",
    "HardSigmoid",
    "Elu",
    "Softsign",
    "Softplus",
]
# Steps, rows, hidden units.
SIZES = [(1, 1, 1), (5, 3, 7), (4, 8, 33), (3, 1, 70), (0, 2, 5), (6, 5, 16), (2, 13, 100)]
TOLERANCES = {DType.FLOAT16: 3e-3, DType.BFLOAT16: 2e-2, DType.FLOAT32: 2e-5, DType.FLOAT64: 1e-12}

pytestmark = pytest.mark.parametrize("isa", available_isas())


def recurrent(kind, *, reverse=False, activations=None, clip=None, input_forget=False, linear=False):
    names = activations or DEFAULTS[kind]
    return Recurrent(kind, reverse, tuple((name, 0.3, 0.7) for name in names), clip, input_forget, linear)


def operands(rng, primitive, dtype, size, layout="dense", *, constant=True, lengths=None):
    """Input and output views and the inputs' arrays; constant weights are stored transposed, as in ONNX."""
    steps, rows, hidden = size
    gates = GATES[primitive.kind]

    def random(*shape):
        return rng.normal(size=shape, scale=0.5).astype(dtype.numpy)

    weights = (rng.normal(size=(hidden, gates * hidden)) / np.sqrt(hidden)).astype(dtype.numpy)
    if lengths is None:
        lengths = rng.integers(0, steps + 1, rows)
    arrays = [random(steps, rows, gates * hidden), weights, random(rows, hidden), lengths.astype(np.int32)]
    if primitive.kind == "lstm":
        arrays += [random(rows, hidden), random(3, hidden)]
    if primitive.kind == "gru":
        arrays.append(random(hidden))
    inputs = [laid_out(DType.from_numpy(array.dtype), array.shape, layout, "x") for array in arrays]
    if constant:
        storage = Storage(dtype, weights.size, "r", np.ascontiguousarray(weights.T).reshape(-1), "r")
        inputs[1] = View(storage, 0, weights.shape, (1, hidden))
    shapes = [(steps, rows, hidden)] + [(rows, hidden)] * (2 if primitive.kind == "lstm" else 1)
    return inputs, [laid_out(dtype, shape, layout, "y") for shape in shapes], arrays


def check(isa, rng, primitive, dtype, size, layout="dense", *, constant=True, lengths=None):
    inputs, outputs, arrays = operands(
        rng, primitive, dtype, size, layout, constant=constant, lengths=lengths
    )
    found, expected = run(primitive, inputs, outputs, arrays, isa, rng)
    for have, want in zip(found, expected, strict=True):
        assert_close(have, want, TOLERANCES[dtype])


VARIANTS = [("lstm", False), ("gru", False), ("gru", True), ("rnn", False)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kind", "linear"), VARIANTS)
def test_sizes_and_directions(isa, kind, linear, size):
    rng = np.random.default_rng(1)
    for reverse in (False, True):
        check(isa, rng, recurrent(kind, reverse=reverse, linear=linear), DType.FLOAT32, size)


@pytest.mark.parametrize("layout", ["permuted", "gaps", "holes", "reversed"])
@pytest.mark.parametrize(("kind", "linear"), VARIANTS)
def test_strides_and_weights_known_only_at_run_time(isa, kind, linear, layout):
    rng = np.random.default_rng(2)
    primitive = recurrent(kind, linear=linear)
    check(isa, rng, primitive, DType.FLOAT32, (4, 3, 21), layout, constant=False)


@pytest.mark.parametrize("dtype", [DType.FLOAT64, DType.FLOAT16, DType.BFLOAT16])
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_element_types(isa, kind, dtype):
    rng = np.random.default_rng(3)
    for constant in (True, False):
        check(isa, rng, recurrent(kind), dtype, (4, 3, 21), constant=constant)


@pytest.mark.parametrize(("kind", "linear"), VARIANTS)
def test_options(isa, kind, linear):
    rng = np.random.default_rng(4)
    check(isa, rng, recurrent(kind, linear=linear, clip=0.3), DType.FLOAT32, (4, 3, 21))
    if kind == "lstm":
        check(isa, rng, recurrent(kind, input_forget=True), DType.FLOAT32, (4, 3, 21))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(isa, activation):
    rng = np.random.default_rng(5)
    for dtype in (DType.FLOAT32, DType.FLOAT64):
        check(isa, rng, recurrent("rnn", activations=(activation,)), dtype, (4, 3, 21))


def test_unknown_activations_are_refused(isa):
    with pytest.raises(KeyError, match="Swish"):
        check(
            isa, np.random.default_rng(6), recurrent("rnn", activations=("Swish",)), DType.FLOAT32, (1, 1, 1)
        )


@pytest.mark.parametrize(("kind", "linear"), VARIANTS)
def test_large_weights_are_shared_step_by_step(isa, kind, linear):
    rng = np.random.default_rng(7)
    hidden = {"lstm": 140, "gru": 170, "rnn": 300}[kind]
    primitive = recurrent(kind, linear=linear)
    for rows in (1, 3):
        check(isa, rng, primitive, DType.FLOAT32, (5, rows, hidden), lengths=np.arange(5, 5 - rows, -1))
        reverse = recurrent(kind, reverse=True, linear=linear)
        check(isa, rng, reverse, DType.FLOAT32, (5, rows, hidden), lengths=np.arange(3, 3 - rows, -1))
    inputs, outputs, _ = operands(rng, primitive, DType.FLOAT32, (5, 1, hidden))
    steps = select(primitive, inputs, outputs, isa)
    assert len(steps) > 5
    assert max(step.tiles for step in steps) > 1
    assert len({step.kernel for step in steps}) == 1


@pytest.mark.parametrize(("kind", "linear"), VARIANTS)
def test_threads_keep_their_share_of_the_weights(isa, kind, linear):
    """Where the tiles of a step are as many for each thread, they go back and forth in groups."""
    rng = np.random.default_rng(11)
    hidden = {"lstm": 250, "gru": 250, "rnn": 380}[kind]
    primitive = recurrent(kind, linear=linear)
    check(isa, rng, primitive, DType.FLOAT32, (5, 3, hidden))
    if is_cuda(isa):
        return
    inputs, outputs, _ = operands(rng, primitive, DType.FLOAT32, (5, 1, hidden))
    steps = select(primitive, inputs, outputs, isa)
    groups = {step.parameters[PARAMETERS.index("group")] for step in steps if step.tiles > 1}
    assert groups == {2}


@pytest.mark.parametrize(("kind", "linear"), VARIANTS)
def test_many_rows(isa, kind, linear):
    """So many that rows share blocks, with small weights and with large ones."""
    rng = np.random.default_rng(9)
    check(isa, rng, recurrent(kind, linear=linear), DType.FLOAT32, (2, 301, 5))
    check(isa, rng, recurrent(kind, linear=linear, reverse=True), DType.FLOAT64, (2, 37, 150))


def test_long_sequences_with_large_weights(isa):
    rng = np.random.default_rng(10)
    check(isa, rng, recurrent("rnn"), DType.FLOAT32, (520, 1, 260))


def test_not_a_number_stays_in_its_row(isa):
    rng = np.random.default_rng(8)
    primitive = recurrent("lstm")
    inputs, outputs, arrays = operands(rng, primitive, DType.FLOAT32, (4, 3, 21), lengths=np.full(3, 4))
    arrays[0][1, 1, 5] = np.nan
    arrays[0][2, 0, 2] = np.inf
    found, expected = run(primitive, inputs, outputs, arrays, isa, rng)
    for have, want in zip(found, expected, strict=True):
        assert_close(have, want, 2e-5)
    assert np.isfinite(found[0][:, 2]).all()


def test_integers_are_refused(isa):
    views = [laid_out(DType.INT32, shape) for shape in [(1, 1, 1), (1, 1), (1, 1), (1,)]]
    results = [laid_out(DType.INT32, shape) for shape in [(1, 1, 1), (1, 1)]]
    with pytest.raises(NotImplementedError, match="recurrent rnn of int32"):
        select(recurrent("rnn"), views, results, isa)
