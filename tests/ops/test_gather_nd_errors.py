"""GatherND with operands that break the standard."""

import numpy as np
import pytest
from cases import case

from onnxplan.compiler.errors import InvalidModelError
from onnxplan.compiler.importer import load_model
from onnxplan.compiler.lowering import lower

X = np.zeros((2, 3, 4), np.float32)


@pytest.mark.parametrize(
    ("data", "indices", "batch", "part"),
    [
        (X, np.zeros((2, 4), np.int64), 0, "tuples of 4 indices do not fit data of rank 3"),
        (X, np.zeros((2, 3), np.int64), 1, "tuples of 3 indices"),
        (X, np.zeros((2, 0), np.int64), 0, "tuples of 0 indices"),
        (X, np.zeros((3, 1), np.int64), 1, "first 1 dimensions of data and indices differ"),
        (X, np.zeros((2,), np.int64), 1, "batch_dims 1 does not fit ranks 3 and 1"),
        (X, np.zeros((2, 1), np.int64), -1, "batch_dims -1"),
        (X, np.zeros((2, 1), np.int32), 0, "int32, not int64"),
        (np.float32(1), np.zeros((1,), np.int64), 0, "rank"),
        (X[:0], np.zeros((2, 1), np.int64), 0, "no elements to gather"),
        (X, np.array([[0, 0], [1, 3]], np.int64), 0, "indices [1, 3] are out of range for dimensions [2, 3]"),
        (X, np.array([[0, 0], [-3, 0]], np.int64), 0, "indices [-3, 0] are out of range"),
    ],
)
def test_refused(data, indices, batch, part):
    inputs = {"data": np.asarray(data), "indices": indices}
    broken = case("", "GatherND", inputs, attributes={"batch_dims": batch}, constants=("indices",))
    with pytest.raises(InvalidModelError) as caught:
        lower(load_model(broken.model()), {"data": np.shape(data)})
    assert part in str(caught.value)
    assert "GatherND" in str(caught.value)
