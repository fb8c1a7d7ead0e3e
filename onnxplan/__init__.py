"""onnxplan compiles ONNX models into static execution plans and runs them.

>>> session = onnxplan.InferenceSession("model.onnx")            # or: await InferenceSession.create(...)
>>> results = await session.run({"a": a, "b": b})                # or: session.run_sync(...)
>>> results["c"].numpy()
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxplan.comparison import Comparison as Comparison
    from onnxplan.comparison import compare as compare
    from onnxplan.compiler.errors import CompilerError as CompilerError
    from onnxplan.compiler.errors import DeviceError as DeviceError
    from onnxplan.compiler.errors import DeviceUnavailableError as DeviceUnavailableError
    from onnxplan.compiler.errors import IncompatibleArtifactError as IncompatibleArtifactError
    from onnxplan.compiler.errors import InvalidArtifactError as InvalidArtifactError
    from onnxplan.compiler.errors import InvalidFeedsError as InvalidFeedsError
    from onnxplan.compiler.errors import InvalidModelError as InvalidModelError
    from onnxplan.compiler.errors import OnnxPlanError as OnnxPlanError
    from onnxplan.compiler.errors import OutOfMemoryError as OutOfMemoryError
    from onnxplan.compiler.errors import PeerError as PeerError
    from onnxplan.compiler.errors import SessionClosedError as SessionClosedError
    from onnxplan.compiler.errors import UnsupportedOperatorError as UnsupportedOperatorError
    from onnxplan.compiler.plan import ExecutionPlan as ExecutionPlan
    from onnxplan.compiling import compile as compile  # noqa: A004 - its public name
    from onnxplan.infos import StructureInfo as StructureInfo
    from onnxplan.infos import TensorInfo as TensorInfo
    from onnxplan.instrumentation import Instrumentation as Instrumentation
    from onnxplan.instrumentation import instrument as instrument
    from onnxplan.observers import Operation as Operation
    from onnxplan.observers import SessionObserver as SessionObserver
    from onnxplan.profiling import Profile as Profile
    from onnxplan.runtime.budget import SessionMemory as SessionMemory
    from onnxplan.session import InferenceSession as InferenceSession
    from onnxplan.tensor import Tensor as Tensor

    __version__: str

_HOMES = {
    "Comparison": "comparison",
    "CompilerError": "compiler.errors",
    "DeviceError": "compiler.errors",
    "DeviceUnavailableError": "compiler.errors",
    "ExecutionPlan": "compiler.plan",
    "IncompatibleArtifactError": "compiler.errors",
    "InferenceSession": "session",
    "Instrumentation": "instrumentation",
    "InvalidArtifactError": "compiler.errors",
    "InvalidFeedsError": "compiler.errors",
    "InvalidModelError": "compiler.errors",
    "OnnxPlanError": "compiler.errors",
    "Operation": "observers",
    "OutOfMemoryError": "compiler.errors",
    "PeerError": "compiler.errors",
    "Profile": "profiling",
    "SessionMemory": "runtime.budget",
    "SessionClosedError": "compiler.errors",
    "SessionObserver": "observers",
    "StructureInfo": "infos",
    "Tensor": "tensor",
    "TensorInfo": "infos",
    "UnsupportedOperatorError": "compiler.errors",
    "compare": "comparison",
    "compile": "compiling",
    "instrument": "instrumentation",
}
__all__ = ["__version__", *_HOMES]


if log_levels := os.environ.get("ONNXPLAN_LOG"):
    from onnxplan.logs import show_log

    show_log(log_levels)
    del show_log
del log_levels


def __getattr__(name: str) -> Any:
    """Loads a public name on first use, so that importing one room does not import all others."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("onnxplan")
    elif name in _HOMES:
        value = getattr(importlib.import_module(f"onnxplan.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module 'onnxplan' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
