"""Every generated kernel that the suites and the model zoo meet compiles with NVRTC, which needs no GPU.

For which architectures says ``architectures.py``.
"""

from __future__ import annotations

import hashlib

import nvrtc_batches
import pytest
from architectures import ARCHITECTURES, QUICK, REFERENCE, cover, longest, new_sources, words
from kernel_specs import declared, kernels_of, suite_kernels, target_of
from nvrtc_batches import CompilationError, compile_kernels

from bench import models
from onnxplan.compiler.dtypes import DType
from onnxplan.kernels.cuda import attention_form, conv_matrix_code
from onnxplan.kernels.cuda.registry import FAMILIES, build
from onnxplan.kernels.cuda.source import KernelSource
from onnxplan.kernels.cuda.tensor_core import multiplies
from onnxplan.kernels.scalar_cuda import PRELUDE
from tests.models.light_networks import NAMES, with_random_weights

SHARDS = 8
OTHERS = tuple(name for name in ARCHITECTURES if name != REFERENCE)

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


@pytest.fixture(scope="session")
def covering(suite):
    """Kernels of ``suite`` that use all that its families use."""
    return cover(suite)


@pytest.fixture
def everywhere(suite, covering, pytestconfig):
    """Those of ``suite`` that are compiled for all architectures."""
    return set(suite) if pytestconfig.getoption("all_architectures") else covering


@pytest.fixture(scope="session")
def long_ones(suite):
    return longest(suite)


@pytest.fixture
def measured(everywhere, long_ones):
    """Those of ``suite`` whose use of local memory is bounded."""
    return everywhere | long_ones


def shard_of(spec):
    return int(hashlib.sha256(spec.key.encode()).hexdigest(), 16) % SHARDS


def is_chosen(spec, target):
    """Would the kernel, which is chosen for sm_90, be chosen for ``target``?"""
    if spec.family == conv_matrix_code.FAMILY:
        return multiplies(target, DType.from_label(spec.variant[2]))
    if spec.family == attention_form.FAMILY and spec.variant[1][0] == "matrix":
        return multiplies(target, DType.from_label(spec.variant[5]))
    return True


def sources_of(specs, architecture):
    target = target_of(architecture)
    return {spec: build(spec, target) for spec in specs if is_chosen(spec, target)}


def compiled(nvrtc, sources, architecture, record, options=()):
    """What kernels take of a thread; the test fails with the names of those that do not compile."""
    try:
        usages = compile_kernels(nvrtc, list(sources.values()), architecture, record, options)
    except CompilationError as error:
        wrong = [str(spec) for spec, source in sources.items() if source is error.source]
        pytest.fail(f"{architecture}: {', '.join(wrong)}\n{error}", pytrace=False)
    return dict(zip(sources, usages, strict=True))


def check_reference(nvrtc, specs, measured, record):
    """Compiles kernels, and bounds the use of local memory of those in ``measured``."""
    sources = sources_of(specs, REFERENCE)
    chosen = {spec: source for spec, source in sources.items() if spec in measured}
    for spec, usage in compiled(nvrtc, chosen, REFERENCE, f"{REFERENCE}-{record}").items():
        assert usage.stack <= MOST_STACK, f"{spec} from {specs[spec]}: {usage}"
    rest = {spec: source for spec, source in sources.items() if spec not in measured}
    compiled(nvrtc, rest, REFERENCE, f"{REFERENCE}-{record}-quick", QUICK)


def check_other(nvrtc, specs, everywhere, architecture, record):
    """Compiles those in ``everywhere``, and those that are not what the reference compiles."""
    sources = sources_of(specs, architecture)
    new = new_sources(sources, sources_of(specs, REFERENCE), architecture)
    sources = {spec: source for spec, source in sources.items() if spec in everywhere or spec in new}
    compiled(nvrtc, sources, architecture, f"{architecture}-{record}")


def check_everywhere(nvrtc, specs, record, config):
    everywhere = set(specs) if config.getoption("all_architectures") else cover(specs)
    check_reference(nvrtc, specs, set(specs), record)
    for architecture in OTHERS:
        check_other(nvrtc, specs, everywhere, architecture, record)


def part_of(suite, shard):
    specs = {spec: name for spec, name in suite.items() if shard_of(spec) == shard}
    assert len(specs) > 100
    return specs


@pytest.mark.parametrize("shard", range(SHARDS))
def test_kernels_of_the_suites(nvrtc, suite, measured, shard):
    check_reference(nvrtc, part_of(suite, shard), measured, f"suites-{shard}")


@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("architecture", OTHERS)
def test_kernels_of_the_suites_on_other_architectures(nvrtc, suite, everywhere, architecture, shard):
    check_other(nvrtc, part_of(suite, shard), everywhere, architecture, f"suites-{shard}")


@pytest.mark.parametrize("options", [(), QUICK], ids=["runtime", "quick"])
@pytest.mark.parametrize(
    "wrong",
    [
        "absent(words);",
        'asm volatile("mul.wide.f64 %0, %0, %0;" : "+l"(*words));',
        "__shared__ int s[99999]; s[*words] = 1; *words = s[0];",
    ],
    ids=["name", "instruction", "memory"],
)
def test_what_does_not_compile_is_refused(nvrtc, tmp_path, monkeypatch, wrong, options):
    monkeypatch.setattr(nvrtc_batches, "FOLDER", tmp_path)
    texts = [
        f'{PRELUDE}extern "C" __global__ void kernel(long long* words) {{ {body} }}'
        for body in ("++*words;", f"{wrong} ++*words;")
    ]
    good, bad = (KernelSource("kernel", text) for text in texts)
    compile_kernels(nvrtc, [good], REFERENCE, "good", options)
    with pytest.raises(CompilationError) as refusal:
        compile_kernels(nvrtc, [good, bad], REFERENCE, "bad", options)
    assert refusal.value.source is bad


def test_the_suites_meet_all_families(nvrtc, suite):
    assert {spec.family for spec in suite} == set(FAMILIES)


def test_what_a_family_uses_is_compiled_for_all_architectures(suite, covering):
    assert len(covering) < len(suite) / 10
    for family in FAMILIES:
        used, compiled = (
            frozenset().union(
                *(words(build(spec, target_of(REFERENCE))) for spec in specs if spec.family == family)
            )
            for specs in (suite, covering)
        )
        assert used == compiled, family


@pytest.mark.parametrize("name", list(models.ZOO))
def test_kernels_of_the_model_zoo(nvrtc, name, pytestconfig):
    specs = {}
    for dynamic in (False, True):
        if not models.is_exported(name, dynamic=dynamic):
            pytest.skip(f"{name} is not exported: run make test-models")
        path = models.path(name, dynamic=dynamic)
        specs |= dict.fromkeys(kernels_of(path, models.feeds(name)), name)
    check_everywhere(nvrtc, specs, name, pytestconfig)


def test_kernels_of_the_light_networks(nvrtc, pytestconfig):
    specs = {}
    for name in NAMES:
        model = with_random_weights(name)
        given = {tensor.name for tensor in model.graph.initializer}
        feeds = {value.name: declared(value) for value in model.graph.input if value.name not in given}
        for spec in kernels_of(model, feeds):
            specs.setdefault(spec, name)
    check_everywhere(nvrtc, specs, "light-networks", pytestconfig)
