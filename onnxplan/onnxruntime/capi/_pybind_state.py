"""The extension module under the name that onnxruntime's own modules import it by."""

from __future__ import annotations

from onnxplan.onnxruntime.capi.onnxruntime_pybind11_state import *  # noqa: F403
