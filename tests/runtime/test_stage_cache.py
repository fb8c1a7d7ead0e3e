"""The cache of plans: bounded, and kind to what is in use."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxplan.runtime.stage_cache import StageCache


@dataclass
class Entry:
    name: int
    used: bool = False


def filled(limit, names, dropped=None):
    cache = StageCache(limit, dropped)
    for name in names:
        cache.put(name, Entry(name))
    return cache


def test_unused_entries_go_in_the_order_they_came():
    gone = []
    cache = filled(3, range(6), lambda key, entry: gone.append((key, entry.name)))
    assert gone == [(0, 0), (1, 1), (2, 2)]
    assert [key for key, _ in cache.items()] == [3, 4, 5]
    assert cache.get(0) is None


def test_entries_in_use_stay():
    cache = filled(3, [0])
    for name in range(1, 50):
        assert cache.get(0).name == 0
        cache.put(name, Entry(name))
    assert cache.get(0) is not None
    assert len(cache) == 3


def test_the_flag_may_be_set_without_the_cache():
    cache = filled(2, [0, 1])
    entry = cache.get(0)
    for name in range(2, 9):
        entry.used = True
        cache.put(name, Entry(name))
    assert cache.get(0) is entry


@pytest.mark.parametrize("limit", [1, 2])
def test_when_all_are_in_use_one_goes_nevertheless(limit):
    cache = filled(limit, range(limit))
    for name in range(limit):
        cache.get(name)
    cache.put(9, Entry(9))
    assert len(cache) == limit
    assert cache.get(9).name == 9


@given(st.integers(1, 5), st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60))
def test_any_use(limit, steps):
    gone = set()
    cache = StageCache(limit, lambda key, entry: gone.add(key))
    present = set()
    for reads, name in steps:
        found = cache.get(name)
        assert (found is not None) == (name in present)
        if not reads and found is None:
            gone.clear()
            cache.put(name, Entry(name))
            present = (present - gone) | {name}
        assert len(cache) == len(present) <= limit
    assert {key for key, _ in cache.items()} == present
    cache.clear()
    assert len(cache) == 0
