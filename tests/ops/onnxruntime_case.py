"""Operator cases whose right results are those of onnxruntime on the CPU."""

import dataclasses
import functools
from typing import Any

import numpy as np
import onnxruntime
from cases import Case, case

MICROSOFT = "com.microsoft"
IR_VERSION = 10


class OnnxruntimeCase(Case):
    """A case of an operator that only onnxruntime defines; ``reference`` stays ``None``."""

    def model(self, seed=0, *, constant=False):
        model = super().model(seed, constant=constant)
        model.ir_version = IR_VERSION
        return model

    def expected(self, seed=0):
        found = _results(self, seed)
        assert self.dtypes is None or tuple(found[name].dtype for name in self.outputs) == self.dtypes
        return found


def onnxruntime_case(name: str, op_type: str, inputs: Any, **settings: Any) -> Case:
    """As :func:`cases.case`, of an operator of onnxruntime's domain."""
    found = case(f"{name}, onnxruntime", op_type, inputs, domain=MICROSOFT, **settings)
    return OnnxruntimeCase(**{field.name: getattr(found, field.name) for field in dataclasses.fields(found)})


@functools.cache
def _session(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _results(case, seed):
    session = _session(case.model(seed).SerializeToString())
    return dict(
        zip(
            case.outputs,
            map(
                np.asarray,
                session.run(None, {name: np.asarray(array) for name, array in case.feeds(seed).items()}),
            ),
            strict=True,
        )
    )
