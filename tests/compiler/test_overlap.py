import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from test_composition import derived_views, positions

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.overlap import extent_of, may_overlap
from onnxplan.compiler.view import Storage, View


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_disjoint_means_disjoint(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    whole = View.dense(Storage(DType.FLOAT32, int(np.prod(shape)), "s"), shape)
    a, b = data.draw(derived_views(whole)), data.draw(derived_views(whole))
    shared = set(positions(a).ravel().tolist()) & set(positions(b).ravel().tolist())
    if shared:
        assert may_overlap(a, b)
    assert extent_of(a) == (positions(a).min(), positions(a).max())


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.data(),
)
def test_parts_of_a_concatenation_are_told_apart(shape, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    cut = data.draw(st.integers(1, 4))
    total = (*shape[:axis], shape[axis] + cut, *shape[axis + 1 :])
    whole = View.dense(Storage(DType.FLOAT32, int(np.prod(total)), "s"), total)
    assert not may_overlap(whole.slice(axis, 0, cut), whole.slice(axis, cut, shape[axis]))
    assert may_overlap(whole.slice(axis, 0, cut), whole)


def test_other_storages_and_empty_views_share_nothing():
    whole = View.dense(Storage(DType.FLOAT32, 6, "s"), (6,))
    assert not may_overlap(whole, View.dense(Storage(DType.FLOAT32, 6, "t"), (6,)))
    assert not may_overlap(whole, whole.slice(0, 2, 0))


def test_interleaved_elements_are_told_apart():
    whole = View.dense(Storage(DType.FLOAT32, 8, "s"), (8,))
    assert not may_overlap(whole.slice(0, 0, 4, 2), whole.slice(0, 1, 4, 2))
