"""The choice of kernels that are compiled for other architectures than the reference."""

from __future__ import annotations

import pytest
from architectures import REFERENCE, is_like, new_sources, path, words

from onnxplan.compiler.plan import KernelSpec
from onnxplan.kernels.cuda.source import KernelSource
from onnxplan.kernels.scalar_cuda import PRELUDE

ASKS = "#if __CUDA_ARCH__ >= 800\n#else\n#endif\n#if __CUDA_ARCH__ >= 900\n#endif\n"


def source(body):
    return KernelSource("kernel", f"{PRELUDE}{body}")


def spec(number):
    return KernelSpec("map", (number,))


def test_paths_are_the_answers_of_an_architecture():
    assert path(ASKS, "sm_75") == (False, False)
    assert path(ASKS, "sm_80") == (True, False)
    assert path(ASKS, "sm_90") == path(ASKS, "sm_120") == (True, True)
    assert path("nothing", "sm_75") == ()


@pytest.mark.parametrize("question", ["#if __CUDA_ARCH__ < 800", "#if __CUDA_ARCH__ >= LIMIT"])
def test_other_questions_are_refused(question):
    with pytest.raises(ValueError, match="least architecture"):
        path(question, "sm_75")


def test_a_kernel_is_compiled_again_for_another_text_or_another_path():
    reference = {spec(1): source("a"), spec(2): source(ASKS)}
    sources = {spec(1): source("b"), spec(2): source(ASKS), spec(3): source("c")}
    assert is_like(sources[spec(2)], reference[spec(2)], "sm_100")
    assert set(new_sources(sources, reference, "sm_100")) == {spec(1), spec(3)}
    assert set(new_sources(sources, reference, "sm_80")) == set(sources)
    assert new_sources(sources, reference, REFERENCE) == sources


def test_words_are_functions_types_and_instructions():
    found = words(source('float* p; kernel(v12(f<int>(x))); asm("mma.sync.aligned %0"); y + z;'))
    assert found == {"float", "f", "mma.sync.aligned", "asm"}


def test_ends_of_names_and_numbers_are_no_words():
    assert words(source("sum = 2u * other; onnxplan_read (x)")) == {"onnxplan_read"}
