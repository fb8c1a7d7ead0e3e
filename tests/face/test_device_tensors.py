"""Tensors that stay on a device: as feeds, between stages, as results, and in other libraries' hands."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import os
import pickle
import threading

import numpy as np
import pytest
from face_models import A, B, C, model, node, product_model, sums_model, value
from fake_device import FakeArray, ForeignArray, InterfaceOnly, Traffic, fake_session

import onnxplan
from onnxplan import InvalidFeedsError, Tensor
from onnxplan.runtime.elsewhere import cuda_location, host_advice
from onnxplan.tensor import unwrap, wrap


@pytest.fixture
def product(monkeypatch):
    session, traffic = fake_session(monkeypatch, product_model())
    with session:
        yield session, traffic


def stages_model():
    """``y = 2 x``, then as many rows as ``y`` has positive elements: two stages at least."""
    nodes = [
        node("Add", "x x", "y"),
        node("NonZero", "y", "i"),
        node("Gather", "y i", "z", axis=0),
        node("Mul", "z z", "w"),
    ]
    return model(nodes, [value("x", ["n"])], ["w", "y"])


# Results


def test_results_come_to_the_host_unless_they_are_to_stay(product):
    session, traffic = product
    assert session.device == "cuda:0"
    host = session.run_sync({"a": A, "b": B})["c"]
    assert host.location == "cpu"
    np.testing.assert_array_equal(host, C)
    traffic.to_host = 0
    kept = session.run_sync({"a": A, "b": B}, outputs="device")["c"]
    assert kept.location == "cuda:0"
    assert (kept.type, kept.dims, kept.size, len(kept)) == ("float32", (3, 3), 9, 3)
    assert repr(kept) == "Tensor('float32', dims=[3, 3], location='cuda:0')"
    assert traffic.to_host == 0
    np.testing.assert_array_equal(kept.numpy(), C)
    assert traffic.to_host == 1


def test_the_same_awaited(product):
    session, _ = product

    async def main():
        host = await session.run({"a": A, "b": B})
        kept = await session.run({"a": A, "b": B}, outputs="device")
        wanted = await session.run({"a": A, "b": B}, ["c"], "device")
        return host["c"], kept["c"], wanted["c"]

    host, *kept = asyncio.run(main())
    assert host.location == "cpu"
    for tensor in kept:
        assert tensor.location == "cuda:0"
        np.testing.assert_array_equal(tensor, C)


def test_what_outputs_may_be(product):
    session, _ = product
    with onnxplan.InferenceSession(product_model()) as cpu:
        for each in (session, cpu):
            for _ in range(2):
                with pytest.raises(ValueError, match="outputs must be 'cpu' or 'device', not 'gpu'"):
                    each.run_sync({"a": A, "b": B}, outputs="gpu")
                with pytest.raises(ValueError, match="not 'cuda:0'"):
                    asyncio.run(each.run({"a": A, "b": B}, outputs="cuda:0"))
                each.run_sync({"a": A, "b": B})
        # On the CPU, the device is the CPU: on the first run, on the hot path, awaited.
        for feeds in ({"a": A.tolist(), "b": B}, {"a": A, "b": B}):
            assert cpu.run_sync(feeds, outputs="device")["c"].location == "cpu"
            results = asyncio.run(cpu.run(feeds, outputs="device"))
            np.testing.assert_array_equal(results["c"], C)


# Feeds


@pytest.mark.parametrize("make", [ForeignArray, InterfaceOnly], ids=["DLPack", "CUDA array interface"])
def test_arrays_of_the_device_are_read_where_they_are(product, make):
    session, traffic = product
    for _ in range(2):
        traffic.to_device = traffic.in_place = 0
        results = session.run_sync({"a": make(A), "b": B})
        np.testing.assert_array_equal(results["c"], C)
        assert (traffic.in_place, traffic.to_device) == (1, 1)


def test_results_feed_runs_without_leaving_the_device(monkeypatch):
    session, traffic = fake_session(monkeypatch, sums_model(["n"]))
    with session:
        x = np.arange(5, dtype=np.float32)
        first = session.run_sync({"x": x, "y": x}, outputs="device")
        traffic.to_host = traffic.to_device = traffic.in_place = 0
        second = session.run_sync({"x": first["s"], "y": first["p"]}, ["s"], outputs="device")
        assert (traffic.in_place, traffic.to_device, traffic.to_host) == (2, 0, 0)
        np.testing.assert_array_equal(second["s"], 2 * x + x * x)


def test_tensors_between_stages_stay_on_the_device(monkeypatch):
    session, traffic = fake_session(monkeypatch, stages_model())
    with session:
        x = np.float32([1, 0, -2, 3])
        for outputs, most in (("device", 1), ("cpu", 3)):
            traffic.to_host = traffic.to_device = 0
            results = session.run_sync({"x": x}, outputs=outputs)
            assert len(session.plans({"x": (4,)})) > 1
            # Only the answer that decides on the shapes is read, besides the results.
            assert traffic.to_host == most
            assert {tensor.location for tensor in results.values()} == {
                "cuda:0" if outputs == "device" else "cpu"
            }
            y = 2 * x
            np.testing.assert_array_equal(results["y"], y)
            np.testing.assert_array_equal(results["w"].numpy().ravel(), y[y != 0] ** 2)


def test_strings_stay_on_the_host(monkeypatch):
    session, _ = fake_session(monkeypatch, model([node("Identity", "x", "y")], [value("x", ["n"], 8)], ["y"]))
    with session:
        result = session.run_sync({"x": ["a", "b"]}, outputs="device")["y"]
        assert result.location == "cpu"
        assert result.numpy().tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (ForeignArray(A.astype(np.float64)), ["expected float32, got float64"]),
        (ForeignArray(A[:2]), ["dimension 0 is 2", "expected 3"]),
        (ForeignArray(A, "cuda:1"), ["on cuda:1", "runs on cuda:0"]),
        (wrap(FakeArray(A, Traffic(), "cuda:1")), ["on cuda:1", "runs on cuda:0"]),
    ],
    ids=["type", "shape", "other device", "tensor of another device"],
)
def test_arrays_that_do_not_fit(product, given, parts):
    session, _ = product
    with pytest.raises(InvalidFeedsError) as caught:
        session.run_sync({"a": given, "b": B})
    for part in ["input a: float32[3, 4]", *parts]:
        assert part in str(caught.value)
    np.testing.assert_array_equal(session.run_sync({"a": A, "b": B})["c"], C)


@pytest.mark.parametrize(
    ("given", "where", "advice"),
    [
        (ForeignArray(A), "cuda:0", ".get()"),
        (ForeignArray(A, "cuda:3"), "cuda:3", ".get()"),
        (InterfaceOnly(A), "a CUDA device", ".copy_to_host()"),
        (wrap(FakeArray(A, Traffic())), "cuda:0", ".numpy()"),
    ],
    ids=["DLPack", "second device", "CUDA array interface", "Tensor"],
)
def test_a_session_on_the_cpu_refuses_arrays_of_cuda_devices(given, where, advice):
    with onnxplan.InferenceSession(product_model()) as session:
        for feeds in ({"a": given, "b": B}, {"a": A, "b": given}):
            with pytest.raises(InvalidFeedsError) as caught:
                session.run_sync(feeds)
            for part in (f"the array is on {where}", "runs on the CPU", advice, "device='cuda'"):
                assert part in str(caught.value)
        with pytest.raises(InvalidFeedsError, match=f"out: 'c': the array is on {where}"):
            session.run_sync({"a": A, "b": B}, out={"c": given})
        np.testing.assert_array_equal(session.run_sync({"a": A, "b": B})["c"], C)


def test_where_arrays_are():
    assert cuda_location(A) is None
    assert cuda_location(Tensor.from_numpy(A)) is None
    assert cuda_location([1, 2]) is None
    assert cuda_location(ForeignArray(A, "cuda:2")) == "cuda:2"
    assert cuda_location(InterfaceOnly(A)) == "a CUDA device"
    assert host_advice(object()).startswith("copy it to the host, or")


# Writing into the caller's arrays


@pytest.mark.parametrize("outputs", ["cpu", "device"])
def test_out_takes_arrays_of_both_memories(monkeypatch, outputs):
    session, traffic = fake_session(monkeypatch, sums_model(["n"]))
    with session:
        x = np.arange(4, dtype=np.float32)
        there, here = ForeignArray(np.full(4, np.nan, np.float32)), np.full(4, np.nan, np.float32)
        traffic.to_host = 0
        results = session.run_sync({"x": x, "y": x}, out={"s": there, "d": here}, outputs=outputs)
        np.testing.assert_array_equal(there.memory, 2 * x)
        np.testing.assert_array_equal(here, 0 * x)
        np.testing.assert_array_equal(results["p"], x * x)
        assert results["s"].location == "cuda:0"
        assert results["d"].numpy() is here
        assert results["p"].location == ("cuda:0" if outputs == "device" else "cpu")


def test_out_refuses_what_cannot_be_written(product):
    session, _ = product
    memory = np.zeros((3, 3), np.float32)
    locked = memory.copy()
    locked.flags.writeable = False
    cases = [
        (ForeignArray(memory.T[::-1]), "not C-contiguous"),
        (ForeignArray(locked), "not writable"),
        (ForeignArray(memory.astype(np.float64)), "is float64[3, 3], the output is float32[3, 3]"),
        (ForeignArray(memory[:2]), "is float32[2, 3], the output is float32[3, 3]"),
        (ForeignArray(memory, "cuda:1"), "on cuda:1"),
        (memory.tolist(), "must be a NumPy array or an array on cuda:0, not list"),
    ]
    for given, part in cases:
        with pytest.raises(InvalidFeedsError) as caught:
            session.run_sync({"a": A, "b": B}, out={"c": given})
        assert part in str(caught.value)
        assert "out: 'c'" in str(caught.value)


def test_out_must_not_overlap_on_the_device(monkeypatch):
    session, _ = fake_session(monkeypatch, sums_model(["n"]))
    memory = np.zeros(12, np.float32)
    x = np.ones(4, np.float32)
    with session:
        with pytest.raises(InvalidFeedsError, match="out: 's' shares memory with input 'x'"):
            session.run_sync({"x": ForeignArray(memory[:4]), "y": x}, out={"s": ForeignArray(memory[3:7])})
        with pytest.raises(InvalidFeedsError, match="out: 'd' shares memory with output 's'"):
            session.run_sync(
                {"x": x, "y": x}, out={"s": ForeignArray(memory[:4]), "d": ForeignArray(memory[:4])}
            )
        out = {"s": ForeignArray(memory[4:8]), "d": ForeignArray(memory[8:])}
        session.run_sync({"x": ForeignArray(memory[:4]), "y": x}, out=out)
        np.testing.assert_array_equal(memory, [0] * 4 + [1] * 4 + [-1] * 4)


# Tensors


@pytest.fixture
def kept():
    return wrap(FakeArray(np.arange(6, dtype=np.float32).reshape(2, 3), Traffic()))


def test_what_copies_to_the_host(kept):
    traffic = unwrap(kept).traffic
    right = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(kept.numpy(), right)
    np.testing.assert_array_equal(kept.data, right.ravel())
    np.testing.assert_array_equal(np.asarray(kept), right)
    assert np.asarray(kept, np.float64).dtype == np.float64
    assert traffic.to_host == 4
    np.testing.assert_array_equal(np.array(kept, copy=True), right)
    assert traffic.to_host == 5
    kept.numpy()[:] = -1
    np.testing.assert_array_equal(kept, right)
    for dtype in (None, np.float32, np.float64):
        with pytest.raises(ValueError, match="on cuda:0 cannot become a NumPy array without a copy"):
            np.array(kept, dtype, copy=False)


def test_what_does_not(kept):
    traffic = unwrap(kept).traffic
    assert kept.__dlpack_device__() == (2, 0)
    assert kept.__cuda_array_interface__["data"][0] == unwrap(kept).pointer
    assert kept.__cuda_array_interface__["shape"] == (2, 3)
    kept.__dlpack__()
    assert len(repr(wrap(FakeArray(np.zeros(10**6), Traffic())))) < 100
    assert traffic.to_host == 0
    again = Tensor.from_dlpack(kept)
    assert unwrap(again) is unwrap(kept)


def test_only_tensors_on_a_device_have_the_cuda_array_interface(kept):
    assert hasattr(kept, "__cuda_array_interface__")
    assert not hasattr(Tensor.from_numpy(A), "__cuda_array_interface__")
    with pytest.raises(BufferError, match=r"on cuda:0; feed it as it is, or .* \.get\(\)"):
        Tensor.from_dlpack(ForeignArray(A))


def test_tensors_of_either_memory_pickle_as_the_host_s(kept):
    for tensor in (kept, Tensor.from_numpy(kept.numpy())):
        for again in (pickle.loads(pickle.dumps(tensor)), copy.deepcopy(tensor)):
            assert again.location == "cpu"
            np.testing.assert_array_equal(again, kept.numpy())


# Runs in flight


@pytest.mark.parametrize(("places", "most"), [(None, 16), (3, 3)])
def test_many_tasks_are_in_flight_on_threads_of_the_device(monkeypatch, places, most):
    session, traffic = fake_session(monkeypatch, sums_model(["n"]), max_concurrency=places)
    monkeypatch.setattr("onnxplan.runtime.cpu.executor.default_concurrency", lambda: 16)

    async def main():
        x = np.arange(3, dtype=np.float32)
        await session.run({"x": x, "y": x})
        traffic.gate.clear()
        traffic.threads.clear()
        tasks = [asyncio.create_task(session.run({"x": x, "y": x})) for _ in range(40)]
        while traffic.running < most:
            await asyncio.sleep(0.001)
        # However short the plan is estimated: the event loop is free.
        await asyncio.sleep(0.02)
        assert traffic.running == most
        traffic.gate.set()
        for results in await asyncio.gather(*tasks):
            np.testing.assert_array_equal(results["s"], 2 * x)

    with session:
        asyncio.run(main())
    assert traffic.most_running == most
    assert all(name.startswith("onnxplan-cuda:0-") for name in traffic.threads)
    assert threading.current_thread().name not in traffic.threads


# Forks


def _use_in_child(session, queue):
    outcomes = []
    for attempt in (
        lambda: session.run_sync({"x": [1.0], "y": [2.0]}),
        lambda: asyncio.run(session.run({"x": [1.0], "y": [2.0]})),
        session.trim,
        session.close,
    ):
        try:
            outcomes.append(type(attempt()).__name__)
        except onnxplan.DeviceUnavailableError as error:
            outcomes.append(str(error))
    queue.put(outcomes)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_of_a_fork_is_told_and_does_not_hang(monkeypatch):
    """Even if the parent had a run in flight, whose slot will never come back."""
    session, traffic = fake_session(monkeypatch, sums_model(["n"]))
    x = np.ones(1, np.float32)

    async def main():
        await session.run({"x": x, "y": x})
        traffic.gate.clear()
        task = asyncio.create_task(session.run({"x": x, "y": x}))
        while not traffic.running:
            await asyncio.sleep(0.001)
        queue = context.Queue()
        child = context.Process(target=_use_in_child, args=(session, queue))
        child.start()
        outcomes = await asyncio.to_thread(queue.get, timeout=60)
        await asyncio.to_thread(child.join, 60)
        traffic.gate.set()
        return outcomes, child.exitcode, (await task)["s"].numpy().tolist()

    context = multiprocessing.get_context("fork")
    with session:
        outcomes, status, results = asyncio.run(main())
    assert outcomes == ["the process was forked"] * 2 + ["int", "NoneType"]
    assert status == 0
    assert results == [2]
