"""The table of operators is the one that the rules and kernels give."""

import onnx
import pytest

from catalogue.__main__ import PATH
from catalogue.table import document


def test_the_document_is_current():
    """The test plans nodes only; that what plans also runs is what the sweep shows."""
    committed = PATH.read_text(encoding="utf-8")
    if f"onnx {onnx.__version__}." not in committed:
        pytest.skip(f"the document describes the operators of another version than onnx {onnx.__version__}")
    assert committed == document(execute=False), "run make docs/operators.md"
