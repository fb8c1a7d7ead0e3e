"""Switches of the environment."""

import pytest

from onnxplan.compiler.environment import is_on, setting

NAME = "ONNXPLAN_OF_A_TEST"


@pytest.mark.parametrize("default", [False, True])
def test_what_is_not_set_has_its_default(monkeypatch, default):
    monkeypatch.delenv(NAME, raising=False)
    assert is_on(NAME, default=default) == default
    assert setting(NAME) is None


@pytest.mark.parametrize("default", [False, True])
@pytest.mark.parametrize(("text", "on"), [("", False), ("0", False), ("1", True), ("00", True), ("a", True)])
def test_empty_and_0_are_off(monkeypatch, text, on, default):
    monkeypatch.setenv(NAME, text)
    assert is_on(NAME, default=default) == on
    assert setting(NAME) == (text if on else None)
