"""Graphs with branches: which steps depend on which, where branches pay, and that events order them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from runtime_plans import Bench, PlanMaker, chain, run, values

from onnxplan.compiler.plan import Buffer, CompiledPlan, Operand
from onnxplan.runtime.cuda.branches import Work, dependencies, schedule
from onnxplan.runtime.cuda.streams import CaptureStreams


def timed(compiled: CompiledPlan, seconds: float) -> CompiledPlan:
    """The plan with steps of this estimated time."""
    plan = compiled.plan
    steps = tuple(dataclasses.replace(step, seconds=seconds) for step in plan.steps)
    return CompiledPlan(dataclasses.replace(plan, steps=steps), compiled.constants)


def towers(target, count: int, depth: int, *, seconds: float, size: int = 64) -> CompiledPlan:
    """Chains that begin at one step, in sequence one after the other, and are added up in the end."""
    maker = PlanMaker(target)
    stem = maker.temporary(size)
    maker.step("add_number", maker.input(size), stem, number=1)
    ends = []
    for tower in range(count):
        place = stem
        for _ in range(depth):
            before, place = place, maker.temporary(size)
            maker.step("add_number", before, place, number=tower + 1)
        ends.append(place)
    total = ends[0]
    for number, end in enumerate(ends[1:], 2):
        before, total = total, maker.output(size) if number == count else maker.temporary(size)
        maker.step("add", before, end, total)
    return timed(maker.compiled(), seconds)


def towers_of(x: np.ndarray, count: int, depth: int) -> np.ndarray:
    return sum(x + 1 + depth * (tower + 1) for tower in range(count))


def exact(function, words):
    """All that the kernels of :mod:`runtime_plans` touch."""
    if function.symbol not in ("onnxplan_add", "onnxplan_add_number"):
        return None
    pointers = 3 if function.symbol == "onnxplan_add" else 2
    count = words[pointers]
    return [(word, 4 * count, place == pointers - 1) for place, word in enumerate(words[:pointers])]


def work(compiled: CompiledPlan, *, wide: bool = False) -> list[Work]:
    return [Work(number, step.seconds, wide) for number, step in enumerate(compiled.plan.steps)]


def scheduled(compiled: CompiledPlan, *, wide: bool = False):
    return schedule(compiled.plan, work(compiled, wide=wide))


def test_dependencies_of_towers(bench):
    plan = towers(bench.target, 2, 2, seconds=1e-5).plan
    assert [set(needs) for needs in dependencies(plan, range(len(plan.steps)))] == [
        set(), {0}, {1}, {0}, {3}, {2, 4},
    ]  # fmt: skip


def test_reused_memory_is_waited_for(bench):
    """The arena gives a place to another tensor when nobody reads it any more: that orders steps too."""
    maker = PlanMaker(bench.target)
    x = maker.input(64)
    first = maker.temporary(64)
    maker.step("add_number", x, first, number=1)
    maker.step("add_number", first, maker.output(64), number=2)
    maker.buffers.append(Buffer("arena", 0, 128, 256))
    reuse = Operand(len(maker.buffers) - 1, 0, first.dtype, (32,), (1,))
    maker.step("add_number", maker.input(32), reuse, number=3)
    maker.arena = 384
    needs = dependencies(maker.compiled().plan, range(3))
    assert needs == [frozenset(), {0}, {0, 1}]


def parts_of_one_buffer(target, offsets):
    maker = PlanMaker(target)
    whole = maker.output(64)
    x = maker.input(32)
    for number, offset in enumerate(offsets):
        part = Operand(whole.buffer, offset, x.dtype, (32,), (1,))
        maker.step("add_number", x, part, number=number)
    maker.step("add_number", whole, maker.output(64), number=9)
    return maker.compiled()


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [
        ((0, 128), [set(), set(), {0, 1}]),
        ((0, 64), [set(), {0}, {0, 1}]),
        ((0, 0), [set(), {0}, {1}]),
        ((0, 128, 64), [set(), set(), {0, 1}, {0, 1, 2}]),
        ((0, 64, 128), [set(), {0}, {1}, {0, 1, 2}]),
    ],
)
def test_parts_of_a_concatenation_are_written_beside_each_other(bench, offsets, expected):
    plan = parts_of_one_buffer(bench.target, offsets).plan
    assert [set(n) for n in dependencies(plan, range(len(plan.steps)))] == expected


def test_all_parts_that_are_written_over_wait_for_what_was_there(bench):
    """The second part does not overlap the first, which is not all that was written before."""
    maker = PlanMaker(bench.target)
    x, half, whole = maker.input(64), maker.input(32), maker.output(64)
    maker.step("add_number", x, whole, number=1)
    for offset in (0, 128):
        maker.step("add_number", half, Operand(whole.buffer, offset, x.dtype, (32,), (1,)), number=2)
    assert [set(n) for n in dependencies(maker.compiled().plan, range(3))] == [set(), {0}, {0}]


def test_long_towers_run_beside_each_other(bench):
    branches = scheduled(towers(bench.target, 3, 3, seconds=2e-5))
    assert branches.count == 3
    assert len(set(branches.streams[1:10])) == 3
    assert all(len(set(branches.streams[1 + 3 * n : 4 + 3 * n])) == 1 for n in range(3))


def test_streams_are_bounded(bench):
    assert scheduled(towers(bench.target, 9, 3, seconds=2e-5)).count == 4


@pytest.mark.parametrize(
    ("depth", "seconds", "wide"),
    [(1, 2e-6, False), (3, 1e-4, True)],
    ids=["small steps", "steps that fill the device"],
)
def test_where_nothing_is_gained_all_stays_on_one_stream(bench, depth, seconds, wide):
    branches = scheduled(towers(bench.target, 3, depth, seconds=seconds), wide=wide)
    assert branches.count == 1
    assert branches.recorded == frozenset()


def test_a_chain_stays_on_one_stream(bench):
    assert scheduled(timed(chain(bench.target, steps=8), 1e-4)).count == 1


@pytest.mark.parametrize("seed", [None, *range(6)])
def test_branches_of_a_graph_are_ordered_by_events(seed):
    """The stand-in runs nodes in any order that events allow, and raises where they allow too much."""
    bench = Bench(seed=seed, access_oracle=exact)
    executor = bench.bind(towers(bench.target, 3, 3, seconds=2e-5))
    kinds_before = [block.split()[0] for block in bench.blocks]
    for number in range(5):
        x = values(64, number)
        np.testing.assert_array_equal(run(executor, x)[0], towers_of(x, 3, 3))
    assert bench.counters.graph_launches == 4
    assert bench.counters.captures == 1
    kinds = [block.split()[0] for block in bench.blocks]
    assert kinds.count("stream") == 1 + kinds_before.count("stream"), "the slot's own"
    assert bench.standin.violations == []


@pytest.mark.parametrize("seed", range(4))
def test_random_plans_compute_the_same_with_branches(seed):
    bench = Bench(seed=seed, access_oracle=exact)
    chance = np.random.default_rng(seed)
    maker = PlanMaker(bench.target)
    places = [maker.input(16) for _ in range(2)]
    for _ in range(24):
        a, b = (places[n] for n in chance.integers(0, len(places), 2))
        target = maker.temporary(16)
        if chance.random() < 0.5:
            maker.step("add_number", a, target, number=int(chance.integers(5)))
        else:
            maker.step("add", a, b, target)
        places.append(target)
    for place in places[-3:]:
        maker.step("add_number", place, maker.output(16), number=1)
    executor = bench.bind(timed(maker.compiled(), 3e-5))
    xs = [values(16, seed), values(16, seed + 1)]
    eager = run(executor, *xs)
    for _ in range(3):
        for first, later in zip(eager, run(executor, *xs), strict=True):
            np.testing.assert_array_equal(first, later)
    assert bench.counters.graph_launches == 3
    assert bench.standin.violations == []


def test_without_a_wait_the_stand_in_sees_the_race(monkeypatch):
    """That the tests above could fail."""
    bench = Bench(access_oracle=exact)
    executor = bench.bind(towers(bench.target, 2, 3, seconds=2e-5))
    run(executor, values(64))
    original = CaptureStreams.queue

    def careless(self, launches):
        waits = ((),) * len(launches)
        self._branches = dataclasses.replace(self._branches, waits=waits)
        original(self, launches)

    monkeypatch.setattr(CaptureStreams, "queue", careless)
    with pytest.raises(Exception, match="nothing orders them"):
        run(executor, values(64))
    assert bench.standin.violations


def test_products_on_branches_have_workspaces_of_their_own():
    bench = Bench(seed=1)
    maker = PlanMaker(bench.target)
    a = maker.input(8, 8)
    b = maker.constant(np.eye(8, dtype=np.float32))
    for _ in range(3):
        place = a
        for _ in range(3):
            before, place = place, maker.temporary(8, 8)
            maker.product(before, b, place)
        maker.step("add_number", place, maker.output(8, 8), number=1)
    executor = bench.bind(timed(maker.compiled(), 2e-5))
    assert executor._shared.bound.branches.count == 3
    layout = executor._shared.bound.layout
    assert layout.total_bytes == layout.workspace + 3 * layout.workspace_bytes
    x = np.random.default_rng(0).integers(-9, 9, (8, 8)).astype(np.float32)
    for _ in range(4):
        for result in run(executor, x):
            np.testing.assert_array_equal(result, x + 1)
    assert bench.standin.violations == []
