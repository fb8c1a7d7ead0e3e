"""What tests of the interface of onnxruntime share."""

from __future__ import annotations

from types import ModuleType

import onnxruntime
import pytest
from both_modules import MODULES

from onnxplan.onnxruntime.environment import VERSION


@pytest.fixture(params=MODULES)
def ort(request) -> ModuleType:
    return MODULES[request.param]


@pytest.fixture
def compared_version() -> None:
    if onnxruntime.__version__ != VERSION:
        pytest.skip(f"onnxruntime {onnxruntime.__version__} is installed; the document is about {VERSION}")
