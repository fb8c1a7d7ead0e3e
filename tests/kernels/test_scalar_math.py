"""Scalar operations on vectors: error in units in the last place, special values, conversions."""

import math

import numpy as np
import pytest
import scipy.special
from harness import apply_op, available_isas, is_cuda

from onnxplan.compiler import scalar
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import TRANSCENDENTAL
from onnxplan.kernels.cpu import math_tables
from onnxplan.kernels.scalar import SCALAR_CODE, cpu_function, cuda_expression

ISAS = tuple(dict.fromkeys((*available_isas(), "generic")))
LONG = np.longdouble
INFINITY, NAN = math.inf, math.nan


def sigmoid(x):
    return np.where(x < 0, np.exp(np.minimum(x, 0)) / (1 + np.exp(np.minimum(x, 0))), 1 / (1 + np.exp(-x)))


REFERENCES = {
    "exp": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "erf": scipy.special.erf,
    "tanh": np.tanh, "sigmoid": sigmoid, "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin,
    "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "asinh": np.arcsinh,
    "acosh": np.arccosh, "atanh": np.arctanh,
}  # fmt: skip
SPECIAL = [
    0.0, -0.0, INFINITY, -INFINITY, NAN, 1.0, -1.0, 0.5, -0.5, 88.72283, 88.72284, -103.97, -87.34,
    709.78, 709.79, -745.13, -745.14, 2.0**30, -(2.0**31), 1e22, 1e-300, 1e-30, -1e-40, 5e-324, 1e38, 1e308,
]  # fmt: skip


def grid_distance(got, want):
    """How many representable numbers apart; NaN equals NaN, the sign of zero does not count."""
    signed = {4: np.int32, 8: np.int64}[got.dtype.itemsize]

    def ordered(x):
        bits = x.view(signed).astype(object)
        return np.where(bits < 0, -(bits & ((1 << (8 * x.itemsize - 1)) - 1)), bits)

    apart = np.abs(ordered(got) - ordered(want))
    one_nan = np.isnan(got) != np.isnan(want)
    apart = np.where(np.isnan(want) & np.isnan(got), 0, apart)
    return np.where(one_nan, 1 << 62, apart)


def float32_inputs():
    """Every 40009th bit pattern, a dense grid around zero, and special values."""
    patterns = np.arange(0, 2**32, 40009, dtype=np.uint64).astype(np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        special = np.array(SPECIAL).astype(np.float32)
    return np.concatenate([patterns, np.linspace(-12, 12, 30001).astype(np.float32), special])


def float64_inputs(rng):
    patterns = rng.integers(0, 2**64, 20000, dtype=np.uint64).view(np.float64)
    # The double closest to a multiple of pi/2, relative to its size.
    hardest = [6381956970095103 * 2.0**797]
    return np.concatenate(
        [patterns, np.linspace(-3, 3, 20001), np.linspace(-760, 760, 5001), SPECIAL, hardest]
    )


def test_the_table_covers_all_operations():
    assert set(SCALAR_CODE) == set(scalar.OPERATIONS)
    assert set(REFERENCES) | {"pow"} == TRANSCENDENTAL
    for op, operation in scalar.OPERATIONS.items():
        assert callable(cpu_function(op))
        dtype = {"f": DType.FLOAT32, "i": DType.INT32, "u": DType.UINT32, "b": DType.BOOL}[operation.kinds[0]]
        result = DType.BOOL if operation.result == "bool" else dtype
        text = cuda_expression(op, dtype, result, *"abc"[: operation.arity])
        assert all(name in text for name in "abc"[: operation.arity])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", sorted(REFERENCES))
def test_float32_within_two_ulp(op, isa):
    x = float32_inputs()
    with np.errstate(all="ignore"):
        want = REFERENCES[op](x.astype(np.float64)).astype(np.float32)
    got = apply_op(op, [x], DType.FLOAT32, isa)
    distance = grid_distance(got, want)
    worst = distance.argmax()
    assert distance[worst] <= 2, (x[worst], got[worst], want[worst])
    zeros = want == 0
    assert (np.signbit(got[zeros]) == np.signbit(want[zeros])).all()


@pytest.mark.parametrize("table", [math_tables.ERF, math_tables.TANH], ids=["erf", "tanh"])
def test_tables_hold_no_denormal_numbers(table):
    """A multiplication by one takes a hundred times as long."""
    entries = np.array(table.rows)
    assert entries.shape[1] == 16
    assert ((entries == 0) | (np.abs(entries) > np.finfo(np.float32).tiny)).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", ["erf", "tanh"])
def test_results_never_exceed_one(op, isa):
    x = np.arange(0x3F800000, 0x41400000, 5, np.int32).view(np.float32)
    got = apply_op(op, [np.concatenate([x, -x])], DType.FLOAT32, isa)
    assert np.abs(got).max() == 1


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", sorted(set(REFERENCES) - {"erf"}))
def test_float64_within_four_ulp(op, isa):
    x = float64_inputs(np.random.default_rng(1))
    # The emulator's functions are the C library's, which errs more at the hardest number.
    x = x[:-1] if is_cuda(isa) else x
    with np.errstate(all="ignore"):
        want = REFERENCES[op](x.astype(LONG)).astype(np.float64)
    distance = grid_distance(apply_op(op, [x], DType.FLOAT64, isa), want)
    worst = distance.argmax()
    assert distance[worst] <= 4, (x[worst], want[worst])


@pytest.mark.parametrize("isa", ISAS)
def test_float64_erf_within_four_ulp(isa):
    import mpmath

    x = np.concatenate([np.linspace(-7, 7, 2001), np.random.default_rng(2).normal(size=500) * 1e-3, SPECIAL])
    want = np.array([float(mpmath.erf(value)) for value in x.tolist()])
    assert grid_distance(apply_op("erf", [x], DType.FLOAT64, isa), want).max() <= 4


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("dtype", "wide", "bound"), [(DType.FLOAT32, np.float64, 2), (DType.FLOAT64, LONG, 4)]
)
def test_power(dtype, wide, bound, isa):
    rng = np.random.default_rng(3)
    special = np.array([*SPECIAL, 2.0, -2.0, 3.0, -3.0, 2.5, -2.5, 2.0**53, -(2.0**60), 1 + 1e-6, 1 - 1e-6])
    with np.errstate(all="ignore"):
        x = np.concatenate([
            np.exp(rng.normal(size=20000) * 8), rng.uniform(0.5, 2, 20000), -rng.uniform(0, 3, 20000),
            np.repeat(special, len(special)),
        ]).astype(dtype.numpy)  # fmt: skip
        y = np.concatenate([
            rng.normal(size=20000) * 8, rng.normal(size=20000) * 300, np.round(rng.normal(size=20000) * 40),
            np.tile(special, len(special)),
        ]).astype(dtype.numpy)  # fmt: skip
        want = np.power(x.astype(wide), y.astype(wide)).astype(dtype.numpy)
    got = apply_op("pow", [x, y], dtype, isa)
    distance = grid_distance(got, want)
    worst = distance.argmax()
    assert distance[worst] <= bound, (x[worst], y[worst], got[worst], want[worst])
    zeros = want == 0
    assert (np.signbit(got[zeros]) == np.signbit(want[zeros])).all()


def interesting(dtype, rng, count=3001):
    """Random elements of a type with its limits, small numbers and special values among them."""
    if dtype is DType.BOOL:
        return rng.integers(0, 2, count).astype(bool)
    if dtype.is_float:
        with np.errstate(all="ignore"):
            values = rng.normal(size=count) * np.exp(rng.normal(size=count) * 4)
            values[: len(SPECIAL)] = SPECIAL
            values[100:200] = np.arange(-50, 50)
            return rng.permutation(values).astype(dtype.numpy)
    limits = np.iinfo(dtype.numpy)
    values = rng.integers(limits.min, limits.max, count, dtype=dtype.numpy, endpoint=True)
    values[: count // 2] = (rng.integers(0, 12, count // 2) - (5 if dtype.kind == "i" else 0)).astype(
        dtype.numpy
    )
    values[:2] = limits.min, limits.max
    return rng.permutation(values)


TYPES = [
    DType.FLOAT32, DType.FLOAT64, DType.FLOAT16, DType.BFLOAT16, DType.INT8, DType.INT16, DType.INT32,
    DType.INT64, DType.UINT8, DType.UINT16, DType.UINT32, DType.UINT64, DType.BOOL,
]  # fmt: skip


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", sorted(set(scalar.OPERATIONS) - TRANSCENDENTAL - {"cast", "cast_saturate"}))
def test_exact_operations(op, isa):
    operation = scalar.OPERATIONS[op]
    rng = np.random.default_rng(4)
    for dtype in TYPES:
        if dtype.kind not in operation.kinds:
            continue
        arguments = [interesting(dtype, rng) for _ in range(operation.arity)]
        if op == "select":
            arguments[0] = interesting(DType.BOOL, rng)
        result = DType.BOOL if operation.result == "bool" else dtype
        got = apply_op(op, arguments, result, isa)
        want = scalar.evaluate(op, result, arguments)
        if op == "div" and dtype.is_integer:
            got, want = got[arguments[1] != 0], want[arguments[1] != 0]
        if op in ("mod", "remainder") and dtype.is_integer:
            got, want = got[arguments[1] != 0], want[arguments[1] != 0]
        if dtype.is_float:
            got, want = got.astype(np.float64), want.astype(np.float64)
        np.testing.assert_array_equal(got, want, err_msg=f"{op} of {dtype}")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [DType.INT64, DType.UINT64])
def test_quotients_of_long_integers(dtype, isa):
    """Vectors of small numbers, of large ones and of both; quotients just below integers and at them."""
    rng = np.random.default_rng(6)
    for bits in (12, 40, 52, 53, 60):
        divisors = rng.integers(1, 2 ** rng.integers(1, bits, 4096), dtype=np.int64)
        quotients = rng.integers(0, 2**bits // divisors, dtype=np.int64, endpoint=True)
        near = rng.integers(-1, 2, 4096)
        dividends = np.clip(quotients * divisors + near, 0, 2**bits + 1)
        if dtype.kind == "i":
            dividends, divisors = (each * rng.choice([-1, 1], each.shape) for each in (dividends, divisors))
        arguments = [each.astype(dtype.numpy) for each in (dividends, divisors)]
        for op in ("div", "mod", "remainder"):
            want = scalar.evaluate(op, dtype, arguments)
            np.testing.assert_array_equal(apply_op(op, arguments, dtype, isa), want, err_msg=f"{op} {bits}")


@pytest.mark.parametrize("isa", ISAS)
def test_integer_power(isa):
    rng = np.random.default_rng(5)
    for dtype in TYPES:
        if dtype.is_integer:
            base = interesting(dtype, rng)
            exponent = rng.integers(-3 if dtype.kind == "i" else 0, 9, base.shape).astype(dtype.numpy)
            want = scalar.evaluate("pow", dtype, [base, exponent])
            np.testing.assert_array_equal(apply_op("pow", [base, exponent], dtype, isa), want)


SMALL = [
    DType.FLOAT16, DType.BFLOAT16, DType.FLOAT8E4M3FN, DType.FLOAT8E4M3FNUZ, DType.FLOAT8E5M2,
    DType.FLOAT8E5M2FNUZ, DType.FLOAT8E8M0, DType.FLOAT4E2M1,
]  # fmt: skip
NARROW = [DType.INT4, DType.UINT4, DType.INT2, DType.UINT2]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", SMALL)
def test_small_floats_widen_exactly(dtype, isa):
    count = 16 if dtype is DType.FLOAT4E2M1 else 1 << (8 * dtype.itemsize)
    codes = np.arange(count).astype(np.uint8 if dtype.itemsize == 1 else np.uint16).view(dtype.numpy)
    got = apply_op("cast", [codes], DType.FLOAT32, isa)
    np.testing.assert_array_equal(got, codes.astype(np.float32))
    assert (np.signbit(got) == np.signbit(codes.astype(np.float32)))[~np.isnan(got)].all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", ["cast", "cast_saturate"])
@pytest.mark.parametrize("dtype", SMALL)
def test_rounding_to_small_floats(dtype, op, isa):
    patterns = np.arange(0, 2**32, 65521 * 3, dtype=np.uint64).astype(np.uint32).view(np.float32)
    codes = np.arange(1 << (8 * min(dtype.itemsize, 2))).astype(f"u{dtype.itemsize}").view(dtype.numpy)
    values = codes[: 16 if dtype is DType.FLOAT4E2M1 else None].astype(np.float32)
    with np.errstate(all="ignore"):
        values = np.sort(values[np.isfinite(values)])
        halfway = (values[1:].astype(np.float64) + values[:-1]) / 2
        single = np.concatenate([patterns, halfway.astype(np.float32), np.array(SPECIAL).astype(np.float32)])
        single = single[~np.isnan(single)]
        near = np.nextafter(halfway, INFINITY)
        double = np.concatenate([near, halfway, np.nextafter(halfway, -INFINITY)])
    for source in (single, double):
        got = apply_op(op, [source], dtype, isa)
        want = scalar.convert(source, dtype, saturate=op == "cast_saturate")
        np.testing.assert_array_equal(got.astype(np.float32), want.astype(np.float32))
    assert np.isnan(apply_op(op, [np.array([NAN] * 3)], DType.FLOAT16, isa)).all()


@pytest.mark.parametrize("isa", ISAS)
def test_casts_between_all_types(isa):
    rng = np.random.default_rng(6)
    for source in [*TYPES, DType.FLOAT8E4M3FN]:
        values = (
            interesting(source, rng, 1001)
            if source in TYPES
            else rng.integers(0, 256, 1001).astype(np.uint8).view(source.numpy)
        )
        for result in [*TYPES, *NARROW]:
            chosen = values
            if source.is_float and result.is_integer:
                # Beyond 64 bits, processors differ.
                wide = values.astype(np.float64)
                chosen = values[(np.abs(wide) < 2.0**62) & ((wide >= 0) | (result is not DType.UINT64))]
            got = apply_op("cast", [chosen], result, isa)
            want = scalar.convert(chosen, result)
            np.testing.assert_array_equal(
                got.astype(np.float64), want.astype(np.float64), err_msg=f"{source} to {result}"
            )


@pytest.mark.parametrize("isa", ISAS)
def test_integers_of_four_and_two_bits_widen(isa):
    for dtype in NARROW:
        codes = np.arange(256).astype(np.uint8).view(dtype.numpy)
        np.testing.assert_array_equal(apply_op("cast", [codes], DType.INT32, isa), codes.astype(np.int32))
        got = apply_op("cast", [codes], DType.FLOAT32, isa)
        np.testing.assert_array_equal(got, codes.astype(np.float32))
