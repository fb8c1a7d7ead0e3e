"""Slots of several plans that share a budget of memory."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import pytest

from onnxplan.compiler.errors import OutOfMemoryError, SessionClosedError
from onnxplan.runtime.budget import Budget
from onnxplan.runtime.cancellation import CancelFlag, Cancelled
from onnxplan.runtime.slots import SlotPool

SECONDS = 30


class Maker:
    """Makes slots, which are numbers, and says which there are."""

    def __init__(self) -> None:
        self.alive: set[int] = set()
        self.made = 0
        self.errors: list[BaseException] = []

    def __call__(self) -> int:
        if self.errors:
            raise self.errors.pop()
        self.made += 1
        self.alive.add(self.made)
        return self.made


def pool(budget: Budget, nbytes: int = 10, limit: int = 8) -> tuple[SlotPool[int], Maker]:
    maker = Maker()
    return SlotPool(maker, maker.alive.discard, nbytes, limit, budget), maker


def take(slots: SlotPool[int], cancel: CancelFlag | None = None) -> int:
    try:
        return slots.take()
    except IndexError:
        return slots.acquire(cancel)


def give(slots: SlotPool[int], slot: int) -> None:
    slots.give(slot)
    if slots.waiting:
        slots.notify()


class Taking:
    """A thread that takes a slot, which may have to wait for it."""

    def __init__(self, slots: SlotPool[int], cancel: CancelFlag | None = None) -> None:
        self.slot: int | None = None
        self.error: Exception | None = None
        self._slots, self._cancel = slots, cancel
        self.thread = threading.Thread(target=self._run)
        before = slots.waiting.count(slots)
        self.thread.start()
        deadline = time.monotonic() + SECONDS
        while self.thread.is_alive() and slots.waiting.count(slots) == before and time.monotonic() < deadline:
            time.sleep(0.001)

    def _run(self) -> None:
        try:
            self.slot = take(self._slots, self._cancel)
        except Exception as error:
            self.error = error

    @property
    def waits(self) -> bool:
        self.thread.join(0.05)
        return self.thread.is_alive()

    def result(self) -> int:
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()
        if self.error is not None:
            raise self.error
        assert self.slot is not None
        return self.slot


def test_slots_are_kept_and_used_again():
    budget = Budget()
    slots, maker = pool(budget)
    for _ in range(5):
        one, two = take(slots), take(slots)
        give(slots, one)
        give(slots, two)
    assert maker.made == slots.count == slots.peak == 2
    assert budget.memory().slots == budget.memory().peak == 20
    assert slots.trim() == 20
    assert slots.trim() == 0
    assert not maker.alive
    assert (budget.memory().slots, budget.memory().peak) == (0, 20)


@pytest.mark.parametrize("runs", [None, 1, 2])
def test_the_number_of_slots_is_bounded(runs):
    slots, maker = pool(Budget(runs=runs), limit=2)
    taken = [take(slots) for _ in range(runs or 2)]
    waiting = Taking(slots)
    assert waiting.waits
    give(slots, taken[0])
    assert waiting.result() == taken[0]
    assert maker.made == len(taken)


def test_memory_bounds_the_slots_of_all_plans_together():
    budget = Budget(30)
    (one, _), (two, _) = pool(budget), pool(budget, 20)
    first, second = take(one), take(two)
    assert budget.memory().slots == 30
    for slots in (one, two):
        waiting = Taking(slots)
        assert waiting.waits
        # A slot of its own is as good as memory for a new one.
        give(slots, first if slots is one else second)
        assert waiting.result() == (first if slots is one else second)


def test_idle_slots_of_others_make_room():
    budget = Budget(30)
    (one, made_one), (two, made_two) = pool(budget), pool(budget, 20)
    for slot in [take(one), take(one), take(one)]:
        give(one, slot)
    assert budget.memory().slots == 30
    give(two, take(two))
    assert not made_one.alive
    assert len(made_two.alive) == 1
    assert budget.memory().slots == 20
    give(one, take(one))
    assert (one.count, two.count) == (1, 1)


def test_who_was_not_used_for_long_is_trimmed_first():
    order: list[SlotPool[int]] = []
    budget = Budget(30, idle_first=lambda: order)
    plans = [pool(budget)[0] for _ in range(3)]
    for slots in plans:
        give(slots, take(slots))
    order[:] = [plans[1], plans[2], plans[0]]
    newcomer, _ = pool(budget)
    take(newcomer)
    assert [slots.count for slots in plans] == [1, 0, 1]


def test_a_run_that_ends_hands_its_memory_to_who_waits():
    """Even if the same plan runs again at once, which finds its idle slot without any lock."""
    budget = Budget(20)
    (busy, made), (other, _) = pool(budget, 20), pool(budget)
    slot = take(busy)
    waiting = Taking(other)
    assert waiting.waits
    give(busy, slot)
    with pytest.raises(IndexError):
        busy.take()
    again = Taking(busy)
    mine = waiting.result()
    assert again.waits
    give(other, mine)
    assert again.result() == 2
    assert made.alive == {2}


def test_memory_is_given_in_turn():
    """A plan of small slots does not starve one of large slots."""
    budget = Budget(30)
    (small, _), (large, _) = pool(budget), pool(budget, 30)
    taken = [take(small), take(small)]
    first = Taking(large)
    second = Taking(small)
    assert first.waits
    assert second.waits
    for slot in taken:
        give(small, slot)
    slot = first.result()
    assert second.waits
    give(large, slot)
    second.result()


def test_too_little_for_a_single_slot():
    budget = Budget(100)
    budget.set_fixed(60)
    slots, maker = pool(budget, 50)
    with pytest.raises(OutOfMemoryError, match=r"needs 50 bytes of memory beside 60 .* memory_limit is 100"):
        take(slots)
    assert (slots.count, maker.made, slots.waiting, budget.queue) == (0, 0, [], [])
    budget.set_fixed(50)
    take(slots)
    assert budget.memory().peak == 100


def test_a_slot_that_cannot_be_made():
    budget = Budget()
    slots, maker = pool(budget)
    maker.errors.append(ValueError("the kernel"))
    with pytest.raises(ValueError, match="the kernel"):
        take(slots)
    maker.errors.append(OutOfMemoryError("no memory"))
    with pytest.raises(OutOfMemoryError):
        take(slots)
    assert (slots.count, budget.memory().slots) == (0, 0)
    give(slots, take(slots))


def test_memory_that_there_is_not_is_asked_of_others_first():
    budget = Budget()
    (one, made_one), (two, made_two) = pool(budget), pool(budget)
    give(one, take(one))
    made_two.errors.append(OutOfMemoryError("no memory"))
    take(two)
    assert not made_one.alive
    # Then runs wait for slots that are in use.
    made_two.errors += [OutOfMemoryError("no memory")]
    waiting = Taking(two)
    assert waiting.waits
    give(two, 1)
    assert waiting.result() == 1
    assert made_two.made == 1


def test_cancelled_while_it_waits():
    slots, _ = pool(Budget(), limit=1)
    slot, flag = take(slots), CancelFlag()
    waiting = Taking(slots, flag)
    assert waiting.waits
    flag.set()
    with pytest.raises(Cancelled):
        waiting.result()
    assert not slots.waiting
    give(slots, slot)
    assert take(slots, flag) == slot


def test_closing():
    budget = Budget(20)
    (slots, maker), (other, _) = pool(budget, limit=1), pool(budget, 20)
    slot = take(slots)
    with pytest.raises(RuntimeError, match="1 runs are in flight"):
        slots.close(wait=False)
    waiting, beside = Taking(slots), Taking(other)
    closing = threading.Thread(target=slots.close)
    closing.start()
    with pytest.raises(SessionClosedError):
        waiting.result()
    assert beside.waits
    assert closing.is_alive()
    give(slots, slot)
    closing.join(SECONDS)
    assert not closing.is_alive()
    assert not maker.alive
    beside.result()
    with pytest.raises(SessionClosedError):
        take(slots)
    slots.close()


def test_a_plan_that_goes_gives_its_memory_back():
    budget = Budget(10)
    slots, _ = pool(budget)
    kept = weakref.ref(slots)
    give(slots, take(slots))
    assert budget.memory().slots == 10
    del slots
    gc.collect()
    assert kept() is None
    assert budget.memory().slots == 0


@pytest.mark.parametrize("limit", [None, 25, 40])
def test_many_threads_on_several_plans(limit):
    budget = Budget(limit)
    pools = [pool(budget, nbytes, 3) for nbytes in (5, 10, 25)]
    used: set[tuple[int, int]] = set()
    problems = []

    def work(seed: int) -> None:
        for turn in range(200):
            number = (seed + turn * (seed + 1)) % 3
            slots, maker = pools[number]
            slot = take(slots)
            if (number, slot) in used or slot not in maker.alive:
                problems.append((number, slot))
            used.add((number, slot))
            taken = budget.taken
            if limit is not None and taken > limit:
                problems.append(taken)
            used.discard((number, slot))
            give(slots, slot)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
    assert not problems
    assert not budget.waiting
    assert not budget.queue
    budget.trim()
    assert budget.memory().slots == 0
    assert not any(maker.alive for _, maker in pools)


def test_the_child_of_a_fork():
    """What runs held in the parent is not there in the child."""
    budget = Budget(20)
    slots, maker = pool(budget)
    take(slots)
    give(slots, take(slots))
    budget.after_fork()
    assert (slots.count, budget.memory().slots) == (1, 10)
    with pytest.raises(IndexError):
        slots.take()
    assert slots.acquire() == 2
    assert slots.acquire() == 3
    assert maker.made == 3
