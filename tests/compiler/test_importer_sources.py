"""What is no model at all: a file of another kind, a truncated one, nothing."""

from __future__ import annotations

import os
import random
import re

import numpy as np
import onnx
import pytest
from importer_models import linear_model, refuse

from onnxplan.compiler.errors import InvalidModelError
from onnxplan.compiler.importer import load_model


def saved(tmp_path, content: bytes, name: str = "model.onnx") -> str:
    path = tmp_path / name
    path.write_bytes(content)
    return str(path)


def test_no_such_file(tmp_path):
    path = str(tmp_path / "none.onnx")
    with pytest.raises(FileNotFoundError) as caught:
        load_model(path)
    assert caught.value.filename == path
    assert "no such model file" in str(caught.value)


def test_a_directory(tmp_path):
    refuse(tmp_path, str(tmp_path), "is a directory; expected an ONNX file")
    saved(tmp_path, b"x", "inner.onnx")
    refuse(tmp_path, "inner.onnx")


def test_no_regular_file(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    refuse(path, str(path), "not a regular file")
    refuse("/dev/zero", "not a regular file")


def test_an_empty_file(tmp_path):
    path = saved(tmp_path, b"")
    refuse(path, path, "is empty")
    refuse(b"", "empty")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    path = saved(tmp_path, linear_model().SerializeToString())
    os.chmod(path, 0)
    with pytest.raises(PermissionError, match=re.escape(path)):
        load_model(path)


def test_a_path_with_a_null_character():
    refuse("model\0.onnx", "is no path")


@pytest.mark.parametrize("source", [None, 3, 1.5, ["model.onnx"], object(), np.zeros(3)])
def test_no_source_at_all(source):
    with pytest.raises(TypeError, match=f"path, bytes or onnx.ModelProto, not as {type(source).__name__}"):
        load_model(source)


def test_a_path_given_as_bytes():
    refuse(b"folder/model.onnx", "17 bytes", "looks like a path")


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(40), "ZIP archive"),
        (b"<!DOCTYPE html><html></html>", "HTML"),
        (b"\x80\x02}q\x00", "pickle"),
        (b"\x18\x00\x00\x00ORTM" + bytes(40), "onnxruntime's own format"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(40), "TensorFlow Lite"),
        (b'{"a": 1}', "JSON"),
        (b"\x1f\x8b\x08" + bytes(40), "gzip"),
    ],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_files_of_another_kind(content, hint, tmp_path):
    path = saved(tmp_path, content)
    refuse(path, path, "not an ONNX model", hint)


def test_random_bytes(tmp_path):
    for seed in range(50):
        content = random.Random(seed).randbytes(2000)
        refuse(saved(tmp_path, content), "not an ONNX model")
        refuse(content, "not an ONNX model", "2000 bytes")


def test_every_truncation(tmp_path):
    data = linear_model(3, 2000).SerializeToString()
    for length in [*range(1, 200), *range(200, len(data), 997), len(data) - 1]:
        with pytest.raises(InvalidModelError):
            load_model(data[:length])
    path = saved(tmp_path, data[:-1000])
    refuse(path, path, "cut short")


def test_other_messages():
    refuse(onnx.ModelProto(), "the ModelProto", "no graph")
    refuse(onnx.ModelProto(ir_version=9), "no graph")
    refuse(onnx.TensorProto(dims=[3], data_type=1, name="t").SerializeToString(), "not an ONNX model")
    refuse(b"\x08\x07", "no graph")
