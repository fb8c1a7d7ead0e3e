"""onnxplan compiles ONNX models into static execution plans and runs them.

>>> session = onnxplan.InferenceSession("model.onnx")            # or: await InferenceSession.create(...)
>>> results = await session.run({"a": a, "b": b})                # or: session.run_sync(...)
>>> results["c"].numpy()
"""

from __future__ import annotations

from importlib.metadata import version

from onnxplan.compiler.errors import (
    CompilerError,
    DeviceUnavailableError,
    InvalidFeedsError,
    InvalidModelError,
    OnnxPlanError,
    OutOfMemoryError,
    SessionClosedError,
    UnsupportedOperatorError,
)
from onnxplan.compiler.plan import ExecutionPlan
from onnxplan.feeds import TensorInfo
from onnxplan.session import InferenceSession
from onnxplan.tensor import Tensor

__version__ = version("onnxplan")

__all__ = [
    "CompilerError",
    "DeviceUnavailableError",
    "ExecutionPlan",
    "InferenceSession",
    "InvalidFeedsError",
    "InvalidModelError",
    "OnnxPlanError",
    "OutOfMemoryError",
    "SessionClosedError",
    "Tensor",
    "TensorInfo",
    "UnsupportedOperatorError",
    "__version__",
]
