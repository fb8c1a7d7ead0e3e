"""A device of the stand-in for tests of the runtime."""

from __future__ import annotations

import pytest
from runtime_plans import Bench


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    assert bench.standin.violations == []
