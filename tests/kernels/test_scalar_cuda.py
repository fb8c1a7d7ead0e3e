"""The CUDA side of the table, its text compiled for the CPU and compared with NumPy."""

import ctypes
import subprocess

import emulator
import numpy as np
import pytest
from test_scalar_math import NARROW, REFERENCES, SMALL, TYPES, grid_distance, interesting

from onnxplan.compiler import scalar
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import TRANSCENDENTAL
from onnxplan.kernels import scalar_cuda
from onnxplan.kernels.scalar import cuda_expression

pytestmark = pytest.mark.skipif(emulator.COMPILER is None, reason="no C++ compiler")


def function_text(name, op, operands, result):
    loads = []
    for number, dtype in enumerate(operands):
        value = scalar_cuda.loaded(dtype, f"x{number}[i]")
        loads.append(f"{scalar_cuda.compute_type(dtype)} a{number} = {value};")
    value = cuda_expression(op, operands[-1], result, *(f"a{number}" for number in range(len(operands))))
    value = scalar_cuda.stored(result, value)
    element = scalar_cuda.storage_type
    inputs = ", ".join(f"const {element(dtype)}* x{number}" for number, dtype in enumerate(operands))
    return (
        f'extern "C" void {name}(long n, {inputs}, {element(result)}* y) '
        f"{{ for (long i = 0; i < n; ++i) {{ {' '.join(loads)} y[i] = {value}; }} }}\n"
    )


def cases():
    for op, operation in scalar.OPERATIONS.items():
        if op.startswith("cast"):
            continue
        for dtype in TYPES:
            if dtype.kind in operation.kinds:
                operands = [dtype] * operation.arity
                if op == "select":
                    operands[0] = DType.BOOL
                yield op, operands, DType.BOOL if operation.result == "bool" else dtype
    for source in TYPES:
        for result in [*TYPES, *SMALL, *NARROW]:
            yield "cast", [source], result
            if source.is_float and result in SMALL:
                yield "cast_saturate", [source], result


CASES = [(f"f{number}", *case) for number, case in enumerate(cases())]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scalar_cuda")
    source, binary = folder / "scalar.cpp", folder / "scalar.so"
    headers = '#include "cuda_shim.h"\n#include "cuda_shim_math.h"\n'
    source.write_text(headers + scalar_cuda.PRELUDE + "".join(function_text(*case) for case in CASES))
    options = [*emulator.KERNEL_FLAGS, "-fwrapv", "-shared", f"-I{emulator.HERE}"]
    subprocess.run([emulator.COMPILER, *options, "-o", binary, source], check=True)
    return ctypes.CDLL(str(binary))


@pytest.mark.parametrize("op", sorted(scalar.OPERATIONS))
def test_cuda_text(op, library):
    rng = np.random.default_rng(12)
    for name, case_op, operands, result in CASES:
        if case_op != op:
            continue
        arguments = [interesting(dtype, rng, 1001) for dtype in operands]
        if op == "pow" and operands[0].is_integer:
            arguments[1] = rng.integers(-3 if operands[0].kind == "i" else 0, 9, 1001).astype(result.numpy)
        keep = np.ones(1001, bool)
        if op in ("div", "mod", "remainder") and result.is_integer:
            keep = arguments[1] != 0
        if op.startswith("cast") and operands[0].is_float and result.is_integer:
            wide = arguments[0].astype(np.float64)
            keep = (np.abs(wide) < 2.0**62) & ((wide >= 0) | (result is not DType.UINT64))
        got = np.zeros(1001, result.numpy)
        pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (*arguments, got)]
        getattr(library, name)(ctypes.c_long(1001), *pointers)
        if op in TRANSCENDENTAL and result.is_float:
            if result in (DType.FLOAT32, DType.FLOAT64):
                wide = np.float64 if result is DType.FLOAT32 else np.longdouble
                function = np.power if op == "pow" else REFERENCES[op]
                with np.errstate(all="ignore"):
                    if op == "erf":
                        want = function(arguments[0].astype(np.float64)).astype(result.numpy)
                    else:
                        want = function(*(a.astype(wide) for a in arguments)).astype(result.numpy)
                assert grid_distance(got, want).max() <= 4, (op, result)
            continue
        want = scalar.evaluate(op, result, arguments)
        assert want.dtype == got.dtype
        np.testing.assert_array_equal(
            got[keep].astype(np.float64), want[keep].astype(np.float64), err_msg=f"{op} {operands} {result}"
        )
