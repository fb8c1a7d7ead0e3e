"""How two results differ."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from onnxplan.differences import count_special, find_difference

NAN, INF = np.nan, np.inf
LOW, HIGH = np.iinfo(np.int64).min, np.iinfo(np.int64).max


def array(values, dtype=np.float32):
    return np.array(values, dtype)


@pytest.mark.parametrize(
    ("found", "right"),
    [
        (array([1, NAN, INF, -INF]), array([1, NAN, INF, -INF])),
        (array([1.0001, 0.0]), array([1.0, -0.0])),
        (array([1000.0, 0.005]), array([1000.0, 0.0])),
        (array([1.01, 2], ml_dtypes.bfloat16), array([1, 2], ml_dtypes.bfloat16)),
        (array([1 + 1j, NAN], np.complex64), array([1 + 1j, NAN], np.complex64)),
        (array([LOW, HIGH], np.int64), array([LOW, HIGH], np.int64)),
        (array(["a", "é"], object), array(["a", "é"], object)),
        (array([], object), array([], object)),
        (np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)),
        ([array([1.0]), array([], np.float32)], [array([1.0]), array([], np.float32)]),
        ([], []),
        (None, None),
    ],
)
def test_agreement(found, right):
    assert find_difference(found, right) is None


@pytest.mark.parametrize(
    ("found", "right", "index", "distance"),
    [
        (array([[1, 2], [3, 4]]), array([[1, 2], [3, 5]]), (1, 1), 1.0),
        (array([1, 2]), array([1, NAN]), (1,), INF),
        (array([1, -INF]), array([1, INF]), (1,), INF),
        (array([NAN, 2]), array([0, 2]), (0,), INF),
        (array(1.5), array(1.0), (), 0.5),
        (array([250, 3], np.uint8), array([3, 3], np.uint8), (0,), 247.0),
        (array([HIGH, 0], np.int64), array([LOW, 0], np.int64), (0,), 2.0**64),
        (array([2, 1], ml_dtypes.int4), array([2, -1], ml_dtypes.int4), (1,), 2.0),
        (array([True, False]).astype(bool), array([True, True]).astype(bool), (1,), 1.0),
        (array(["a", "b"], object), array(["a", "c"], object), (1,), 1.0),
        (array([1 + 3j], np.complex64), array([1 - 1j], np.complex64), (0,), 4.0),
    ],
)
def test_the_largest_difference(found, right, index, distance):
    difference = find_difference(found, right)
    assert difference.count == 1
    assert difference.size == right.size
    extreme = difference.absolute
    assert extreme.index == index
    assert math.isclose(extreme.distance, distance)
    np.testing.assert_array_equal([extreme.found, extreme.right], [found[index], right[index]])


def test_absolute_and_relative_extremes_are_told_apart():
    difference = find_difference(array([101.0, 0.02]), array([100.0, 0.01]), 0, 0)
    assert difference.count == 2
    assert difference.absolute.index == (0,)
    assert difference.relative.index == (1,)
    assert math.isclose(difference.relative.distance, 1, rel_tol=1e-6)
    only_first = find_difference(array([101.0, 0.02]), array([100.0, 0.01]), 0, 0.1)
    assert only_first.count == 1
    assert find_difference(array([101.0, 0.02]), array([100.0, 0.01]), 1.1, 0) is None
    assert find_difference(array([4], np.int8), array([3], np.int8), None, 1) is None


@pytest.mark.parametrize(
    ("found", "right", "text"),
    [
        (array([1]), array([1], np.float64), "float32[1], expected float64[1]"),
        (array([1]), array([[1]]), "float32[1], expected float32[1, 1]"),
        (array(["a"], object), array([1]), "string[1], expected float32[1]"),
        ([array([1])], array([1]), "a sequence of 1, expected float32[1]"),
        ([], [array([1])], "a sequence of 0, expected a sequence of 1"),
        (None, array([1]), "nothing, expected float32[1]"),
    ],
)
def test_results_of_different_kinds(found, right, text):
    assert find_difference(found, right).mismatch == text


def test_sequences_are_compared_element_by_element():
    right = [array([1.0]), [array([2.0]), array([3.0, 4.0])]]
    found = [array([1.0]), [array([2.0]), array([3.0, 5.0])]]
    difference = find_difference(found, right)
    assert difference.place == (1, 1)
    assert difference.absolute.index == (1,)


def test_special_elements_are_counted():
    assert count_special(array([NAN, INF, -INF, 1])) == (1, 2)
    assert count_special(array([NAN, 1], ml_dtypes.bfloat16)) == (1, 0)
    assert count_special(array([NAN + 1j], np.complex64)) == (1, 0)
    assert count_special(array([1], ml_dtypes.int4)) == (0, 0)
    assert count_special(array(["nan"], object)) == (0, 0)
