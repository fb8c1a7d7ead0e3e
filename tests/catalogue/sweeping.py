"""Specimens through plans and kernels, beside what others compute."""

from __future__ import annotations

import functools
import re
import warnings
import zlib

import oracle

from catalogue.nodes import bind
from catalogue.probe import has_strings, planned, run
from catalogue.specimen import all_types, default_types, schemas
from catalogue.specimens import specimen_for
from onnxplan.compiler import ops
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import OnnxPlanError
from onnxplan.compiler.registry import find
from onnxplan.runtime.devices import open_device

# Operator and type of one of its parameters -> why it is refused.
REFUSED = {
    ("Col2Im", DType.STRING): "there is no sum of strings",
    ("Col2Im", DType.COMPLEX64): "no kernel adds complex numbers",
    ("Col2Im", DType.COMPLEX128): "no kernel adds complex numbers",
    ("NonZero", DType.COMPLEX64): "no kernel compares complex numbers",
    ("NonZero", DType.COMPLEX128): "no kernel compares complex numbers",
    ("Unique", DType.COMPLEX64): "no kernel compares complex numbers",
    ("Unique", DType.COMPLEX128): "no kernel compares complex numbers",
}

# What refusals of strings say: kernels do not write them.
STRINGS = "strings that depend on other elements|conversion from .*string|conversion .*to string"

# Where nobody else's results can be compared: types and shapes are.
INCOMPARABLE = {
    ("CenterCropPad", DType.STRING): "the reference pads strings with the number 0",
    ("Resize", DType.STRING): "the reference interpolates numbers in every mode",
    ("Resize", DType.BOOL): "the reference interpolates numbers in every mode",
    ("Resize", DType.COMPLEX64): "the reference drops the imaginary part",
    ("Resize", DType.COMPLEX128): "the reference drops the imaginary part",
    ("Scatter", DType.STRING): "the reference makes numbers of the data",
    ("Cast", DType.STRING): "the reference writes 0.0 where onnxruntime writes 0",
    ("CastLike", DType.STRING): "the reference writes 0.0 where onnxruntime writes 0",
    ("GridSample", DType.STRING): "the reference pads strings with the number 0",
    ("Trilu", DType.STRING): "the reference pads strings with the number 0",
    ("Scatter", DType.COMPLEX64): "neither has it",
    ("Scatter", DType.COMPLEX128): "neither has it",
}


@functools.cache
def selector():
    return open_device("cpu", cache=False).selector


def registered():
    """All operators that the onnx package describes and that there is a rule for: domain and name."""
    ops.load()
    return [key for key, versions in schemas().items() if find(*key, versions[-1].since_version) is not None]


def choices_of_types(key):
    """All choices of types for the newest version of an operator."""
    schema = schemas()[key][-1]
    specimen = specimen_for(schema)
    return [] if specimen is None else [(schema, types) for _, types in all_types(schema, specimen)]


def versions_of(key):
    """Every version of an operator, with the types that everybody has."""
    found = []
    for schema in schemas()[key]:
        specimen = specimen_for(schema)
        if specimen is not None and find(*key, schema.since_version) is not None:
            types = default_types(schema, specimen)
            types |= {name: types[leader] for name, leader in specimen.linked.items() if name in types}
            found.append((schema, types))
    return found


def one_of(choices, name):
    """One of several choices, another for another operator."""
    return choices[zlib.crc32(name.encode()) % len(choices)]


def plan(bound):
    """What the plan for the CPU means; what strings are evaluated to."""
    return run(bound) if has_strings(bound) else planned(bound, selector()).results


def failures(choices, compute):
    """What is wrong with the results of ``compute``, by version and types."""
    found = {}
    with warnings.catch_warnings():
        # The reference computes with NaN and infinities as it does with numbers.
        warnings.simplefilter("ignore", RuntimeWarning)
        for schema, types in choices:
            try:
                _check(schema, types, compute)
            except (AssertionError, OnnxPlanError) as error:
                label = ", ".join(f"{name}={dtype}" for name, dtype in types.items())
                found[f"{schema.name}-{schema.since_version} {label}"] = str(error)
    return found


def _check(schema, types, compute):
    specimen = specimen_for(schema)
    bound = bind(schema, specimen, types)
    if any((schema.name, dtype) in REFUSED for dtype in types.values()):
        try:
            results = compute(bound)
        except OnnxPlanError:
            return
        raise AssertionError(f"it is not refused any more: {results}")
    try:
        results = compute(bound)
    except OnnxPlanError as error:
        if DType.STRING in types.values() and re.search(STRINGS, str(error)):
            return
        raise
    assert results.keys() == bound.outputs.keys()
    unchecked = any((schema.name, dtype) in INCOMPARABLE for dtype in types.values())
    wanted = None if specimen.random or unchecked else oracle.expected(schema, specimen, types)
    if wanted is None:
        assert specimen.random or unchecked, "nobody else computes this"
        for name, dtype in bound.outputs.items():
            assert DType.from_numpy(results[name].dtype) is dtype
        return
    arrays, least = wanted
    if schema.name in oracle.SINGLE_PRECISION:
        least = min(least, DType.FLOAT32, key=lambda dtype: dtype.itemsize)
    assert len(arrays) >= len(bound.outputs)
    for (name, dtype), array in zip(bound.outputs.items(), arrays, strict=False):
        oracle.check(results[name], array, dtype, least, specimen.tolerance, name)
