"""Winograd's convolution can be turned off."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("value", "enabled"), [("0", "False"), ("1", "True")])
def test_the_environment_turns_it_off(value, enabled):
    code = "from onnxplan.kernels.cpu import winograd; print(winograd.ENABLED)"
    environment = {**os.environ, "ONNXPLAN_WINOGRAD": value}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == enabled
