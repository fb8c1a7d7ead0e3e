"""Memory of sessions: what it is, what bounds it, and giving it up."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading

import numpy as np
import pytest
from face_models import EXTENT, long_model, model, node, sums_model, value
from fake_device import fake_session

import onnxplan
from onnxplan import OutOfMemoryError


def chain_model():
    """``y = x @ w @ w`` for ``n`` rows: constants, and temporaries that grow with the rows."""
    w = np.eye(64, dtype=np.float32)
    nodes = [node("MatMul", "x w", "v"), node("MatMul", "v w", "y")]
    return model(nodes, [value("x", ["n", 64])], ["y"], w=w)


def rows(count: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(count).standard_normal((count, 64)).astype(np.float32)}


def run(session, count):
    feeds = rows(count)
    np.testing.assert_allclose(session.run_sync(feeds)["y"], feeds["x"], rtol=1e-6)


def needed(count):
    """Bytes for one run of so many rows: constants and slot."""
    with onnxplan.InferenceSession(chain_model()) as session:
        run(session, count)
        memory = session.memory()
        assert memory.peak == memory.constants + memory.slots
        return memory.constants, memory.slots


def test_memory_by_kind():
    with onnxplan.InferenceSession(chain_model()) as session:
        assert session.memory() == onnxplan.SessionMemory(0, 0, 0, None)
        run(session, 100)
        first = session.memory()
        # The weight, perhaps packed, once for both steps; the temporary and what the executor itself needs.
        assert 64 * 64 * 4 <= first.constants <= 3 * 64 * 64 * 4
        assert 100 * 64 * 4 <= first.slots <= 100 * 64 * 4 + 2**20
        run(session, 200)
        second = session.memory()
        assert second.constants == first.constants
        assert second.slots > 2 * first.slots - 2**20
        assert second.peak == second.constants + second.slots
        for _ in range(3):
            run(session, 100)
        assert session.memory() == second
    assert session.memory().constants == 0
    assert session.memory().slots == 0
    assert session.memory().peak == second.peak


def test_trimming():
    with onnxplan.InferenceSession(chain_model()) as session:
        run(session, 100)
        run(session, 200)
        memory = session.memory()
        assert session.trim() == memory.slots
        assert session.trim() == 0
        assert session.memory() == onnxplan.SessionMemory(memory.constants, 0, memory.peak, None)
        run(session, 100)
        assert 0 < session.memory().slots < memory.slots
    assert session.trim() == 0


def test_trimming_beside_runs():
    with onnxplan.InferenceSession(chain_model()) as session:
        stop = threading.Event()

        def work():
            while not stop.is_set():
                session.trim()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            for count in (3, 50, 3, 70) * 20:
                run(session, count)
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize("wrong", ["1 GiB", 1.5, True, 0, -1])
def test_limits_that_make_no_sense(wrong):
    with pytest.raises((TypeError, ValueError), match="memory_limit must be"):
        onnxplan.InferenceSession(chain_model(), memory_limit=wrong)


def test_a_plan_above_the_limit():
    constants, slot = needed(1000)
    limit = constants + slot - 1
    with onnxplan.InferenceSession(chain_model(), memory_limit=limit) as session:
        for _ in range(2):
            with pytest.raises(OutOfMemoryError) as caught:
                session.run_sync(rows(1000))
            assert f"{constants + slot:,} bytes" in str(caught.value)
            assert f"memory_limit is {limit:,}" in str(caught.value)
            run(session, 10)
        assert session.memory().limit == limit
        assert session.memory().peak <= limit
        with pytest.raises(OutOfMemoryError):
            asyncio.run(session.run(rows(1000)))
    # One whose shapes are fixed is refused at once.
    with pytest.raises(OutOfMemoryError, match="memory_limit is 1,000"):
        onnxplan.InferenceSession(long_model(2), memory_limit=1000)


def test_plans_share_the_limit():
    """Slots of shapes that no longer come make room for those that do."""
    constants, slot = needed(1000)
    limit = constants + slot + slot // 2
    with onnxplan.InferenceSession(chain_model(), memory_limit=limit) as session:
        for count in (1000, 999, 500, 1000, 998, 10, 1000):
            run(session, count)
            assert session.memory().slots <= limit - constants
        assert session.memory().peak <= limit


def test_runs_wait_for_memory(monkeypatch):
    """Room for two runs: others wait for their turn, of whatever shape they are."""
    monkeypatch.setattr("onnxplan.runtime.cpu.executor.default_concurrency", lambda: 8)
    constants, slot = needed(1000)
    limit = constants + 2 * slot
    session, _ = fake_session(monkeypatch, chain_model(), memory_limit=limit)

    async def main():
        counts = [1000, 999, 998] * 8
        outcomes = await asyncio.gather(*(session.run(rows(count)) for count in counts))
        for count, outcome in zip(counts, outcomes, strict=True):
            np.testing.assert_allclose(outcome["y"], rows(count)["x"], rtol=1e-6)

    with session:
        asyncio.run(main())
        assert session.memory().peak <= limit


def test_a_limit_and_threads_of_the_cpu():
    constants, slot = needed(1000)
    with onnxplan.InferenceSession(chain_model(), memory_limit=constants + slot) as session:
        problems = []

        def work(seed):
            try:
                for turn in range(10):
                    run(session, (1000, 997, 20)[(seed + turn) % 3])
            except Exception as error:
                problems.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()
        assert not problems
        assert session.memory().peak <= constants + slot


def test_plans_that_fall_out_of_the_cache_give_their_memory_back():
    with onnxplan.InferenceSession(chain_model(), max_plans=2) as session:
        for count in (900, 901, 902, 903, 10, 11, 12):
            run(session, count)
        gc.collect()
        few = session.memory().slots
    _, slot = needed(12)
    assert few <= 3 * slot


def test_a_cancelled_run_that_waits_for_memory_frees_its_thread(monkeypatch):
    monkeypatch.setattr("onnxplan.runtime.cpu.executor.default_concurrency", lambda: 8)
    constants, slot = needed(1000)
    session, traffic = fake_session(monkeypatch, chain_model(), memory_limit=constants + slot)
    x, other = rows(1000), rows(999)

    async def main():
        tasks = [asyncio.create_task(session.run(x)) for _ in range(4)]
        tasks.append(asyncio.create_task(session.run(other)))
        await asyncio.sleep(0.01)
        for task in tasks[1:]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return await session.run(other)

    with session:
        results = asyncio.run(main())
        np.testing.assert_allclose(results["y"], other["x"], rtol=1e-6)
    assert traffic.running == 0


def test_the_limit_is_an_option_like_others():
    source = chain_model().SerializeToString()
    with (
        onnxplan.InferenceSession(source, memory_limit=10**8) as session,
        pickle.loads(pickle.dumps(session)) as again,
    ):
        assert again.memory().limit == 10**8


def test_max_concurrency_bounds_slots():
    with onnxplan.InferenceSession(long_model(4), max_concurrency=1) as session:
        x = np.ones((EXTENT, EXTENT), np.float32)
        session.run_sync({"x": x})
        one = session.memory().slots
        threads = [threading.Thread(target=session.run_sync, args=({"x": x},)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert session.memory().slots == one


def test_outputs_that_do_not_fit_beside_idle_slots(monkeypatch):
    """Memory for results is asked of idle slots before a run fails."""
    session, _ = fake_session(monkeypatch, sums_model(["n"]))
    x = np.arange(3, dtype=np.float32)
    with session:
        session.run_sync({"x": x, "y": x})
        device = session._device
        real, refused = device.allocate, []

        def scarce(shape, dtype, *, host):
            if session.memory().slots:
                refused.append(shape)
                raise OutOfMemoryError("no memory")
            return real(shape, dtype, host=host)

        monkeypatch.setattr(device, "allocate", scarce)
        results = session.run_sync({"x": x, "y": x}, outputs="device")
        np.testing.assert_array_equal(results["s"], 2 * x)
        assert refused

        def never(shape, dtype, *, host):
            raise MemoryError("none at all")

        monkeypatch.setattr(device, "allocate", never)
        with pytest.raises(
            OutOfMemoryError, match="outputs 's', 'd', 'p' need 36 bytes of memory: none at all"
        ):
            session.run_sync({"x": x, "y": x}, outputs="device")
