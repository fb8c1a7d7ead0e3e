"""What others compute for a specimen: onnxruntime, ONNX's reference, or the standard's text."""

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

FIRST_PEER_OPSET = 7
"""The oldest opset that onnxruntime computes."""

NEWEST_PEER_IR = 12

# The types that stand for others, widest first: any implementation has some of them.
_WIDER = {
    "f": (DType.FLOAT64, DType.FLOAT32),
    "i": (DType.INT64, DType.INT32, DType.INT8),
    "u": (DType.UINT64, DType.UINT32, DType.UINT8),
    "c": (DType.COMPLEX128, DType.COMPLEX64),
    "b": (),
    "s": (),
}

# Operators whose results in onnxruntime or onnx's reference are known to be wrong: who is asked instead.
REFERENCE_ONLY = frozenset()
PEER_ONLY = frozenset()


def _session_results(model, feeds):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, feeds)


def _peer(bound):
    model = bound.model(opset=bound.version if bound.domain else max(bound.version, FIRST_PEER_OPSET))
    model.ir_version = min(model.ir_version, NEWEST_PEER_IR)
    return _session_results(model, dict(bound.feeds))


def _reference(bound):
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(bound.model()).run(None, dict(bound.feeds))


def _candidates(schema, types):
    """``types`` and wider ones in their place, all that the schema allows; the most exact first."""
    allowed = constraints(schema)
    choices = []
    for parameter, dtype in types.items():
        wider = [other for other in _WIDER[dtype.kind] if other in allowed[parameter]]
        if dtype.kind == "f":
            order = [*wider, dtype]
        else:
            order = [dtype, *wider]
        choices.append([(parameter, each) for each in dict.fromkeys(order)])
    yield from itertools.islice((dict(choice) for choice in itertools.product(*choices)), 24)


_refused = set()


def expected(schema, specimen, types):
    """The outputs that are right for a specimen, in an unspecified wider type; and how exact they are."""
    bound = bind(schema, specimen, types)
    if specimen.reference is not None:
        values = [widened(array) for array in bound.feeds.values()]
        with np.errstate(all="ignore"):
            results = specimen.reference(*values)
        return list(results) if isinstance(results, tuple) else [results], DType.FLOAT64
    if not schema.domain and schema.since_version < FIRST_PEER_OPSET and not _reaches_peer(schema):
        following = next_version(schema)
        other = specimen_for(following)
        return expected(following, other, default_types(following, other) | _shared(following, types))
    for evaluate in (_peer, _reference):
        for wider in _candidates(schema, types):
            key = (evaluate.__name__, schema.domain, schema.name, schema.since_version, tuple(wider.items()))
            if key in _refused:
                continue
            other = bind(schema, specimen, wider, bound.feeds)
            try:
                results = evaluate(other)
            except Exception as error:
                _refused.add(key)
                _reasons[key] = error
                continue
            floats = [dtype for dtype in wider.values() if dtype.is_float]
            least = min(floats, key=lambda dtype: dtype.itemsize, default=DType.FLOAT64)
            return list(results), least
    return None, None


_reasons = {}


def _shared(schema, types):
    return {name: dtype for name, dtype in types.items() if dtype in constraints(schema).get(name, ())}


def widened(array):
    dtype = DType.from_numpy(array.dtype)
    return array.astype(np.float64) if dtype.is_float else array


@functools.cache
def _following(domain, name):
    return schemas()[domain, name]


def next_version(schema):
    versions = _following(schema.domain, schema.name)
    return versions[[item.since_version for item in versions].index(schema.since_version) + 1]


def _reaches_peer(schema):
    versions = [item.since_version for item in _following(schema.domain, schema.name)]
    later = [version for version in versions if version > schema.since_version]
    return not later or later[0] > FIRST_PEER_OPSET
