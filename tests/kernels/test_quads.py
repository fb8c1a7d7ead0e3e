"""Products and convolutions of bytes: exact sums, with the processor's dot products and without."""

import itertools

import harness
import numpy as np
import pytest
from harness import array_of, cpu_isas, dense, run_operation
from products import arrays, as_constant, place
from test_conv import GEOMETRIES, output_extents
from test_conv import reference as convolution

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.primitives import Conv, MatMul
from onnxplan.compiler.program import Operation
from onnxplan.compiler.trace import apply, cast, select, trace
from onnxplan.kernels.cpu import matrix_tiles_code, quad_code
from onnxplan.kernels.cpu.matrix_tiles import LEAST_ROWS
from onnxplan.runtime.cpu.target import has_byte_tiles

I8, U8, I32, F32 = DType.INT8, DType.UINT8, DType.INT32, DType.FLOAT32
PAIRS = [(U8, I8), (I8, U8)]
NATIVE = [name for name in cpu_isas() if name in harness.DOT_PRODUCTS]
TILES = ["avx512_tiles"] if has_byte_tiles() else []
ISAS = [isa for name in NATIVE for isa in (name, f"{name}_words")]
EXTREMES = {U8: (0, 255), I8: (-128, 127)}

pytestmark = pytest.mark.skipif(not ISAS, reason="products of quads are x86's")
native = pytest.mark.parametrize("isa", NATIVE + TILES)
either = pytest.mark.parametrize("isa", ISAS + TILES)


def random_bytes(rng, views, extreme=False):
    """Elements for the views' storages: any numbers, or only the least and the largest."""
    values = {}
    for view in views:
        low, high = EXTREMES[view.dtype]
        choices = np.array([low, high] if extreme else range(low, high + 1), view.dtype.numpy)
        values[view.storage] = rng.choice(choices, view.storage.size)
    return values


def families(operation, isa):
    recorder = harness.Recorder()
    harness.selector(isa).select(operation, recorder)
    return [(step.kernel.family, step.kernel.variant[0]) for step in recorder.steps]


def check_product(isa, rng, a, b, output, *, constant, extreme=False):
    values = random_bytes(rng, (a, b), extreme)
    left, right = (array.astype(np.int64) for array in arrays((a, b), values))
    operand = as_constant(b, values) if constant else b
    operation = Operation(MatMul(I32), (a, operand), (output,))
    by_tiles = isa in TILES and output.shape[-2] >= LEAST_ROWS
    assert ("matmul", "tiles" if by_tiles else "quads") in families(operation, isa)
    needed = {view.storage: values[view.storage] for view in ((a,) if constant else (a, b))}
    (got,) = run_operation(operation, needed, isa, rng)
    np.testing.assert_array_equal(got, (left @ right).astype(np.int32))


@either
@pytest.mark.parametrize("types", PAIRS, ids=lambda types: "-".join(t.label for t in types))
def test_every_tail(isa, types):
    rng = np.random.default_rng(0)
    heights = (8, 9, 16, 17, 31, 32, 33, 50) if isa in TILES else (1, 2, 5, 6, 7, 11)
    # A lone column is a row times a matrix, which other kernels compute.
    narrowest = 2 if isa in TILES else 1
    for rows, columns in itertools.product(heights, (narrowest, 15, 16, 17, 33, 48, 64, 65)):
        depth = int(rng.choice([1, 2, 3, 4, 5, 8, 31, 64, 67]))
        a = place(rng, (rows, depth), types[0], "gaps")
        b, output = place(rng, (depth, columns), types[1], "gaps"), place(rng, (rows, columns), I32, "gaps")
        check_product(isa, rng, a, b, output, constant=True)


@native
@pytest.mark.parametrize("layout", ["dense", "gaps", "swapped", "stepped"])
@pytest.mark.parametrize("constant", [True, False])
def test_layouts_and_batches(isa, layout, constant):
    rng = np.random.default_rng(1)
    for rows, depth, columns in ((7, 33, 50), (20, 64, 17), (19, 130, 70), (40, 4, 5)):
        a, b = place(rng, (rows, depth), U8, layout), place(rng, (depth, columns), I8, layout)
        check_product(isa, rng, a, b, dense(I32, (rows, columns)), constant=constant)
        batch = (2, 3)
        a = place(rng, (2, 1, rows, depth), U8, layout).expand((*batch, rows, depth))
        b = place(rng, (3, depth, columns), I8, layout).expand((*batch, depth, columns))
        output = place(rng, (*batch, rows, columns), I32, layout)
        if columns > 1 and output.strides[-1] != 1:
            output = place(rng, (*batch, rows, columns), I32, "gaps")
        check_product(isa, rng, a, b, output, constant=constant)


@either
@pytest.mark.parametrize("types", PAIRS, ids=lambda types: "-".join(t.label for t in types))
def test_sums_that_saturate_sixteen_bits(isa, types):
    """Neighbouring products of extremes leave int16, and sums of many the range of int32."""
    rng = np.random.default_rng(2)
    rows = 17 if isa in TILES else 3
    for depth in (4, 6, 1024, 4097, 70000):
        a, b = place(rng, (rows, depth), types[0], "dense"), place(rng, (depth, 18), types[1], "dense")
        check_product(isa, rng, a, b, dense(I32, (rows, 18)), constant=True, extreme=True)
    a, b = dense(U8, (rows, 70000)), dense(I8, (70000, 3))
    values = {a.storage: np.full(a.size, 255, np.uint8), b.storage: np.full(b.size, -128, np.int8)}
    operation = Operation(MatMul(I32), (a, as_constant(b, values)), (dense(I32, (rows, 3)),))
    (got,) = run_operation(operation, {a.storage: values[a.storage]}, isa)
    assert (got == np.int64(-255 * 128 * 70000).astype(np.int32)).all()


def requantization(dtype):
    """``saturate(round((sum + bias) * scale) + 3)``, as lowering writes it."""
    low, high = EXTREMES[dtype]

    def body(total, bias, scale):
        real = cast(total + bias, F32) * scale
        raised = select(real > float(low - 3), real, float(low - 3))
        rounded = cast(apply("round", apply("min", raised, float(high - 3))), I32)
        return cast(rounded + 3, dtype)

    return trace(body, (I32, I32, F32))


def requantized(total, bias, scale, dtype):
    low, high = EXTREMES[dtype]
    real = (total + bias).astype(np.int32).astype(np.float32) * scale
    return np.clip(np.rint(real) + 3, low, high).astype(dtype.numpy)


@native
@pytest.mark.parametrize("dtype", [U8, I8])
def test_requantisation_in_registers(isa, dtype):
    rng = np.random.default_rng(3)
    for rows, depth, columns in ((13, 68, 190), (1, 40, 64), (60, 1030, 128)):
        a, b = dense(U8, (rows, depth)), dense(I8, (depth, columns))
        bias, scale = dense(I32, (columns,)), dense(F32, (columns,))
        values = random_bytes(rng, (a, b))
        values[bias.storage] = rng.integers(-9999, 9999, columns).astype(np.int32)
        # Half of the results are ties.
        values[scale.storage] = np.full(columns, 2.0**-9, np.float32)
        values[scale.storage][::3] = np.nan
        output = place(rng, (rows, columns), dtype, "gaps")
        extras = [view.expand((rows, columns)) for view in (bias, scale)]
        operation = Operation(
            MatMul(I32, requantization(dtype)), (a, as_constant(b, values), *extras), (output,)
        )
        needed = {view.storage: values[view.storage] for view in (a, bias, scale)}
        (got,) = run_operation(operation, needed, isa, rng)
        left, right = (array.astype(np.int64) for array in arrays((a, b), values))
        scales = np.nan_to_num(values[scale.storage], nan=-np.inf)
        with np.errstate(invalid="ignore"):
            want = requantized(left @ right, values[bias.storage], scales, dtype)
        want[:, ::3] = EXTREMES[dtype][0]
        np.testing.assert_array_equal(got, want)


def check_convolution(isa, x, w, geometry, groups=1, *, constant=True, epilogue=None, dtype=I32):
    rng = np.random.default_rng(4)
    strides, dilations, pads = geometry[2:5]
    features = w.shape[-1]
    output = place(rng, (x.shape[0], *output_extents(*geometry), features), dtype, "gaps")
    values = random_bytes(rng, (x, w))
    image, weights = (array.astype(np.int64) for array in arrays((x, w), values))
    primitive = Conv(strides, dilations, pads, groups, I32, epilogue)
    want = convolution(image, weights, output.shape, primitive)
    extras = ()
    if epilogue is not None:
        bias, scale = dense(I32, (features,)), dense(F32, (features,))
        values[bias.storage] = rng.integers(-9999, 9999, features).astype(np.int32)
        values[scale.storage] = np.full(features, 2.0**-8, np.float32)
        extras = tuple(view.expand(output.shape) for view in (bias, scale))
        want = requantized(want, values[bias.storage], values[scale.storage], dtype)
    operand = as_constant(w, values) if constant else w
    operation = Operation(primitive, (x, operand, *extras), (output,))
    needed = {view.storage: values[view.storage] for view in (x, *extras)}
    if not constant:
        needed[w.storage] = values[w.storage]
    (got,) = run_operation(operation, needed, isa, np.random.default_rng(5))
    np.testing.assert_array_equal(got, want.astype(dtype.numpy))


@native
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda geometry: "x".join(map(str, geometry[0])))
@pytest.mark.parametrize(("channels", "features"), [(3, 70), (16, 24), (21, 5)])
def test_convolutions(isa, geometry, channels, features):
    rng = np.random.default_rng(6)
    inputs, kernel = geometry[:2]
    types = PAIRS[channels % 2]
    x = place(rng, (2, *inputs, channels), types[0], "dense")
    w = place(rng, (*kernel, channels, features), types[1])
    check_convolution(isa, x, w, geometry, epilogue=requantization(U8), dtype=U8)


@native
@pytest.mark.parametrize(("groups", "channels", "features"), [(2, 12, 16), (3, 5, 7), (4, 1, 3)])
@pytest.mark.parametrize("constant", [True, False])
def test_grouped_convolutions(isa, groups, channels, features, constant):
    rng = np.random.default_rng(7)
    geometry = GEOMETRIES[1]
    x = place(rng, (2, *geometry[0], groups * channels), U8, "gaps")
    w = place(rng, (*geometry[1], channels, groups * features), I8, "dense")
    check_convolution(isa, x, w, geometry, groups, constant=constant)


@either
@pytest.mark.parametrize("types", [*PAIRS, (I8, I8), (U8, U8)], ids=lambda types: "-".join(map(str, types)))
@pytest.mark.parametrize("channels", [5, 61])
def test_depthwise_convolutions(isa, types, channels):
    rng = np.random.default_rng(8)
    for geometry in (GEOMETRIES[0], GEOMETRIES[2], GEOMETRIES[3]):
        x = place(rng, (2, *geometry[0], channels), types[0], "gaps")
        w = place(rng, (*geometry[1], 1, channels), types[1], "dense")
        check_convolution(isa, x, w, geometry, channels, epilogue=requantization(I8), dtype=I8)


@native
def test_one_by_one_convolutions(isa):
    rng = np.random.default_rng(9)
    for channels, strides in ((64, (1, 1)), (20, (2, 2)), (3, (1, 2))):
        geometry = ((9, 8), (1, 1), strides, (1, 1), (0, 0), (0, 0))
        x = place(rng, (2, 9, 8, channels), U8, "dense")
        check_convolution(isa, x, place(rng, (1, 1, channels, 40), I8, "dense"), geometry)


@native
def test_results_do_not_depend_on_threads_or_cuts(isa):
    rng = np.random.default_rng(10)
    a, b = dense(U8, (150, 900)), dense(I8, (900, 200))
    values = random_bytes(rng, (a, b))
    operation = Operation(MatMul(I32), (a, as_constant(b, values)), (dense(I32, (150, 200)),))
    feed = {a.storage: values[a.storage]}
    alone, *others = (run_operation(operation, feed, isa, rng, threads)[0] for threads in (1, 2, 16))
    for result in others:
        np.testing.assert_array_equal(result, alone)


@native
def test_other_sums_and_types_take_other_kernels(isa):
    """Sums of 64 bits, and operands that are both signed or both unsigned."""
    for left, right, sums in ((U8, I8, DType.INT64), (I8, I8, I32), (U8, U8, I32)):
        rng = np.random.default_rng(11)
        a, b, output = dense(left, (5, 40)), dense(right, (40, 20)), dense(sums, (5, 20))
        operation = Operation(MatMul(sums), (a, b), (output,))
        assert not {("matmul", "quads"), ("matmul", "tiles")} & set(families(operation, isa))
        values = random_bytes(rng, (a, b))
        (got,) = run_operation(operation, values, isa)
        product = array_of(a, values[a.storage]).astype(np.int64) @ array_of(b, values[b.storage])
        np.testing.assert_array_equal(got, product.astype(sums.numpy))


@pytest.mark.skipif(not TILES, reason="this processor, or its system, has no AMX")
def test_tiles_that_the_processor_lacks_are_refused(monkeypatch):
    monkeypatch.setattr(
        matrix_tiles_code, "machine_description", lambda isa: ("", "", "+avx512vnni,+amx-tile,-amx-int8")
    )
    operation = Operation(MatMul(I32), (dense(U8, (16, 40)), dense(I8, (40, 20))), (dense(I32, (16, 20)),))
    recorder = harness.Recorder()
    harness.selector(TILES[0]).select(operation, recorder)
    with pytest.raises(ValueError, match="lacks amx-int8"):
        harness.registry.build(recorder.steps[-1].kernel, harness.make_target(TILES[0]))


@either
def test_dot_products_that_the_processor_lacks_are_refused(isa, monkeypatch):
    monkeypatch.setattr(quad_code, "machine_description", lambda isa: ("", "", "+avx2"))
    a, b = dense(U8, (5, 40)), dense(I8, (40, 20))
    recorder = harness.Recorder()
    operation = Operation(MatMul(I32), (a, b), (dense(I32, (5, 20)),))
    harness.selector(isa).select(operation, recorder)
    spec = recorder.steps[-1].kernel
    if harness.make_target(isa).dot_products:
        with pytest.raises(ValueError, match=r"lacks avx\w*vnni"):
            harness.registry.build(spec, harness.make_target(isa))
    else:
        harness.registry.build(spec, harness.make_target(isa))
