"""Tensors without elements, scalars and constants in every place of every operator."""

import re
import warnings
from dataclasses import replace

import numpy as np
import oracle
import pytest
from sweeping import REFUSED, plan, registered, selector

from catalogue.nodes import bind
from catalogue.probe import has_strings, planned
from catalogue.specimen import Draw, Given, default_types, schemas
from catalogue.specimens import specimen_for
from onnxplan.compiler.errors import OnnxPlanError

OPERATORS = [key for key in registered() if specimen_for(schemas()[key][-1]) is not None]

# What Python and NumPy say where a rule did not look.
UNEXPLAINED = re.compile(r"zip\(\)|newaxis|out of bounds|object is not|unpack|broadcast input array")

# Operators whose reference has another shape: why ours is right.
OTHER_SHAPES = {
    "Optional": "the reference makes a list of the value",
    "Loop": "the reference adds an axis to the scan outputs of scalars; onnxruntime does not",
    "NonZero": "the reference gives a scalar no axis; onnxruntime takes it for a vector, as NumPy did",
}


def label(key):
    return "::".join(filter(None, key))


def with_input(specimen, position, item):
    inputs = [item if number == position else other for number, other in enumerate(specimen.inputs)]
    return replace(specimen, inputs=tuple(inputs))


def variants(specimen):
    """The specimen with one axis, one input, or the same axis of all inputs empty, or a scalar."""
    for position, item in enumerate(specimen.inputs):
        if isinstance(item, Draw):
            for axis in range(len(item.shape)):
                yield f"axis {axis} of input {position}", with_input(specimen, position, emptied(item, axis))
            yield f"scalar input {position}", with_input(specimen, position, replace(item, shape=()))
        elif isinstance(item, Given) and np.ndim(item.elements) == 1:
            yield f"input {position}", with_input(specimen, position, Given(np.empty(0)))
    for axis in range(2):
        inputs = [
            emptied(item, axis) if isinstance(item, Draw) and len(item.shape) > axis else item
            for item in specimen.inputs
        ]
        yield f"axis {axis} of all inputs", replace(specimen, inputs=tuple(inputs))


def emptied(item, axis):
    return replace(item, shape=(*item.shape[:axis], 0, *item.shape[axis + 1 :]))


def default(key):
    schema = schemas()[key][-1]
    specimen = specimen_for(schema)
    types = default_types(schema, specimen)
    types |= {name: types[leader] for name, leader in specimen.linked.items() if name in types}
    return schema, specimen, types


@pytest.mark.parametrize("key", OPERATORS, ids=label)
def test_empty_tensors_and_scalars(key):
    """They are computed, to the reference's shape, or refused with a reason of our own."""
    schema, specimen, types = default(key)
    reasons = {}
    for what, variant in variants(specimen):
        bound = bind(schema, variant, types)
        try:
            results = plan(bound)
        except OnnxPlanError as error:
            reasons[what] = str(error)
            continue
        if key[1] in OTHER_SHAPES:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # The reference raises all sorts of errors for what it did not think of, and has no say then.
            try:
                expected = oracle.reference(bound)
            except Exception:
                continue
        for (name, found), right in zip(results.items(), expected, strict=False):
            assert found.shape == np.shape(right), f"{what}: {name}"
    assert not {what: reason for what, reason in reasons.items() if UNEXPLAINED.search(reason)}


@pytest.mark.parametrize("key", OPERATORS, ids=label)
def test_constants_are_folded_to_the_same(key):
    schema, specimen, types = default(key)
    if specimen.random or any((key[1], dtype) in REFUSED for dtype in types.values()):
        return
    bound = bind(schema, specimen, types)
    if has_strings(bound):
        return
    dynamic = planned(bound, selector()).results
    constant = planned(bound, selector(), constant=True).results
    for name, right in dynamic.items():
        found = constant[name]
        assert (found.dtype, found.shape) == (right.dtype, right.shape)
        np.testing.assert_allclose(found.astype(float), right.astype(float), 1e-5, 1e-6)
