"""The tiles of the CUDA kernels that form products one by one: each in products and convolutions."""

import emulator
import harness
import numpy as np
import pytest
import test_conv
from harness import dense
from products import arrays, fill, place

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import identity
from onnxplan.kernels.cuda import conv, product, product_code
from onnxplan.kernels.matrices import Matrices
from onnxplan.runtime.cuda.target import assumed_target

F32, F64 = DType.FLOAT32, DType.FLOAT64
ISA = "sm_90"

pytestmark = pytest.mark.skipif(not emulator.COMPILER, reason="CUDA kernels run through g++ here")


@pytest.fixture(autouse=True)
def poison_is_nan(monkeypatch):
    monkeypatch.setattr(harness, "POISON", 0xFF)


TILES = {name: getattr(product_code, name) for name in ("SQUARE", "LONG", "LARGE", "TALL", "FLAT")}


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize(
    ("channels", "features", "groups"), [(3, 70, 1), (12, 68, 1), (6, 20, 1), (20, 36, 2), (5, 33, 2)]
)
def test_tiles_of_convolutions(monkeypatch, tile, channels, features, groups):
    """Floats that are read and written four at a time, and those that are not; with tails of all extents."""
    used = []

    def chosen(*extents):
        used.append(extents)
        return TILES[tile]

    monkeypatch.setattr(conv, "fitting_tile", chosen)
    rng = np.random.default_rng(channels)
    shape = (2, 8, 12, groups * features)
    x, w = dense(F32, (2, 15, 12, groups * channels)), dense(F32, (3, 2, channels, groups * features))
    extras = test_conv.bias_and_residual(rng, shape, F32)
    geometry = {"strides": (2, 1), "dilations": (1, 3), "pads": (1, 2), "groups": groups}
    for output in (dense(F32, shape), place(rng, shape, F32, "gaps")):
        test_conv.check(ISA, x, w, output, extras, **geometry)
    assert used


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("dtype", [F32, DType.INT32])
def test_tiles_of_products(monkeypatch, tile, dtype):
    monkeypatch.setattr(product, "fitting_tile", lambda *_: TILES[tile])
    rng = np.random.default_rng(1)
    for rows, columns, depth in ((130, 135, 19), (257, 66, 8), (5, 3, 1)):
        a, b = place(rng, (2, rows, depth), dtype, "stepped"), place(rng, (2, depth, columns), dtype, "gaps")
        output = place(rng, (2, rows, columns), dtype, "swapped")
        recorder, values = harness.Recorder(), fill(rng, [a, b])
        product.emit_product(
            recorder,
            harness.make_target(ISA),
            Matrices(a, b, output, ()),
            dtype,
            identity(dtype),
        )
        memories = {v.storage: harness.Memory(v.storage, values.get(v.storage)) for v in (a, b, output)}
        harness.run_steps(recorder.steps, memories, ISA)
        wide = F64 if dtype is F32 else dtype
        left, right = (array.astype(wide.numpy) for array in arrays((a, b), values))
        found = harness.array_of(output, memories[output.storage].elements)
        with np.errstate(over="ignore"):
            np.testing.assert_allclose(found, left @ right, rtol=1e-4, atol=1e-4)


def test_large_tiles_where_they_fill_the_device():
    target = assumed_target("sm_90", "strict")

    def chosen(rows, columns, accumulator=F32):
        return product_code.fitting_tile(rows, columns, 1, accumulator, target)

    assert chosen(1 << 16, 512) is product_code.LARGE
    assert chosen(1 << 18, 64) is product_code.LONG
    assert chosen(1 << 10, 512) is product_code.SQUARE
    assert chosen(1 << 16, 512, F64) is product_code.SQUARE
    assert chosen(1 << 16, 16) is product_code.TALL
    assert chosen(16, 1 << 16) is product_code.FLAT
