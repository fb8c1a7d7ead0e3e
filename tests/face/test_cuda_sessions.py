"""Sessions on the emulated CUDA device, strict about what a GPU would get wrong silently."""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import os

import numpy as np
import pytest
from face_models import A, B, C, model, node, product_model, sums_model, value

import onnxplan
from onnxplan import InvalidFeedsError, Tensor


@pytest.fixture
def cuda(emulated_cuda):
    emulated_cuda.standin.counters.clear()
    yield emulated_cuda.standin
    gc.collect()
    emulated_cuda.check()


@pytest.fixture
def foreign(cuda):
    """Makes arrays of another library on the device, written on a stream of their own."""
    from standin_arrays import FakeCudaArray

    made = []

    def make(values, **options):
        made.append(FakeCudaArray(cuda, values, **options))
        return made[-1]

    yield make
    for array in made:
        array.close()


def sums(**options):
    return onnxplan.InferenceSession(sums_model(["n", 3]), device="cuda", **options)


X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_device_results_feed_runs_without_crossing(cuda):
    with sums() as session:
        first = session.run_sync({"x": X, "y": X}, outputs="device")
        assert {tensor.location for tensor in first.values()} == {session.device} == {"cuda:0"}
        for _ in range(3):
            cuda.counters.clear()
            second = session.run_sync({"x": first["s"], "y": first["p"]}, outputs="device")
            assert not {"host to device", "device to host"} & set(cuda.counters.copies)
        np.testing.assert_array_equal(second["s"], 2 * X + X * X)
        # Results are the caller's: later runs do not touch them.
        session.run_sync({"x": X + 9, "y": X}, outputs="device")
        np.testing.assert_array_equal(first["s"], 2 * X)


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_other_libraries_are_waited_for(cuda, foreign, order):
    """They are written on their own streams, which may be behind."""
    with sums() as session:
        for seed in range(4):
            x = np.random.default_rng(seed).standard_normal((2, 3)).astype(np.float32)
            results = session.run_sync({"x": foreign(x, order=order), "y": X}, outputs="device")
            np.testing.assert_array_equal(results["s"], x + X)


def test_tensors_are_read_by_others_in_place(cuda):
    with sums() as session:
        kept = session.run_sync({"x": X, "y": X}, outputs="device")["s"]
        interface = kept.__cuda_array_interface__
        assert interface["shape"] == (2, 3)
        assert interface["typestr"] == "<f4"
        assert kept.__dlpack_device__() == (2, 0)
        host = np.from_dlpack(kept, device="cpu") if np.lib.NumpyVersion(np.__version__) >= "2.1.0" else kept
        np.testing.assert_array_equal(host, 2 * X)


def test_out_on_the_device(cuda, foreign):
    with sums() as session:
        target = foreign(np.zeros_like(X))
        for scale in (1, 2, 3):
            results = session.run_sync({"x": scale * X, "y": X}, out={"s": target})
            np.testing.assert_array_equal(results["s"], (scale + 1) * X)
            assert results["s"].location == "cuda:0"
            assert results["d"].location == "cpu"
        for wrong, part in (
            (foreign(X, order="F"), "not C-contiguous"),
            (foreign(X, read_only=True), "read-only"),
            (foreign(X[:1]), "is float32[1, 3], the output is float32[2, 3]"),
        ):
            with pytest.raises(InvalidFeedsError) as caught:
                session.run_sync({"x": X, "y": X}, out={"s": wrong})
            assert part in str(caught.value)
            assert "out: 's'" in str(caught.value)
        kept = session.run_sync({"x": X, "y": X}, outputs="device")
        with pytest.raises(InvalidFeedsError, match="out: 's' shares memory with input 'x'"):
            session.run_sync({"x": kept["s"], "y": X}, out={"s": kept["s"]})
        session.run_sync({"x": X, "y": X}, out={"s": kept["d"]})
        np.testing.assert_array_equal(kept["d"], 2 * X)


def test_the_wrong_device(cuda, foreign):
    with sums() as session, onnxplan.InferenceSession(sums_model(["n", 3])) as cpu:
        kept = session.run_sync({"x": X, "y": X}, outputs="device")["s"]
        for given, advice in ((kept, ".numpy()"), (foreign(X), "copy it to the host")):
            with pytest.raises(InvalidFeedsError) as caught:
                cpu.run_sync({"x": given, "y": X})
            for part in ("input x: float32[n, 3]", "on cuda:0", "runs on the CPU", advice):
                assert part in str(caught.value)
        np.testing.assert_array_equal(cpu.run_sync({"x": kept.numpy(), "y": X})["s"], 3 * X)


def test_many_tasks(cuda):
    """Shapes, memories and results mixed, more tasks than slots."""
    with sums(max_concurrency=3) as session:
        kept = session.run_sync({"x": X, "y": X}, outputs="device")["s"]

        async def one(number):
            x = np.full((2 + number % 3, 3), number, np.float32)
            y = kept if number % 3 == 0 else np.ones_like(x)
            results = await session.run({"x": x, "y": y}, outputs="device" if number % 2 else "cpu")
            np.testing.assert_array_equal(results["s"], x + (2 * X if number % 3 == 0 else 1))

        async def main():
            await asyncio.gather(*(one(number) for number in range(30)))

        asyncio.run(main())


def test_stages_stay_on_the_device(cuda):
    nodes = [node("Add", "x x", "y"), node("NonZero", "y", "i"), node("Gather", "y i", "z", axis=0)]
    with onnxplan.InferenceSession(model(nodes, [value("x", ["n"])], ["z", "y"]), device="cuda") as session:
        x = np.float32([1, 0, -2, 3])
        session.run_sync({"x": x})
        cuda.counters.clear()
        results = session.run_sync({"x": x}, outputs="device")
        np.testing.assert_array_equal(results["z"].numpy().ravel(), [2, -4, 6])
        # The answer is the only thing that is read, before the test reads a result.
        assert cuda.counters.copies["device to host"] <= 2


def test_memory(cuda):
    rows = {"x": np.ones((1000, 3), np.float32), "y": np.ones((1000, 3), np.float32)}
    with sums() as session:
        session.run_sync(rows)
        memory = session.memory()
        # Five tensors of 12,000 bytes.
        assert 60_000 <= memory.slots <= 70_000
        assert session.trim() == memory.slots
        session.run_sync(rows)
    with sums(memory_limit=memory.peak) as session:
        for count in (1000, 999, 1000, 10, 998):
            x = np.full((count, 3), count, np.float32)
            np.testing.assert_array_equal(session.run_sync({"x": x, "y": x})["d"], 0 * x)
        assert session.memory().peak <= memory.peak
        x = np.ones((2000, 3), np.float32)
        with pytest.raises(onnxplan.OutOfMemoryError, match=f"memory_limit is {memory.peak:,}"):
            session.run_sync({"x": x, "y": x})
        session.run_sync(rows)


def test_lists_and_tensors_of_the_host(cuda):
    with onnxplan.InferenceSession(product_model(), device="cuda") as session:
        for feeds in ({"a": A.tolist(), "b": B}, {"a": A, "b": Tensor.from_numpy(B)}, {"a": A, "b": B}) * 2:
            np.testing.assert_array_equal(session.run_sync(feeds)["c"], C)


def test_auto_takes_cuda_where_it_works_and_says_so(cuda, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "onnxplan")
    with onnxplan.InferenceSession(product_model(), device="auto") as session:
        assert session.device == "cuda:0"
        np.testing.assert_array_equal(session.run_sync({"a": A, "b": B})["c"], C)
    assert "device='auto' chose cuda:0" in caplog.text

    def fail():
        raise onnxplan.DeviceUnavailableError("no NVIDIA driver")

    monkeypatch.setattr("onnxplan.runtime.cuda.device.load_api", fail)
    with onnxplan.InferenceSession(product_model(), device="auto") as session:
        assert session.device == "cpu"
    assert "device='auto' chose the CPU: no NVIDIA driver" in caplog.text
    with pytest.raises(onnxplan.DeviceUnavailableError, match="no NVIDIA driver"):
        onnxplan.InferenceSession(product_model(), device="cuda")


def _use_in_child(session, feeds, queue):
    outcomes = []
    for attempt in (lambda: session.run_sync(feeds), lambda: asyncio.run(session.run(feeds)), session.close):
        try:
            outcomes.append(str(attempt()))
        except onnxplan.DeviceUnavailableError as error:
            outcomes.append(str(error))
    queue.put(outcomes)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_child_of_a_fork_is_told(cuda):
    with sums() as session:
        kept = session.run_sync({"x": X, "y": X}, outputs="device")["s"]
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        child = context.Process(target=_use_in_child, args=(session, {"x": kept, "y": X}, queue))
        child.start()
        awaited, blocking, closed = queue.get(timeout=60)
        child.join(60)
        assert child.exitcode == 0
        assert "does not survive a fork" in awaited
        assert "does not survive a fork" in blocking
        assert closed == "None"
        np.testing.assert_array_equal(session.run_sync({"x": kept, "y": X})["s"], 3 * X)


def test_as_a_backend(cuda):
    from onnxplan import backend

    assert [backend.supports_device(name) for name in ("CUDA", "CUDA:0", "CUDA:7")] == [True, True, False]
    (result,) = backend.run_model(product_model(), [A, B], "CUDA")
    np.testing.assert_array_equal(result, C)


def test_an_artifact_carries_its_kernels(cuda, tmp_path):
    path = tmp_path / "sums.plan"
    onnxplan.compile(sums_model(["n", 3]), path, device=["cpu", "cuda"], shapes={"x": (2, 3), "y": (2, 3)})
    with onnxplan.InferenceSession(path, device="cuda", cache=False) as session, sums() as plain:
        before = session.compiled_kernels
        feeds = {"x": X, "y": X}
        found, wanted = session.run_sync(feeds), plain.run_sync(feeds)
        for name in wanted:
            np.testing.assert_array_equal(found[name], wanted[name])
        assert session.compiled_kernels == before
        # Another shape is planned from the model that the artifact carries.
        np.testing.assert_array_equal(session.run_sync({"x": X[:1], "y": X[:1]})["s"], 2 * X[:1])
    with onnxplan.InferenceSession(path) as session:
        np.testing.assert_array_equal(session.run_sync(feeds)["s"], 2 * X)


def test_artifacts_for_other_devices_are_refused(cuda, tmp_path):
    path = tmp_path / "sums.plan"
    onnxplan.compile(sums_model([2, 3]), path, device="cpu")
    with pytest.raises(onnxplan.IncompatibleArtifactError, match="it is for cpu"):
        onnxplan.InferenceSession(path, device="cuda")
    with onnxplan.InferenceSession(path, device="cuda", recompile=True) as session:
        np.testing.assert_array_equal(session.run_sync({"x": X, "y": X})["s"], 2 * X)
