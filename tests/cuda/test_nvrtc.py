"""Every generated kernel that the suites and the model zoo meet compiles with NVRTC, which needs no GPU."""

from __future__ import annotations

import hashlib

import pytest
from kernel_specs import SHARED_KILOBYTES, declared, kernels_of, suite_kernels, target_of
from nvrtc_batches import CompilationError, compile_kernels

from bench import models
from onnxplan.compiler.dtypes import DType
from onnxplan.kernels.cuda import attention_code, conv_matrix_code
from onnxplan.kernels.cuda.registry import FAMILIES, build
from onnxplan.kernels.cuda.tensor_core import multiplies
from tests.models.light_networks import NAMES, with_random_weights

ARCHITECTURES = tuple(SHARED_KILOBYTES)
SHARDS = 8

MOST_STACK = 64
"""Bytes of local memory of a thread that a kernel may use: around calls of what hardware has no instruction
for (divisions of 64 bits, functions of doubles) the compiler saves some registers."""


@pytest.fixture(scope="session")
def nvrtc():
    """CuPy's binding of NVRTC, or a skip with the reason."""
    try:
        from cupy_backends.cuda.libs import nvrtc

        nvrtc.getVersion()
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"NVRTC is not installed: {error}")
    return nvrtc


@pytest.fixture(scope="session")
def suite():
    """The kernels of the operator cases and of the backend suite."""
    with pytest.MonkeyPatch.context() as patch:
        # The suites verify these programs themselves.
        patch.setenv("ONNXPLAN_VERIFY", "0")
        return suite_kernels()


def shard_of(spec):
    return int(hashlib.sha256(spec.key.encode()).hexdigest(), 16) % SHARDS


def is_chosen(spec, target):
    """Would the kernel, which is chosen for sm_90, be chosen for ``target``?"""
    if spec.family == conv_matrix_code.FAMILY:
        return multiplies(target, DType.from_label(spec.variant[2]))
    if spec.family == attention_code.FAMILY and spec.variant[1][0] == "matrix":
        return multiplies(target, DType.from_label(spec.variant[5]))
    return True


def check(nvrtc, specs, architecture, record):
    """Compiles kernels, and on sm_90 bounds their use of local memory."""
    target = target_of(architecture)
    sources = {spec: build(spec, target) for spec in specs if is_chosen(spec, target)}
    try:
        usages = compile_kernels(nvrtc, list(sources.values()), architecture, f"{architecture}-{record}")
    except CompilationError as error:
        wrong = [str(spec) for spec, source in sources.items() if source is error.source]
        pytest.fail(f"{architecture}: {', '.join(wrong)}\n{error}", pytrace=False)
    if architecture != "sm_90":
        return
    for spec, usage in zip(sources, usages, strict=True):
        assert usage.stack <= MOST_STACK, f"{spec} from {specs[spec]}: {usage}"


@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_of_the_suites(nvrtc, suite, architecture, shard):
    specs = {spec: name for spec, name in suite.items() if shard_of(spec) == shard}
    assert len(specs) > 100
    check(nvrtc, specs, architecture, f"suites-{shard}")


def test_the_suites_meet_all_families(nvrtc, suite):
    assert {spec.family for spec in suite} == set(FAMILIES)


@pytest.mark.parametrize("name", list(models.ZOO))
def test_kernels_of_the_model_zoo(nvrtc, name):
    specs = {}
    for dynamic in (False, True):
        if not models.is_exported(name, dynamic=dynamic):
            pytest.skip(f"{name} is not exported: run make test-models")
        path = models.path(name, dynamic=dynamic)
        specs |= dict.fromkeys(kernels_of(path, models.feeds(name)), name)
    for architecture in ARCHITECTURES:
        check(nvrtc, specs, architecture, name)


@pytest.mark.parametrize("name", NAMES)
def test_kernels_of_the_light_networks(nvrtc, name):
    model = with_random_weights(name)
    given = {tensor.name for tensor in model.graph.initializer}
    feeds = {value.name: declared(value) for value in model.graph.input if value.name not in given}
    specs = dict.fromkeys(kernels_of(model, feeds), name)
    for architecture in ARCHITECTURES:
        check(nvrtc, specs, architecture, name)
