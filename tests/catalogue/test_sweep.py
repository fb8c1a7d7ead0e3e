"""Every operator of the standard, in every version and for every element type that its schema allows."""

from functools import partial

import pytest
from sweeping import choices_of_types, failures, one_of, plan, registered, versions_of

from catalogue.probe import run
from catalogue.specimen import schemas
from catalogue.specimens import SPECIMENS, specimen_for

OPERATORS = registered()
# Operators that have no single node to try: why.
WITHOUT_SPECIMEN = {
    "CastMap": "its input is a map",
    "DictVectorizer": "its input is a map",
    "Gradient": "it differentiates the graph around it",
    "ImageDecoder": "its input is an encoded image",
    "ZipMap": "its output is a sequence of maps",
}


def label(key):
    return "::".join(filter(None, key))


operators = pytest.mark.parametrize("key", OPERATORS, ids=label)


def test_every_operator_has_a_specimen():
    missing = {key[1] for key, versions in schemas().items() if any(not specimen_for(s) for s in versions)}
    assert missing == set(WITHOUT_SPECIMEN)
    assert set(SPECIMENS) <= {name for _, name in schemas()} | set(WITHOUT_SPECIMEN)


@operators
def test_types(key):
    """Each choice of types plans, and the plan's meaning is what others compute."""
    assert not failures(choices_of_types(key), plan)


@operators
def test_versions(key):
    assert not failures(versions_of(key), plan)


def pytest_generate_tests(metafunc):
    if "choices" in metafunc.fixturenames:
        keys = [key for key in OPERATORS if choices_of_types(key)]
        if metafunc.config.getoption("--sweep"):
            sets = [choices_of_types(key) for key in keys]
        else:
            keys = keys[:: metafunc.function.stride]
            sets = [[one_of(choices_of_types(key), key[1])] for key in keys]
        metafunc.parametrize("choices", sets, ids=map(label, keys))


def every(stride):
    """Kernels cost most: one choice of types of each ``stride``-th operator, or all with ``--sweep``."""

    def mark(test):
        test.stride = stride
        return test

    return mark


@every(1)
def test_kernels_of_the_cpu(choices):
    assert not failures(choices, run)


@every(8)
def test_kernels_of_the_emulated_cuda_device(choices, emulated_cuda):
    assert not failures(choices, partial(run, device="cuda"))
    emulated_cuda.check()
