"""Arrays of the command line: random ones, and in files."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import typer

import onnxplan
from onnxplan.cli.inputs import Sizes, random_array, read_array
from onnxplan.cli.outputs import file_names, first_elements, statistics, write_results
from onnxplan.compiler.dtypes import DType
from onnxplan.infos import TensorInfo


def test_file_names_are_safe_and_different():
    names = ["a", "A", "a/b", "a:b", "", ".", "..", ".hidden", "x" * 300, "é" * 300, "a-2"]
    found = file_names(names)
    assert list(found) == names
    assert len({file.casefold() for file in found.values()}) == len(names)
    for file in found.values():
        assert not file.startswith(".")
        assert "/" not in file
        assert len(file.encode()) <= 255


def test_arrays_of_all_types_survive_files(tmp_path):
    generator = np.random.default_rng(0)
    for dtype in DType:
        array = random_array(generator, dtype, (3, 2))
        assert array.dtype == dtype.numpy
        wrapped = onnxplan.Tensor.from_numpy(array)
        write_results(tmp_path, {dtype.label: wrapped})
        found = read_array(tmp_path / f"{dtype.label}.npy", TensorInfo("x", dtype.label, (3, 2)), "--input x")
        assert found.dtype == array.dtype
        assert found.tobytes() == array.tobytes() or found.tolist() == array.tolist()
        assert first_elements(wrapped).endswith("...")


def test_statistics():
    assert statistics(onnxplan.Tensor("float32", [1.0, 2.0, 6.0])) == ("1", "6", "3")
    assert statistics(onnxplan.Tensor("float32", [np.nan, 1.0])) == ("nan", "nan", "nan")
    assert statistics(onnxplan.Tensor("float32", [np.inf, -np.inf])) == ("-inf", "inf", "nan")
    assert statistics(onnxplan.Tensor.from_numpy(np.array([1, 3], ml_dtypes.bfloat16))) == ("1", "3", "2")
    assert statistics(onnxplan.Tensor("bool", [True, False])) == ("0", "1", "0.5")
    assert statistics(onnxplan.Tensor("string", ["x"])) == ("", "", "")
    assert statistics(onnxplan.Tensor("float32", np.empty((0, 3), np.float32))) == ("", "", "")


def test_dimension_names_may_hold_equals_signs():
    assert Sizes.parse(["a=b=3", "c + 1=0"], []).dims == {"a=b": 3, "c + 1": 0}
    with pytest.raises(typer.BadParameter):
        Sizes.parse(["a=b"], [])
