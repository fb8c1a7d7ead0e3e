"""Memory of results serves again once nothing refers to it, and not before."""

import gc
import resource
import threading

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxplan
from onnxplan.compiler.blocks import ALIGNMENT
from onnxplan.runtime.result_blocks import LEAST_BYTES, MOST_BLOCKS, UNREAD, WINDOW, ResultBlocks

COUNT = LEAST_BYTES // 4
pytestmark = pytest.mark.skipif(UNREAD is None, reason="this interpreter does not count references")


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("count", [COUNT, 1 << 18, (1 << 20) + 3])
def test_memory_serves_again_when_the_result_is_gone(count):
    make = ResultBlocks((count,), np.dtype(np.float32))
    first = make()
    place = address(first)
    assert place % ALIGNMENT == 0
    assert first.shape == (count,)
    first[...] = np.arange(count)
    del first
    assert make.spare_bytes == 4 * count
    assert address(make()) == place


@pytest.mark.parametrize(
    "reader",
    [
        lambda result: result[3:9:2],
        lambda result: result.reshape(2, -1).T,
        lambda result: result.view(np.uint8)[5:6],
        memoryview,
        lambda result: result.__dlpack__(),
        np.from_dlpack,
        lambda result: np.asarray(memoryview(result)),
        lambda result: np.frombuffer(result, np.uint8),
        lambda result: iter([result]),
        lambda result: result.base,
    ],
)
def test_whatever_reads_a_result_keeps_it(reader):
    make = ResultBlocks((COUNT,), np.dtype(np.float32))
    result = make()
    place = address(result)
    kept = reader(result)
    del result
    assert make.spare_bytes == 0
    others = [make() for _ in range(3)]
    assert place not in map(address, others)
    del kept
    gc.collect()
    assert address(make()) == place


def test_results_alive_at_once_have_memory_of_their_own():
    make = ResultBlocks((COUNT,), np.dtype(np.float32))
    results = [make() for _ in range(2 * MOST_BLOCKS)]
    for number, result in enumerate(results):
        result[...] = number
    assert len(set(map(address, results))) == len(results)
    assert [result[0] for result in results] == [result[-1] for result in results] == [*range(len(results))]
    assert make.spare_bytes == 0


def test_blocks_that_are_not_needed_are_given_up():
    make = ResultBlocks((COUNT,), np.dtype(np.float32))
    results = [make() for _ in range(5)]
    assert make.spare_bytes == 0
    results.clear()
    assert make.spare_bytes == 5 * 4 * COUNT
    for _ in range(2 * WINDOW):
        make()
    result = make()
    assert make.spare_bytes == 4 * COUNT
    assert make.trim() == 4 * COUNT
    result[...] = 1
    assert make.spare_bytes == 0


def test_blocks_that_are_needed_now_and_then_are_kept():
    make = ResultBlocks((COUNT,), np.dtype(np.float32))
    places = set()
    for number in range(4 * WINDOW):
        results = [make() for _ in range(5 if number % 8 == 0 else 1)]
        places.update(map(address, results))
        del results
    assert len(places) == 5


def test_threads_never_share_memory():
    make = ResultBlocks((COUNT,), np.dtype(np.float32))
    wrong = []

    def work(number):
        for _ in range(300):
            result = make()
            result[...] = number
            if not (result == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def copying_model(count):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "g",
        [value("x", onnx.TensorProto.FLOAT, [count])],
        [value("y", onnx.TensorProto.FLOAT, [count])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_runs_fault_no_pages():
    """Twenty results of 8 MiB would have 40,960 pages."""
    feeds = {"x": np.ones(1 << 21, np.float32)}
    with onnxplan.InferenceSession(copying_model(1 << 21)) as session:
        result = None
        for _ in range(3):
            result = session.run_sync(feeds)["y"]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            result = session.run_sync(feeds)["y"]
        assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 1000
        assert result.numpy()[-1] == -1


def test_sessions_count_and_give_up_what_they_keep():
    feeds = {"x": np.ones(COUNT, np.float32)}
    with onnxplan.InferenceSession(copying_model(COUNT)) as session:
        kept = session.run_sync(feeds)["y"]
        assert session.memory().results == 0
        session.run_sync(feeds)
        assert session.memory().results == 4 * COUNT
        slots = session.memory().slots
        assert session.trim() == slots + 4 * COUNT
        assert session.memory().results == 0
        session.run_sync({"x": np.zeros(COUNT, np.float32)})
        assert (kept.numpy() == -1).all()
    assert session.memory().results == 0
    assert (kept.numpy() == -1).all()


def test_sessions_with_a_limit_keep_none():
    with onnxplan.InferenceSession(copying_model(COUNT), memory_limit=1 << 24) as session:
        session.run_sync({"x": np.ones(COUNT, np.float32)})
        assert session.memory().results == 0
