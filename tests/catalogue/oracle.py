"""What others compute for a specimen: the standard's text, onnxruntime, or ONNX's reference."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import onnxruntime
from onnx.reference import ReferenceEvaluator

from catalogue.nodes import bind
from catalogue.specimen import constraints, default_types, schemas
from catalogue.specimens import specimen_for
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.scalar import convert

FIRST_PEER_OPSET = 7
"""The oldest opset that onnxruntime computes."""
NEWEST_PEER_IR = 12

# Floats are widened, and other types where nobody has them; most exact first.
WIDER = {
    "f": (DType.FLOAT64, DType.FLOAT32),
    "i": (DType.INT64, DType.INT32, DType.INT8),
    "u": (DType.UINT64, DType.UINT32, DType.UINT8),
    "c": (DType.COMPLEX128, DType.COMPLEX64),
    "b": (),
    "s": (),
}
MOST_CHOICES = 24

# Operators that onnxruntime computes otherwise than the standard says.
REFERENCE_FIRST = {
    "TreeEnsembleClassifier": "two classes that leaves vote for become one score of both signs",
}
# Operators whose coefficients the reference truncates to integers where the features are integers.
REAL_COEFFICIENTS = {"LinearRegressor", "SVMRegressor", "TreeEnsembleRegressor"}
# Those that compute in float32 on their way whatever the types are.
SINGLE_PRECISION = {
    "Attention", "BlackmanWindow", "GroupNormalization", "HammingWindow", "HannWindow", "RMSNormalization",
}  # fmt: skip

RELATIVE = {DType.FLOAT64: 1e-10, DType.FLOAT32: 2e-5, DType.FLOAT16: 4e-3, DType.BFLOAT16: 2e-2}
SMALL_RELATIVE = 0.3
"""Of floats of eight bits and less: one step of two bits of mantissa."""


def expected(schema, specimen, types, feeds=None):
    """The right outputs in types that may be wider, and the least exact type that they were computed in.

    ``None`` where nobody computes the operator for such types.
    """
    bound = bind(schema, specimen, types, feeds)
    if specimen.reference is not None:
        with np.errstate(all="ignore"):
            results = specimen.reference(*map(_widened, bound.feeds.values()))
        return list(results) if isinstance(results, tuple) else [results], DType.FLOAT64
    if not schema.domain and not _reaches(schema, FIRST_PEER_OPSET):
        following = _neighbour(schema, 1)
        other = specimen_for(following)
        return expected(following, other, default_types(following, other) | _allowed(following, types))
    orders = [_peer, reference]
    # onnxruntime loses strings that are read twice.
    if schema.name in REFERENCE_FIRST or DType.STRING in types.values():
        orders.reverse()
    for evaluate in orders:
        for wider in [types] if specimen.pairs else _candidates(schema, types):
            results = _try(evaluate, schema, specimen, wider, bound.feeds)
            if results is not None:
                floats = [dtype for dtype in wider.values() if dtype.is_float]
                return results, min(floats, key=lambda dtype: dtype.itemsize, default=DType.FLOAT64)
    earlier = _neighbour(schema, -1)
    if earlier is not None and specimen_for(earlier) is specimen:
        found = default_types(earlier, specimen)
        wide = {name: (*WIDER[dtype.kind], found.get(name)) for name, dtype in types.items() if name in found}
        allowed = constraints(earlier)
        found |= {name: next(d for d in choices if d in allowed[name]) for name, choices in wide.items()}
        return expected(earlier, specimen, found, bound.feeds)
    return None


def check(found, wanted, dtype, least, tolerance, name):
    """Raises ``AssertionError`` where ``found`` is not ``wanted`` as ``dtype``."""
    wanted = np.asarray(wanted)
    assert DType.from_numpy(found.dtype) is dtype, f"{name} is {found.dtype}, expected {dtype}"
    assert found.shape == wanted.shape, f"{name} has the shape {found.shape}, expected {wanted.shape}"
    if dtype.kind == "c":
        np.testing.assert_allclose(found, wanted, 1e-6, err_msg=name)
    elif dtype.is_float:
        error = max(RELATIVE.get(each, SMALL_RELATIVE) for each in (dtype, least))
        relative, absolute = (error, error / 10) if tolerance is None else tolerance
        wanted = convert(wanted, dtype).astype(np.float64)
        np.testing.assert_allclose(found.astype(np.float64), wanted, relative, absolute, err_msg=name)
    else:
        np.testing.assert_array_equal(found, wanted.astype(found.dtype), err_msg=name)


_refused = set()


def _try(evaluate, schema, specimen, types, feeds):
    """The results, or ``None`` where the implementation does not have such a node."""
    key = (evaluate, schema.domain, schema.name, schema.since_version, *types.items())
    if key in _refused:
        return None
    bound = bind(schema, specimen, types, feeds)
    # Whatever an implementation raises, it has no opinion: there is another, or the test says so.
    try:
        return list(evaluate(bound))
    except Exception:
        _refused.add(key)
        return None


def _peer(bound):
    model = bound.model(opset=bound.version if bound.domain else max(bound.version, FIRST_PEER_OPSET))
    model.ir_version = min(model.ir_version, NEWEST_PEER_IR)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, dict(bound.feeds))


def reference(bound):
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(bound.model()).run(None, dict(bound.feeds))


def _candidates(schema, types):
    """Wider types in the place of ``types``, all that the schema allows."""
    allowed = constraints(schema)
    choices = []
    for parameter, dtype in types.items():
        wider = [other for other in WIDER[dtype.kind] if other in allowed[parameter]]
        floats = [other for other in WIDER["f"] if other in allowed[parameter]]
        if dtype.is_float:
            wider = [*wider, dtype]
        elif dtype.kind == "i" and schema.name in REAL_COEFFICIENTS:
            wider = [*floats, dtype]
        else:
            wider = [dtype, *wider]
        choices.append([(parameter, each) for each in dict.fromkeys(wider)])
    for choice in itertools.islice(itertools.product(*choices), MOST_CHOICES):
        yield dict(choice)


def _widened(array):
    return array.astype(np.float64) if DType.from_numpy(array.dtype).is_float else array


def _allowed(schema, types):
    return {name: dtype for name, dtype in types.items() if dtype in constraints(schema).get(name, ())}


@functools.cache
def _versions(domain, name):
    return [schema.since_version for schema in schemas()[domain, name]]


def _neighbour(schema, step):
    """The next or previous version, ``None`` where there is none."""
    place = _versions(schema.domain, schema.name).index(schema.since_version) + step
    versions = schemas()[schema.domain, schema.name]
    return versions[place] if 0 <= place < len(versions) else None


def _reaches(schema, opset):
    following = _neighbour(schema, 1)
    return following is None or following.since_version > opset
