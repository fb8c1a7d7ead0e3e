"""Which kernels the suites meet when their models are planned for a CUDA device; nothing runs."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnxplan.compiler.constant_pool import ConstantPool
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import UnsupportedOperatorError
from onnxplan.compiler.importer import load_model
from onnxplan.compiler.lowering import lower
from onnxplan.compiler.pipeline import compile_program
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.target import Target
from onnxplan.kernels.cuda.registry import LIBRARY_FAMILIES, CudaKernels

sys.path.insert(0, str(Path(__file__).parent.parent / "ops"))

TARGET = Target("cuda", "sm_90", 16, 255, (227 << 10, 50 << 20), 132, alignment=256)
SHARED_KILOBYTES = {"sm_75": 64, "sm_80": 163, "sm_90": 227, "sm_100": 227, "sm_120": 99}
"""Most shared memory of a block by compute capability, from the tables of the CUDA C++ Programming Guide."""


def target_of(architecture: str) -> Target:
    """A device of a compute capability, as far as kernels ask."""
    shared = SHARED_KILOBYTES[architecture] << 10
    return replace(TARGET, isa=architecture, cache_bytes=(shared, TARGET.cache_bytes[1]))


def kernels_of(model: Any, feeds: Mapping[str, Any], *, optimize: int = 1) -> tuple[KernelSpec, ...]:
    """The generated kernels of a model's first stage.

    ``feeds`` are arrays, lists of them, or ``TensorProto``. Raises ``UnsupportedOperatorError`` as a session
    does.
    """
    from cases import flatten

    pool = ConstantPool()
    feeds, structures = flatten(feeds)
    shapes = {name: _shape(value) for name, value in feeds.items()}
    texts = {name: _texts(value) for name, value in feeds.items() if _is_text(value)}
    program = lower(load_model(model), shapes, texts=texts, structures=structures, pool=pool).program
    for name in [name for name, view in program.outputs.items() if view.dtype is DType.STRING]:
        del program.outputs[name]
    plan = compile_program(program, CudaKernels(TARGET), pool, optimize=optimize).plan
    return tuple(spec for spec in plan.kernels if spec.family not in LIBRARY_FAMILIES)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.dims) if isinstance(value, onnx.TensorProto) else np.shape(value)


def _is_text(value: Any) -> bool:
    if isinstance(value, onnx.TensorProto):
        return value.data_type == onnx.TensorProto.STRING
    return np.asarray(value).dtype.kind in "OUS"


def _texts(value: Any) -> tuple[str, ...]:
    array = numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
    return tuple(map(str, array.reshape(-1)))


def suite_kernels() -> dict[KernelSpec, str]:
    """The kernels of operator cases and of the official backend suite, each with the case that it is from.

    What has no CUDA kernel is left out: the suites themselves say whether that may be.
    """
    found: dict[KernelSpec, str] = {}
    for name, model, feeds, optimize in (*_operator_cases(), *_backend_cases()):
        try:
            specs: Iterable[KernelSpec] = kernels_of(model, feeds, optimize=optimize)
        except UnsupportedOperatorError:
            continue
        for spec in specs:
            found.setdefault(spec, name)
    return found


def _operator_cases() -> Iterator[tuple[str, Any, Mapping[str, Any], int]]:
    """As ``tests/ops/test_cases_cuda.py`` runs them."""
    from test_cases_cuda import CASES, PLAIN_CASES

    for cases, optimize in ((CASES, 1), (PLAIN_CASES, 0)):
        for case in cases:
            yield case.id, case.model(), case.feeds(), optimize


def _backend_cases() -> Iterator[tuple[str, Any, Mapping[str, Any], int]]:
    """Those whose inputs and outputs are tensors; inputs of exported models as their files declare them."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        # Some cases overflow on purpose while they are generated.
        warnings.simplefilter("ignore", RuntimeWarning)
        cases = [
            case
            for kind in ("node", "simple", "pytorch-converted", "pytorch-operator")
            for case in load_model_tests(kind=kind)
        ]
    for case in cases:
        model = case.model or onnx.load(Path(case.model_dir) / "model.onnx")
        values = [*model.graph.input, *model.graph.output]
        if any(value.type.WhichOneof("value") not in ("tensor_type", None) for value in values):
            continue
        given = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in given]
        if not case.data_sets and any(
            value.type.tensor_type.elem_type == onnx.TensorProto.STRING for value in inputs
        ):
            # Without their content there is no plan.
            continue
        if case.data_sets:
            feeds = dict(zip((value.name for value in inputs), case.data_sets[0][0], strict=False))
        else:
            feeds = {value.name: declared(value) for value in inputs}
        yield case.name, model, feeds, 1


def declared(value: onnx.ValueInfoProto) -> onnx.TensorProto:
    """A tensor without elements of the declared shape."""
    return onnx.TensorProto(dims=[d.dim_value for d in value.type.tensor_type.shape.dim])
