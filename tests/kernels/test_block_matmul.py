"""Products by weights quantised in blocks, against their meaning in NumPy."""

import numpy as np
import pytest
from harness import cpu_isas, run_operation, selector
from layouts import LAYOUTS, array_of, assert_close, laid_out, select

from onnxplan.compiler.constant_pool import ConstantPool
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.evaluate import evaluate, evaluate_program
from onnxplan.compiler.passes.expand_block_products import expand_block_products
from onnxplan.compiler.primitives import BlockMatMul, MatMul
from onnxplan.compiler.program import Operation, Program
from onnxplan.compiler.trace import apply, cast, trace
from onnxplan.compiler.verify import verify_program
from onnxplan.compiler.view import Storage, View
from onnxplan.kernels.cpu.block_matmul import FEW_ROWS

FLOAT32, FLOAT16, UINT8 = DType.FLOAT32, DType.FLOAT16, DType.UINT8
TOLERANCES = {FLOAT32: 2e-5, FLOAT16: 2e-3, DType.BFLOAT16: 2e-2}

# Bits, weights of a block, zero points, type of the operand and the scales.
FORMATS = [
    (4, 32, None, FLOAT32),
    (4, 32, UINT8, FLOAT32),
    (4, 16, FLOAT32, FLOAT32),
    (4, 128, UINT8, FLOAT16),
    (2, 16, None, FLOAT32),
    (2, 64, UINT8, FLOAT32),
    (8, 16, None, FLOAT16),
    (8, 256, FLOAT16, FLOAT16),
    (8, 32, UINT8, FLOAT32),
    (4, 48, None, DType.BFLOAT16),
]
# Few rows and many, columns that do not fill a panel, a depth that does not fill a block.
SHAPES = [
    (1, 70, 130), (1, 32, 64), (2, 33, 5), (3, 256, 66), (4, 65, 1), (5, 64, 7), (6, 300, 64), (8, 40, 65),
    (12, 129, 33), (13, 70, 130), (20, 600, 17), (40, 1030, 70), (0, 64, 5), (3, 64, 0), (1, 1, 1),
]  # fmt: skip


def constant(array):
    array = np.ascontiguousarray(array)
    return View.dense(
        Storage(DType.from_numpy(array.dtype), array.size, "constant", array.reshape(-1)), array.shape
    )


def weights(rng, form, depth, columns):
    """Packed numbers, scales and zero points."""
    bits, block, kind, dtype = form
    blocks = -(-depth // block)
    packed = rng.integers(0, 256, (columns, blocks, block * bits // 8)).astype(np.uint8)
    scales = (rng.uniform(-1, 1, (columns, blocks)) / 2**bits).astype(dtype.numpy)
    if kind is None:
        middle = constant(np.array(1 << (bits - 1), np.uint8)).expand((columns, blocks))
        return constant(packed), constant(scales), middle
    zeros = rng.integers(0, 1 << bits, (columns, blocks)).astype(kind.numpy)
    return constant(packed), constant(scales), constant(zeros)


def biased(total, bias, residual):
    return apply("max", cast(total + cast(bias, FLOAT32), residual.dtype) + residual, 0)


def check(isa, rng, form, shape, a_layout="dense", output_layout="dense", fused=False):
    rows, depth, columns = shape
    bits, block, _, dtype = form
    a = laid_out(dtype, (rows, depth), a_layout, "a")
    output = laid_out(dtype, (rows, columns), output_layout, "y")
    inputs = [a, *weights(rng, form, depth, columns)]
    arrays = [rng.uniform(-1, 1, view.shape).astype(dtype.numpy) for view in (a, output, output)]
    values = {a.storage: filled(a, arrays[0])}
    operands = [arrays[0], *(view.numpy() for view in inputs[1:])]
    epilogue = None
    if fused:
        epilogue = trace(biased, (FLOAT32, dtype, dtype))
        bias = laid_out(dtype, (columns,), "dense", "bias")
        residual = laid_out(dtype, (rows, columns), output_layout, "residual")
        values[bias.storage] = arrays[1][0].copy() if rows else np.zeros(columns, dtype.numpy)
        values[residual.storage] = filled(residual, arrays[2])
        inputs += [bias.expand((rows, columns)), residual]
        operands += [np.broadcast_to(values[bias.storage], (rows, columns)), arrays[2]]
    primitive = BlockMatMul(bits, block, FLOAT32, epilogue)
    operation = Operation(primitive, tuple(inputs), (output,))
    assert selector(isa).prefers(operation)
    (found,) = run_operation(operation, values, isa, rng)
    (expected,) = evaluate(primitive, operands, [output.shape], [dtype])
    assert_close(found, expected.astype(dtype.numpy), TOLERANCES[dtype] * max(1, depth) ** 0.5)


def filled(view, array):
    elements = np.zeros(view.storage.size, view.dtype.numpy)
    array_of(view, elements)[...] = array
    return elements


@pytest.mark.parametrize("isa", cpu_isas())
@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("few", [True, False], ids=["few rows", "many rows"])
def test_formats(isa, form, few):
    rng = np.random.default_rng(1)
    for shape in SHAPES:
        if few == (shape[0] <= FEW_ROWS):
            check(isa, rng, form, shape)


@pytest.mark.parametrize("isa", cpu_isas())
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_and_epilogues(isa, layout):
    rng = np.random.default_rng(2)
    for shape in [(1, 70, 130), (5, 64, 7), (13, 70, 65)]:
        check(isa, rng, FORMATS[0], shape, a_layout=layout)
        check(isa, rng, FORMATS[0], shape, output_layout=layout)
        check(isa, rng, FORMATS[0], shape, fused=True)


def test_infinities_and_padding():
    """Numbers beyond the depth count for nothing, whatever they are; NaN stays in its row."""
    rng = np.random.default_rng(3)
    form = FORMATS[0]
    for rows in (2, 14):
        a = laid_out(FLOAT32, (rows, 40), "dense", "a")
        inputs = (a, *weights(rng, form, 40, 9))
        array = rng.uniform(-1, 1, a.shape).astype(np.float32)
        array[0, 3], array[1, 39] = np.nan, np.inf
        output = laid_out(FLOAT32, (rows, 9), "dense", "y")
        operation = Operation(BlockMatMul(4, 32, FLOAT32), inputs, (output,))
        (found,) = run_operation(operation, {a.storage: array.reshape(-1)}, cpu_isas()[0], rng)
        assert np.isnan(found[0]).all()
        assert not np.isfinite(found[1]).any()
        assert np.isfinite(found[2:]).all()


def test_weights_stay_packed():
    """What a step reads is hardly more than numbers and scales, for few rows and for many alike."""
    rng = np.random.default_rng(4)
    sources = weights(rng, FORMATS[0], 512, 256)
    size = 512 * 256 // 2 + 512 * 256 // 32 * 4
    for rows in (1, 64):
        a, output = laid_out(FLOAT32, (rows, 512)), laid_out(FLOAT32, (rows, 256))
        (step,) = select(BlockMatMul(4, 32, FLOAT32), (a, *sources), [output], cpu_isas()[0])
        assert step.operands[1].storage.nbytes == size
        assert step.scratch < 256 << 10


@pytest.mark.parametrize("form", [*FORMATS[:4], FORMATS[8]], ids=str)
def test_expansion(form):
    """Where a device has no kernel, constants are dequantised and multiplied."""
    rng = np.random.default_rng(5)
    bits, block, _, dtype = form
    a, output = laid_out(dtype, (3, 70), "dense", "a"), laid_out(dtype, (3, 9), "dense", "y")
    operation = Operation(BlockMatMul(bits, block, FLOAT32), (a, *weights(rng, form, 70, 9)), (output,))
    feeds = {"a": rng.uniform(-1, 1, (3, 70)).astype(dtype.numpy)}

    def program():
        return Program({"a": a}, {"y": output}, [Operation(operation.primitive, operation.inputs, (output,))])

    expected = evaluate_program(program(), feeds)
    kept = expand_block_products(program(), ConstantPool(), lambda _: True)
    assert isinstance(kept.operations[0].primitive, BlockMatMul)
    expanded = expand_block_products(program(), ConstantPool(), lambda _: False)
    verify_program(expanded, "expansion")
    assert [type(each.primitive) for each in expanded.operations] == [MatMul]
    assert_close(evaluate_program(expanded, feeds)["y"], expected["y"], 10 * TOLERANCES[dtype])
