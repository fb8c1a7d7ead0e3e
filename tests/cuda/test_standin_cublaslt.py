"""The stand-in's cuBLASLt: real descriptors, products by NumPy, and what it refuses."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_double, c_float, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p

import ml_dtypes
import numpy as np
import pytest
from standin import StrictError
from standin_cublaslt import HeuristicResult
from standin_errors import CAPTURE_UNSUPPORTED
from standin_graphs import THREAD_LOCAL
from standin_products import (
    BIAS,
    COMPUTE_32F,
    COMPUTE_32I,
    COMPUTE_64F,
    COMPUTE_FAST_TF32,
    DEFAULT,
    DTYPES,
    INVALID_VALUE,
    NOT_SUPPORTED,
    R_8I,
    R_16BF,
    R_16F,
    R_32F,
    R_32I,
    R_64F,
    RELU,
    RELU_BIAS,
)
from standin_samples import TO_DEVICE, TO_HOST, Machine

TYPE_NUMBERS = {np.dtype(dtype): number for number, dtype in DTYPES.items()}
SCALARS = {R_32F: c_float, R_64F: c_double, R_32I: c_int}


@pytest.fixture
def machine():
    return Machine()


class Caller:
    """Calls the library as production code does, for column-major matrices that are NumPy arrays."""

    def __init__(self, machine, compute=COMPUTE_32F, scale=R_32F):
        self.machine, self.library, self.scale = machine, machine.standin.cublaslt, scale
        self.handle = c_void_p()
        assert self.library.cublasLtCreate(byref(self.handle)) == 0
        self.descriptor = c_void_p()
        assert self.library.cublasLtMatmulDescCreate(byref(self.descriptor), compute, scale) == 0
        self.preference = c_void_p()
        assert self.library.cublasLtMatmulPreferenceCreate(byref(self.preference)) == 0
        self.stream = machine.stream()
        self.workspace = machine.standin.allocate(1 << 16)
        self.set_preference(1, c_uint64(1 << 14))
        self.result = HeuristicResult()

    def set(self, attribute, value):
        set_attribute = self.library.cublasLtMatmulDescSetAttribute
        assert set_attribute(self.descriptor, attribute, byref(value), ctypes.sizeof(value)) == 0

    def set_preference(self, attribute, value):
        set_attribute = self.library.cublasLtMatmulPreferenceSetAttribute
        assert set_attribute(self.preference, attribute, byref(value), ctypes.sizeof(value)) == 0

    def layout(self, dtype, rows, columns, distance, batch=1, stride=0):
        layout = c_void_p()
        create = self.library.cublasLtMatrixLayoutCreate
        assert create(byref(layout), TYPE_NUMBERS[np.dtype(dtype)], rows, columns, distance) == 0
        set_attribute = self.library.cublasLtMatrixLayoutSetAttribute
        assert set_attribute(layout, 5, byref(c_int(batch)), 4) == 0
        assert set_attribute(layout, 6, byref(c_int64(stride)), 8) == 0
        return layout

    def choose(self, *layouts):
        found = c_int(9)
        status = self.library.cublasLtMatmulAlgoGetHeuristic(
            self.handle,
            self.descriptor,
            *layouts,
            layouts[-1],
            self.preference,
            1,
            byref(self.result),
            byref(found),
        )
        assert found.value == (status == 0)
        return status

    def multiply(self, a, b, d, layouts, alpha=1, beta=0, workspace=None, nbytes=None, algorithm=True):
        kind = SCALARS[self.scale]
        return self.library.cublasLtMatmul(
            self.handle,
            self.descriptor,
            byref(kind(alpha)),
            c_void_p(a),
            layouts[0],
            c_void_p(b),
            layouts[1],
            byref(kind(beta)),
            c_void_p(d),
            layouts[2],
            c_void_p(d),
            layouts[2],
            byref(self.result.algorithm) if algorithm else None,
            c_void_p(self.workspace.ptr if workspace is None else workspace),
            self.result.workspace_bytes if nbytes is None else nbytes,
            c_void_p(self.stream),
        )


def upload(machine, values):
    values = np.ascontiguousarray(values)
    memory = machine.standin.allocate(values.nbytes)
    machine.runtime.memcpy(memory.ptr, values.ctypes.data, values.nbytes, TO_DEVICE)
    return memory


def download(machine, memory, shape, dtype):
    values = np.empty(shape, dtype)
    machine.runtime.memcpy(values.ctypes.data, memory.ptr, values.nbytes, TO_HOST)
    return values


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(("trans_a", "trans_b"), [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("epilogue", [DEFAULT, RELU, BIAS, RELU_BIAS])
def test_batched_strided_products(machine, dtype, trans_a, trans_b, epilogue):
    """Matrices of 3 batches inside larger ones, whose other elements stay as they are."""
    random = np.random.default_rng(1)
    m, n, k, pad = 5, 4, 7, 2
    a = random.standard_normal((3, *((m, k + pad) if trans_a else (k, m + pad)))).astype(dtype)
    b = random.standard_normal((3, *((k, n + pad) if trans_b else (n, k + pad)))).astype(dtype)
    bias = random.standard_normal(m).astype(dtype)
    d = np.full((3, n, m + pad), 77, dtype)
    double = dtype == np.float64
    caller = Caller(machine, COMPUTE_64F if double else COMPUTE_32F, R_64F if double else R_32F)
    caller.set(3, c_int(trans_a))
    caller.set(4, c_int(trans_b))
    caller.set(7, c_int(epilogue))
    memories = [upload(machine, values) for values in (a, b, d, bias)]
    caller.set(8, c_void_p(memories[3].ptr))
    layouts = [
        caller.layout(dtype, *((k, m) if trans_a else (m, k)), a.shape[2], 3, a[0].size),
        caller.layout(dtype, *((n, k) if trans_b else (k, n)), b.shape[2], 3, b[0].size),
        caller.layout(dtype, m, n, d.shape[2], 3, d[0].size),
    ]
    assert caller.choose(*layouts) == 0
    assert caller.multiply(*(memory.ptr for memory in memories[:3]), layouts, alpha=2) == 0
    assert ctypes.string_at(memories[2].ptr, d.nbytes) == d.tobytes(), "nothing runs before it is waited for"
    machine.runtime.streamSynchronize(caller.stream)
    result = download(machine, memories[2], d.shape, dtype).astype(np.float64)
    left = a[:, :, : k if trans_a else m].astype(np.float64)
    right = b[:, :, : n if trans_b else k].astype(np.float64)
    left = left if trans_a else left.swapaxes(1, 2)
    right = right if trans_b else right.swapaxes(1, 2)
    wanted = 2 * left @ right
    if epilogue in (BIAS, RELU_BIAS):
        wanted += bias.astype(np.float64)[:, None]
    if epilogue in (RELU, RELU_BIAS):
        wanted = np.maximum(wanted, 0)
    error = {np.float64: 1e-14, np.float32: 1e-5, np.float16: 1e-2}.get(dtype, 8e-2)
    np.testing.assert_allclose(result[:, :, :m], wanted.swapaxes(1, 2), rtol=error, atol=error)
    assert (result[:, :, m:] == 77).all()


@pytest.fixture
def square(machine):
    """A caller with matrices of 8 x 8 ones: ``(caller, layouts, addresses)``; their memory lives with it."""
    caller = Caller(machine)
    layouts = [caller.layout(np.float32, 8, 8, 8) for _ in range(3)]
    caller.memories = [upload(machine, np.ones((8, 8), np.float32)) for _ in range(3)]
    assert caller.choose(*layouts) == 0
    return caller, layouts, [memory.ptr for memory in caller.memories]


def test_beta_keeps_what_was_there(machine, square):
    caller, layouts, addresses = square
    assert caller.multiply(*addresses, layouts, beta=0.5) == 0
    machine.runtime.streamSynchronize(caller.stream)
    assert (download(machine, caller.memories[2], 64, np.float32) == 8.5).all()


def test_tf32_is_rounded_and_float32_is_not(machine):
    value = np.float32(1 + 2.0**-12)
    results = []
    for compute in (COMPUTE_32F, COMPUTE_FAST_TF32):
        caller = Caller(machine, compute)
        layouts = [caller.layout(np.float32, 1, 1, 1) for _ in range(3)]
        memories = [upload(machine, np.array([item], np.float32)) for item in (value, 1, 0)]
        assert caller.choose(*layouts) == 0
        assert caller.multiply(*(memory.ptr for memory in memories), layouts) == 0
        machine.runtime.streamSynchronize(caller.stream)
        results.append(download(machine, memories[2], 1, np.float32)[0])
    assert results == [value, 1]


def test_integers(machine):
    caller = Caller(machine, COMPUTE_32I, R_32I)
    values = np.arange(16, dtype=np.int8).reshape(4, 4) - 8
    layouts = [caller.layout(dtype, 4, 4, 4) for dtype in (np.int8, np.int8, np.int32)]
    assert caller.choose(*layouts) == NOT_SUPPORTED
    caller.set(3, c_int(1))
    assert caller.choose(*layouts) == 0
    memories = [upload(machine, item) for item in (values, values, np.zeros(16, np.int32))]
    assert caller.multiply(*(memory.ptr for memory in memories), layouts) == 0
    machine.runtime.streamSynchronize(caller.stream)
    wanted = values.astype(np.int32) @ values.T.astype(np.int32)
    assert (download(machine, memories[2], (4, 4), np.int32) == wanted).all()


@pytest.mark.parametrize(
    ("types", "compute", "scale", "status"),
    [
        ((R_32F, R_32F, R_32F), COMPUTE_32F, R_32F, 0),
        ((R_16F, R_16F, R_32F), COMPUTE_32F, R_32F, 0),
        ((R_16BF, R_16BF, R_16BF), COMPUTE_32F, R_32F, 0),
        ((R_64F, R_64F, R_64F), COMPUTE_64F, R_64F, 0),
        ((R_16F, R_16BF, R_16F), COMPUTE_32F, R_32F, NOT_SUPPORTED),
        ((R_32F, R_32F, R_16F), COMPUTE_32F, R_32F, NOT_SUPPORTED),
        ((R_64F, R_64F, R_64F), COMPUTE_32F, R_32F, NOT_SUPPORTED),
        ((R_64F, R_64F, R_64F), COMPUTE_64F, R_32F, NOT_SUPPORTED),
        ((R_16F, R_16F, R_16F), COMPUTE_FAST_TF32, R_32F, NOT_SUPPORTED),
        ((R_8I, R_8I, R_8I), COMPUTE_32I, R_32I, NOT_SUPPORTED),
    ],
)
def test_supported_types(machine, types, compute, scale, status):
    caller = Caller(machine, compute, scale)
    layouts = [caller.layout(DTYPES[number], 8, 8, 8) for number in types]
    assert caller.choose(*layouts) == status


@pytest.mark.parametrize(
    ("shapes", "options"),
    [
        (((8, 4, 8), (5, 8, 5), (8, 8, 8)), {}),
        (((8, 4, 7), (4, 8, 4), (8, 8, 8)), {}),
        (((8, 4, 8), (4, 8, 4), (8, 7, 8)), {}),
        (((0, 4, 8), (4, 8, 4), (0, 8, 8)), {}),
        (((8, 4, 8, 2, 32), (4, 8, 4, 3, 32), (8, 8, 8, 2, 64)), {}),
        (((8, 4, 8), (4, 8, 4), (8, 8, 8)), {"wanted": 0}),
    ],
)
def test_wrong_layouts(machine, shapes, options):
    caller = Caller(machine)
    layouts = [caller.layout(np.float32, *shape) for shape in shapes]
    if options:
        found = c_int()
        arguments = (
            caller.handle,
            caller.descriptor,
            *layouts,
            layouts[2],
            caller.preference,
            options["wanted"],
        )
        heuristic = caller.library.cublasLtMatmulAlgoGetHeuristic
        assert heuristic(*arguments, byref(caller.result), byref(found)) == INVALID_VALUE
    else:
        assert caller.choose(*layouts) == INVALID_VALUE


def test_workspace(machine, square):
    caller, layouts, addresses = square
    needed = caller.result.workspace_bytes
    assert 0 < needed <= 1 << 14
    assert caller.multiply(*addresses, layouts, nbytes=needed - 1) == INVALID_VALUE
    assert caller.multiply(*addresses, layouts, workspace=0) == INVALID_VALUE
    with pytest.raises(StrictError, match="in no allocation"):
        caller.multiply(*addresses, layouts, workspace=4096)
    with pytest.raises(StrictError, match="past the end"):
        caller.multiply(*addresses, layouts, workspace=caller.workspace.ptr + (1 << 16) - 64)
    with pytest.raises(StrictError, match="no multiple of 16"):
        caller.multiply(*addresses, layouts, workspace=caller.workspace.ptr + 8)
    caller.set_preference(1, c_uint64(0))
    assert caller.choose(*layouts) == 0
    assert caller.multiply(*addresses, layouts, workspace=0) == 0


def test_two_products_do_not_share_a_workspace_at_once(machine, square):
    caller, layouts, (a, b, d) = square
    assert caller.multiply(a, b, d, layouts) == 0
    other = upload(machine, np.ones(64, np.float32))
    first, caller.stream = caller.stream, machine.stream()
    with pytest.raises(StrictError, match="nothing orders"):
        caller.multiply(a, b, other.ptr, layouts)
    machine.runtime.streamWaitEvent(caller.stream, machine.event(first))
    assert caller.multiply(a, b, other.ptr, layouts) == 0
    machine.runtime.streamSynchronize(caller.stream)


def test_algorithms_are_used_for_what_they_were_chosen_for(machine, square):
    caller, layouts, (a, b, d) = square
    caller.set(7, c_int(RELU))
    with pytest.raises(StrictError, match="chosen for another one"):
        caller.multiply(a, b, d, layouts)
    caller.set(7, c_int(DEFAULT))
    caller.result.algorithm[0] = 0
    with pytest.raises(StrictError, match="does not come from"):
        caller.multiply(a, b, d, layouts)
    assert caller.multiply(a, b, d, layouts, algorithm=False) == 0
    machine.runtime.streamSynchronize(caller.stream)


def test_alignment_is_what_the_algorithm_was_chosen_for(machine):
    caller = Caller(machine)
    layouts = [caller.layout(np.float32, 4, 4, 4) for _ in range(3)]
    block = upload(machine, np.ones(256, np.float32))
    addresses = (block.ptr, block.ptr + 4 * 17, block.ptr + 512)
    assert caller.choose(*layouts) == 0
    with pytest.raises(StrictError, match="multiples of 256"):
        caller.multiply(*addresses, layouts)
    caller.set_preference(6, c_uint32(4))
    assert caller.choose(*layouts) == 0
    assert caller.multiply(*addresses, layouts) == 0
    machine.runtime.streamSynchronize(caller.stream)


def test_operands(machine, square):
    caller, layouts, (a, b, d) = square
    with pytest.raises(StrictError, match="past the end"):
        caller.multiply(a, b + 256, d, layouts)
    with pytest.raises(StrictError, match="A and D of a cuBLASLt product share"):
        caller.multiply(a, b, a, layouts)
    pinned = machine.runtime.hostAlloc(256, 0)
    with pytest.raises(StrictError, match="uses pinned memory"):
        caller.multiply(pinned, b, d, layouts)
    caller.set(7, c_int(BIAS))
    assert caller.choose(*layouts) == 0
    assert caller.multiply(a, b, d, layouts) == INVALID_VALUE, "no bias"


def test_captured_products(machine, square):
    caller, layouts, addresses = square
    runtime = machine.runtime
    runtime.streamBeginCapture(caller.stream, THREAD_LOCAL)
    assert caller.multiply(*addresses, layouts) == 0
    caller.library.cublasLtMatmulDescDestroy(caller.descriptor)
    executable = runtime.graphInstantiate(runtime.streamEndCapture(caller.stream))
    runtime.graphLaunch(executable, caller.stream)
    runtime.streamSynchronize(caller.stream)
    assert (download(machine, caller.memories[2], 64, np.float32) == 8).all()
    assert machine.standin.counters.products == 1
    assert machine.standin.violations == []


def test_no_search_during_capture(machine, square):
    caller, layouts, addresses = square
    machine.runtime.streamBeginCapture(caller.stream)
    with pytest.raises(StrictError, match="cublasLtMatmulAlgoGetHeuristic during"):
        caller.choose(*layouts)
    with pytest.raises(StrictError, match="without an algorithm"):
        caller.multiply(*addresses, layouts, algorithm=False)
    with pytest.raises(StrictError, match="cublasLtCreate during"):
        caller.library.cublasLtCreate(byref(c_void_p()))
    other = machine.stream()
    machine.runtime.streamBeginCapture(other, THREAD_LOCAL)
    machine.standin.captures.pop(0).release()
    with pytest.raises(StrictError, match="cublasLt"):
        caller.choose(*layouts)
    assert str(CAPTURE_UNSUPPORTED) in machine.standin.violations[-1]


def test_objects_must_exist(machine, square):
    caller, layouts, addresses = square
    library = caller.library
    assert library.cublasLtMatrixLayoutDestroy(layouts[0]) == 0
    with pytest.raises(StrictError, match="is no cublasLtMatrixLayout any more"):
        caller.multiply(*addresses, layouts)
    with pytest.raises(StrictError, match="is no cublasLtMatmulDesc"):
        library.cublasLtMatmulDescSetAttribute(layouts[1], 3, byref(c_int(1)), 4)
    value, written = c_int(), c_size_t()
    read = library.cublasLtMatmulDescGetAttribute
    assert read(caller.descriptor, 0, byref(value), 4, byref(written)) == 0
    assert (value.value, written.value) == (COMPUTE_32F, 4)
    for destroy, target in (
        (library.cublasLtMatrixLayoutDestroy, layouts[1]),
        (library.cublasLtMatrixLayoutDestroy, layouts[2]),
        (library.cublasLtMatmulDescDestroy, caller.descriptor),
        (library.cublasLtMatmulPreferenceDestroy, caller.preference),
        (library.cublasLtDestroy, caller.handle),
    ):
        assert any("cu" in leak for leak in machine.standin.cublaslt.leaks())
        assert destroy(target) == 0
    assert machine.standin.cublaslt.leaks() == []
    assert library.cublasLtDestroy(caller.handle) == 1


def test_arguments_are_converted_as_ctypes_does(machine):
    library = machine.standin.cublaslt
    with pytest.raises(TypeError):
        library.cublasLtMatmulDescCreate(1)
    with pytest.raises(ctypes.ArgumentError):
        library.cublasLtCreate(1.5)
    handle = c_void_p()
    assert library.cublasLtCreate(ctypes.addressof(handle)) == 0
    assert library.cublasLtDestroy(handle.value) == 0
    assert library.cublasLtGetVersion() > 100000
    with pytest.raises(AttributeError, match="does not offer"):
        library.cublasLtLoggerSetLevel(1)
