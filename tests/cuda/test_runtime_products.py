"""Matrix products of the runtime: descriptors in the real cuBLASLt, and what is computed from them."""

from __future__ import annotations

import ctypes

import ml_dtypes
import numpy as np
import pytest
from runtime_plans import Bench, values

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import DeviceError, UnsupportedOperatorError
from onnxplan.compiler.plan import Binding, Buffer, CompiledPlan, ExecutionPlan, KernelSpec, Operand, Step
from onnxplan.runtime.cuda import cublaslt
from onnxplan.runtime.cuda.cublaslt import (
    ALGORITHM_BYTES,
    CUBLAS_COMPUTE_32F,
    CUBLAS_COMPUTE_32F_FAST_TF32,
    CUBLAS_COMPUTE_64F,
    CUBLAS_OP_N,
    CUBLAS_OP_T,
    CUDA_R_16BF,
    CUDA_R_16F,
    CUDA_R_32F,
    CUDA_R_64F,
    CublasLt,
    CublasLtError,
    Descriptor,
    DescriptorAttribute,
    Epilogue,
    HeuristicResult,
    Layout,
    LayoutAttribute,
    Preference,
    PreferenceAttribute,
    Status,
)
from onnxplan.runtime.cuda.matmul import BoundProduct, Product, _arithmetic

TOLERANCES = {"float32": 1e-5, "float64": 1e-12, "float16": 2e-3, "bfloat16": 2e-2}


@pytest.fixture(scope="module")
def library():
    """The installed library itself: descriptors need no driver."""
    from cuda.pathfinder import load_nvidia_dynamic_lib

    return CublasLt(ctypes.CDLL(load_nvidia_dynamic_lib("cublasLt").abs_path))


def product(**changes: object) -> Product:
    usual: dict[str, object] = {
        "types": ("float32", "float32", "float32"),
        "trans_a": False,
        "trans_b": False,
        "epilogue": "none",
        "alignments": (256, 256, 256, 256),
        "batch": 1,
        "m": 5,
        "n": 7,
        "k": 3,
        "lda": 3,
        "ldb": 7,
        "ldd": 7,
        "stride_a": 0,
        "stride_b": 0,
        "stride_d": 0,
    }
    return Product(**{**usual, **changes})


@pytest.mark.parametrize("attribute", list(DescriptorAttribute))
def test_descriptors_give_back_what_was_set(library, attribute):
    with Descriptor(library, CUBLAS_COMPUTE_32F, CUDA_R_32F) as descriptor:
        if attribute is DescriptorAttribute.COMPUTE_TYPE:
            assert descriptor.get(attribute) == CUBLAS_COMPUTE_32F
            return
        if attribute is DescriptorAttribute.SCALE_TYPE:
            assert descriptor.get(attribute) == CUDA_R_32F
            return
        value = 0x7F00_1234_5600 if attribute is DescriptorAttribute.BIAS_POINTER else 1
        descriptor.set(attribute, value)
        assert descriptor.get(attribute) == value


@pytest.mark.parametrize("epilogue", list(Epilogue))
def test_epilogues_are_known(library, epilogue):
    with Descriptor(library, CUBLAS_COMPUTE_32F, CUDA_R_32F) as descriptor:
        descriptor.set(DescriptorAttribute.EPILOGUE, epilogue)
        assert descriptor.get(DescriptorAttribute.EPILOGUE) == epilogue


@pytest.mark.parametrize("kind", [CUDA_R_16BF, CUDA_R_16F, CUDA_R_32F, CUDA_R_64F])
def test_layouts_give_back_what_was_set(library, kind):
    with Layout(library, kind, 128, 64, 130) as layout:
        layout.set(LayoutAttribute.BATCH_COUNT, 12)
        layout.set(LayoutAttribute.STRIDED_BATCH_OFFSET, 1 << 40)
        found = {attribute.name: layout.get(attribute) for attribute in LayoutAttribute}
    assert found == {
        "TYPE": kind,
        "ORDER": 0,
        "ROWS": 128,
        "COLS": 64,
        "LD": 130,
        "BATCH_COUNT": 12,
        "STRIDED_BATCH_OFFSET": 1 << 40,
    }


def test_preferences_give_back_what_was_set(library):
    with Preference(library) as preference:
        for number, attribute in enumerate(PreferenceAttribute):
            preference.set(attribute, 16 << number)
            assert preference.get(attribute) == 16 << number


def test_a_wrong_call_names_itself_and_the_status(library):
    with Descriptor(library, CUBLAS_COMPUTE_32F, CUDA_R_32F) as descriptor:
        handle = descriptor.handle
        with pytest.raises(CublasLtError, match="SetAttribute: CUBLAS_STATUS_INVALID_VALUE") as caught:
            library.call("cublasLtMatmulDescSetAttribute", handle, 3, 0, 4)
    assert caught.value.status == Status.INVALID_VALUE
    assert isinstance(caught.value, DeviceError)
    descriptor.close()
    assert "unknown status 77" in str(CublasLtError("call", 77))


def test_constants_are_those_of_the_header():
    """Read from the installed headers, where there are some."""
    import re
    from pathlib import Path

    from cuda.pathfinder import load_nvidia_dynamic_lib

    folder = Path(load_nvidia_dynamic_lib("cublasLt").abs_path).parent.parent / "include"
    if not (folder / "cublasLt.h").exists():
        pytest.skip("the headers of cuBLAS are not installed")
    text = "".join((folder / name).read_text() for name in ("cublasLt.h", "cublas_api.h"))
    found = dict(re.findall(r"^\s*(CUBLAS\w+)\s*=\s*(\d+)\b(?!\s*\|)", text, re.MULTILINE))
    checked = 0
    for prefix, names in (
        ("CUBLAS_STATUS_", {s.name: int(s) for s in Status}),
        ("CUBLASLT_MATMUL_DESC_", {a.name: a.number for a in DescriptorAttribute}),
        ("CUBLASLT_MATRIX_LAYOUT_", {a.name: a.number for a in LayoutAttribute}),
        ("CUBLASLT_MATMUL_PREF_", {a.name: a.number for a in PreferenceAttribute}),
        ("CUBLASLT_EPILOGUE_", {e.name: int(e) for e in Epilogue if e is not Epilogue.RELU_BIAS}),
        ("CUBLAS_", {"OP_N": CUBLAS_OP_N, "OP_T": CUBLAS_OP_T, "COMPUTE_32F": CUBLAS_COMPUTE_32F}),
        ("CUBLAS_COMPUTE_", {"64F": CUBLAS_COMPUTE_64F, "32F_FAST_TF32": CUBLAS_COMPUTE_32F_FAST_TF32}),
    ):
        for name, value in names.items():
            assert int(found[prefix + name]) == value, name
            checked += 1
    assert checked > 35
    assert Epilogue.RELU_BIAS == Epilogue.RELU | Epilogue.BIAS
    assert ctypes.sizeof(HeuristicResult) == ALGORITHM_BYTES + 8 + 4 + 4 + 16


@pytest.mark.parametrize(("trans_a", "lda"), [(False, 3), (True, 5)])
@pytest.mark.parametrize(("trans_b", "ldb"), [(False, 9), (True, 3)])
def test_a_row_major_product_is_the_transposed_one(bench, trans_a, lda, trans_b, ldb):
    bound = bound_product(
        bench, product(trans_a=trans_a, lda=lda, trans_b=trans_b, ldb=ldb, batch=4, stride_b=99)
    )
    b, a, d = bound._layouts
    sizes = [
        tuple(layout.get(x) for x in (LayoutAttribute.ROWS, LayoutAttribute.COLS)) for layout in (b, a, d)
    ]
    assert sizes == [(3, 7) if trans_b else (7, 3), (5, 3) if trans_a else (3, 5), (7, 5)]
    assert [layout.get(LayoutAttribute.LD) for layout in (b, a, d)] == [ldb, lda, 7]
    assert b.get(LayoutAttribute.BATCH_COUNT) == 4
    assert b.get(LayoutAttribute.STRIDED_BATCH_OFFSET) == 99
    with bound.descriptor(0) as descriptor:
        assert descriptor.get(DescriptorAttribute.TRANSA) == (CUBLAS_OP_T if trans_b else CUBLAS_OP_N)
        assert descriptor.get(DescriptorAttribute.TRANSB) == (CUBLAS_OP_T if trans_a else CUBLAS_OP_N)
    bound.close()


def bound_product(bench: Bench, wanted: Product, **options: object) -> BoundProduct:
    with bench.device.context.active("a test"):
        from onnxplan.runtime.cuda.executor import _cublaslt

        library, handle = _cublaslt(bench.device.context)
        return BoundProduct(
            library, handle, wanted, "step 3 (MatMul_7)", **{"fast": False, "workspace": 1 << 20, **options}
        )


def test_the_bias_is_an_attribute_of_the_descriptor(bench):
    bound = bound_product(bench, product(epilogue="relu_bias"))
    with bound.descriptor(0x1234_5600) as descriptor:
        assert descriptor.get(DescriptorAttribute.EPILOGUE) == Epilogue.RELU_BIAS
        assert descriptor.get(DescriptorAttribute.BIAS_POINTER) == 0x1234_5600
    bound.close()


def test_arithmetic():
    half = ("float16", "float16", "float16")
    assert _arithmetic(product(), fast=False) == (CUBLAS_COMPUTE_32F, CUDA_R_32F)
    assert _arithmetic(product(), fast=True) == (CUBLAS_COMPUTE_32F_FAST_TF32, CUDA_R_32F)
    assert _arithmetic(product(types=half), fast=True) == (CUBLAS_COMPUTE_32F, CUDA_R_32F)
    assert _arithmetic(product(types=("float64",) * 3), fast=True) == (CUBLAS_COMPUTE_64F, CUDA_R_64F)
    with pytest.raises(DeviceError, match=r"no product .* int8"):
        _arithmetic(product(types=("int8", "int8", "int32")), fast=False)


def test_no_algorithm_names_the_step(bench):
    functions = bound_product(bench, product())._library._functions
    for status in (0, Status.NOT_SUPPORTED):
        functions["cublasLtMatmulAlgoGetHeuristic"] = lambda *arguments, status=status: int(status)
        before = bench.blocks
        with pytest.raises(UnsupportedOperatorError, match=r"step 3 \(MatMul_7\): cuBLASLt has no algorithm"):
            bound_product(bench, product())
        assert bench.blocks == before
    functions["cublasLtMatmulAlgoGetHeuristic"] = lambda *arguments: int(Status.INTERNAL_ERROR)
    with pytest.raises(CublasLtError, match="INTERNAL_ERROR"):
        bound_product(bench, product())


def matrices_plan(
    bench: Bench, wanted: Product, sizes: tuple[int, int, int], dtypes: list[DType]
) -> CompiledPlan:
    """d = a b of flat inputs; offsets as they are. With a bias, the third input."""
    bias = wanted.has_bias
    names = ["a", "b", *(["bias"] if bias else [])]
    counts = [sizes[0], sizes[1], *([wanted.n] if bias else []), sizes[2]]
    types = [dtypes[0], dtypes[1], *([dtypes[2]] if bias else []), dtypes[2]]
    bindings = [Binding(n, t, (c,)) for n, t, c in zip([*names, "d"], types, counts, strict=True)]
    spaces = [("input", index) for index in range(len(names))] + [("output", 0)]
    buffers = [
        Buffer(space, index, 0, count * dtype.itemsize)
        for (space, index), count, dtype in zip(spaces, counts, types, strict=True)
    ]
    operands = tuple(
        Operand(number, 0, binding.dtype, binding.shape, (1,)) for number, binding in enumerate(bindings)
    )
    p = wanted
    words = (p.batch, p.m, p.n, p.k, p.lda, p.ldb, p.ldd, p.stride_a, p.stride_b, p.stride_d)
    kernel = KernelSpec("cublaslt", (*p.types, p.trans_a, p.trans_b, p.epilogue))
    step = Step(kernel, operands, (len(operands) - 1,), words, 1, 0, 0, 0, 0.0, ("node",))
    plan = ExecutionPlan(
        bench.target, tuple(bindings[:-1]), (bindings[-1],), (), tuple(buffers), (step,), 0, 0, 0
    )
    return CompiledPlan(plan, ())


@pytest.mark.parametrize("dtype", list(TOLERANCES))
@pytest.mark.parametrize("trans_a", [False, True])
@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("epilogue", ["none", "relu", "bias", "relu_bias"])
def test_products_are_right(bench, dtype, trans_a, trans_b, epilogue):
    """Batches with padding of rows, and one b for all of them."""
    batch, m, n, k, pad = 3, 5, 7, 4, 2
    known = DType.from_label(dtype)
    rows_a, columns_a = (k, m) if trans_a else (m, k)
    rows_b, columns_b = (n, k) if trans_b else (k, n)
    lda, ldb, ldd = columns_a + pad, columns_b + pad, n + pad
    generator = np.random.default_rng(0)
    a = generator.standard_normal((batch, rows_a, lda)).astype(known.numpy)
    b = generator.standard_normal((rows_b, ldb)).astype(known.numpy)
    bias = generator.standard_normal(n).astype(known.numpy)
    wanted = product(
        types=(dtype,) * 3, trans_a=trans_a, trans_b=trans_b, epilogue=epilogue, batch=batch, m=m, n=n, k=k,
        lda=lda, ldb=ldb, ldd=ldd, stride_a=rows_a * lda, stride_b=0, stride_d=m * ldd,
    )  # fmt: skip
    sizes = a.size, b.size, batch * m * ldd
    executor = bench.bind(matrices_plan(bench, wanted, sizes, [known] * 3))
    inputs = [a.reshape(-1), b.reshape(-1), *([bias] if "bias" in epilogue else [])]
    for _ in range(3):
        result = np.zeros(sizes[2], known.numpy)
        executor.run(inputs, (result,))
        left, right = a[:, :, :columns_a].astype(float), b[:, :columns_b].astype(float)
        left = left.swapaxes(1, 2) if trans_a else left
        expected = left @ (right.T if trans_b else right)
        expected = expected + bias.astype(float) if "bias" in epilogue else expected
        expected = np.maximum(expected, 0) if "relu" in epilogue else expected
        found = result.reshape(batch, m, ldd)[:, :, :n].astype(float)
        np.testing.assert_allclose(found, expected, rtol=TOLERANCES[dtype], atol=4 * TOLERANCES[dtype])


def test_narrow_types_may_have_wide_results(bench):
    a, b = (values(n, n).astype(ml_dtypes.bfloat16) for n in (12, 20))
    wanted = product(types=("bfloat16", "bfloat16", "float32"), m=3, k=4, n=5, lda=4, ldb=5, ldd=5)
    types = [DType.BFLOAT16, DType.BFLOAT16, DType.FLOAT32]
    executor = bench.bind(matrices_plan(bench, wanted, (12, 20, 15), types))
    result = np.empty(15, np.float32)
    executor.run((a, b), (result,))
    expected = a.reshape(3, 4).astype(float) @ b.reshape(4, 5).astype(float)
    np.testing.assert_allclose(result.reshape(3, 5), expected, rtol=1e-6)


def test_products_of_nothing_are_not_called(bench):
    executor = bench.bind(matrices_plan(bench, product(m=0), (0, 21, 0), [DType.FLOAT32] * 3))
    executor.run((values(0), values(21)), (np.empty(0, np.float32),))
    assert bench.counters.products == 0
    assert bench.counters.heuristics == 0


def test_equal_products_share_an_algorithm(bench):
    compiled = matrices_plan(bench, product(), (15, 21, 35), [DType.FLOAT32] * 3)
    plan = compiled.plan
    twice = ExecutionPlan(plan.target, plan.inputs, plan.outputs, (), plan.buffers, plan.steps * 2, 0, 0, 0)
    bench.bind(CompiledPlan(twice, ()))
    assert bench.counters.heuristics == 1


def test_alignments_come_from_offsets():
    operands = tuple(Operand(0, offset, DType.FLOAT32, (4,), (1,)) for offset in (0, 260, 16, 8))
    step = Step(
        KernelSpec("cublaslt", ("float32", "float32", "float32", False, True, "bias")),
        operands, (3,), (1, 2, 3, 4, 4, 4, 3, 0, 0, 0), 1, 0, 0, 0, 0.0, (),
    )  # fmt: skip
    plan = ExecutionPlan(Bench().target, (), (), (), (Buffer("arena", 0, 512, 4096),), (step,), 8192, 8192, 0)
    found = Product.of(step, plan)
    assert found.alignments == (256, 4, 16, 8)
    assert (found.m, found.n, found.k, found.trans_b, found.has_bias) == (2, 3, 4, True, True)


def test_all_prototypes_are_of_functions_of_the_library():
    from cuda.pathfinder import load_nvidia_dynamic_lib

    bare = ctypes.CDLL(load_nvidia_dynamic_lib("cublasLt").abs_path)
    assert all(hasattr(bare, name) for name in cublaslt._PROTOTYPES)
