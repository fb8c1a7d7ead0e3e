"""Items that arrive while others are computed share a batch."""

import asyncio

import pytest

from examples.batching import Batcher, OverloadedError


class Gate:
    """Doubles numbers once it is opened, and keeps the batches."""

    def __init__(self):
        self.batches = []
        self.open = asyncio.Event()

    async def __call__(self, items):
        self.batches.append(list(items))
        await self.open.wait()
        if "bad" in items:
            raise ValueError("a bad item")
        return [2 * item for item in items]


def scenario(function):
    """Runs an asynchronous test, which is not to hang."""
    return lambda: asyncio.run(asyncio.wait_for(function(), 60))


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


@scenario
async def test_what_arrives_meanwhile_shares_a_batch():
    gate = Gate()
    async with Batcher(gate, max_batch=4) as batcher:
        first = asyncio.create_task(batcher.submit(0))
        await turns()
        rest = [asyncio.create_task(batcher.submit(number)) for number in range(1, 8)]
        await turns()
        assert gate.batches == [[0]]
        gate.open.set()
        assert await asyncio.gather(first, *rest) == [2 * number for number in range(8)]
    assert gate.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]


@scenario
async def test_tasks_of_one_turn_share_the_first_batch():
    gate = Gate()
    gate.open.set()
    async with Batcher(gate, max_batch=4) as batcher:
        assert await asyncio.gather(*(batcher.submit(number) for number in range(3))) == [0, 2, 4]
    assert gate.batches == [[0, 1, 2]]


@scenario
async def test_batches_in_flight_are_bounded():
    gate = Gate()
    async with Batcher(gate, max_batch=1, in_flight=2) as batcher:
        tasks = [asyncio.create_task(batcher.submit(number)) for number in range(4)]
        await turns()
        assert gate.batches == [[0], [1]]
        gate.open.set()
        assert await asyncio.gather(*tasks) == [0, 2, 4, 6]


@scenario
async def test_an_error_reaches_its_batch_alone():
    gate = Gate()
    async with Batcher(gate, max_batch=2) as batcher:
        tasks = [asyncio.create_task(batcher.submit(item)) for item in (1, "bad", 2)]
        await turns()
        gate.open.set()
        first, second, third = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, ValueError)
    assert isinstance(second, ValueError)
    assert third == 4


@scenario
async def test_cancelled_items_are_withdrawn():
    gate = Gate()
    async with Batcher(gate, max_batch=2) as batcher:
        tasks = [asyncio.create_task(batcher.submit(number)) for number in range(5)]
        await turns()
        tasks[0].cancel()
        tasks[3].cancel()
        await turns()
        gate.open.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results].count(asyncio.CancelledError) == 2
    assert (results[1], results[2], results[4]) == (2, 4, 8)
    assert gate.batches == [[0, 1], [2, 4]]


@scenario
async def test_too_many_items_are_refused():
    gate = Gate()
    async with Batcher(gate, max_batch=1, max_waiting=2) as batcher:
        running = asyncio.create_task(batcher.submit(0))
        await turns()
        waiting = [asyncio.create_task(batcher.submit(number)) for number in (1, 2)]
        await turns()
        with pytest.raises(OverloadedError, match="2 items"):
            await batcher.submit(3)
        gate.open.set()
        assert await asyncio.gather(running, *waiting) == [0, 2, 4]


@scenario
async def test_closing_finishes_what_waits():
    gate = Gate()
    batcher = Batcher(gate, max_batch=1)
    async with batcher:
        tasks = [asyncio.create_task(batcher.submit(number)) for number in range(3)]
        await turns()
        gate.open.set()
    assert [task.done() for task in tasks] == [True] * 3
    with pytest.raises(RuntimeError, match="closed"):
        await batcher.submit(4)
