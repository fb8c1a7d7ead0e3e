"""Fixtures of tests of kernels."""

import pytest

from onnxplan.kernels.cpu import pairs, parts


@pytest.fixture
def no_least(monkeypatch):
    """The smallest products take tiles too."""
    monkeypatch.setattr(pairs, "LEAST_WORK", 0)
    monkeypatch.setattr(parts, "WORTH", 0)
