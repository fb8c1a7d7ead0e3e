"""Artifacts whose kernels use AMX's tile registers, opened where the process may not use them."""

import numpy as np
import pytest
from face_models import model, node, value
from onnx import TensorProto

import onnxplan
from onnxplan.compiler.errors import IncompatibleArtifactError
from onnxplan.runtime.cpu.target import may_use_tiles

BYTES = np.arange(-128, 128, dtype=np.int8).reshape(16, 16)
FLOATS = BYTES.astype(np.float32)

pytestmark = pytest.mark.skipif(not may_use_tiles(), reason="this processor, or its system, has no AMX")


def byte_product():
    """Takes tile registers where there are any."""
    inputs = [value("a", [32, 16], TensorProto.UINT8)]
    return model([node("MatMulInteger", "a w", "y")], inputs, ["y"], w=BYTES)


def float_product():
    return model([node("MatMul", "a w", "y")], [value("a", [32, 16])], ["y"], w=FLOATS)


def test_registers_that_are_turned_off_are_not_used(tmp_path, monkeypatch):
    path = tmp_path / "bytes.plan"
    onnxplan.compile(byte_product(), path)
    monkeypatch.setenv("ONNXPLAN_AMX", "0")
    with pytest.raises(IncompatibleArtifactError, match=r"AMX's tile registers.*recompile=True"):
        onnxplan.InferenceSession(path)
    a = np.arange(512, dtype=np.int64).astype(np.uint8).reshape(32, 16)
    with onnxplan.InferenceSession(path, recompile=True) as session:
        found = session.run_sync({"a": a})["y"].numpy()
    np.testing.assert_array_equal(found, a.astype(np.int32) @ BYTES.astype(np.int32))


def test_kernels_of_vectors_run_without_them(tmp_path, monkeypatch):
    path = tmp_path / "floats.plan"
    onnxplan.compile(float_product(), path)
    monkeypatch.setenv("ONNXPLAN_AMX", "0")
    a = np.arange(512, dtype=np.float32).reshape(32, 16)
    with onnxplan.InferenceSession(path) as session:
        np.testing.assert_allclose(session.run_sync({"a": a})["y"].numpy(), a @ FLOATS, 1e-5)


def test_another_instruction_set_of_the_process_makes_no_difference(tmp_path, monkeypatch):
    """The registers are asked for when an artifact needs them, whatever plans would be made for."""
    path = tmp_path / "bytes.plan"
    onnxplan.compile(byte_product(), path)
    monkeypatch.setenv("ONNXPLAN_ISA", "avx2")
    a = np.full((32, 16), 3, np.uint8)
    with onnxplan.InferenceSession(path) as session:
        np.testing.assert_array_equal(
            session.run_sync({"a": a})["y"].numpy(), a.astype(np.int32) @ BYTES.astype(np.int32)
        )
