"""Devices that fail, processes that fork, and errors that cost no more than a run."""

from __future__ import annotations

import os
import traceback

import numpy as np
import pytest
from runtime_plans import Bench, PlanMaker, chained, run, values
from standin_errors import ILLEGAL_ADDRESS

from onnxplan.compiler.errors import DeviceError, DeviceUnavailableError, OnnxPlanError
from onnxplan.runtime.cuda import errors
from onnxplan.runtime.cuda.context import open_context

STICKY = [214, 700, 710, 714, 715, 716, 717, 718, 719, 999]


@pytest.mark.parametrize("status", STICKY)
def test_a_kernel_that_breaks_the_device_ends_its_sessions(status):
    bench = Bench()
    executor, other = bench.chain(), bench.chain()
    array = bench.device_array(values())
    run(executor, values())
    bench.standin.faults.fail_kernel(status)
    with pytest.raises(
        DeviceUnavailableError, match=r"cuda:0 failed while running a plan: .*open a new session"
    ):
        run(executor, values())
    result = np.empty(300, np.float32)
    for use in (
        lambda: run(executor, values()),
        lambda: run(other, values()),
        lambda: executor.try_run((values(),), (result,)),
        lambda: bench.chain(),
        lambda: bench.device.allocate((3,), np.dtype(np.float32), host=False),
        lambda: array.numpy(),
        lambda: array.__dlpack__(),
        lambda: array.__cuda_array_interface__,
        lambda: bench.device.import_array(array),
    ):
        with pytest.raises(DeviceUnavailableError, match="failed while running a plan"):
            use()
    executor.close()
    other.close()
    assert bench.standin.violations == []


def test_a_new_device_works_after_one_that_failed():
    bench = Bench()
    executor = bench.chain()
    array = bench.device_array(values())
    run(executor, values())
    first = bench.device
    bench.standin.faults.fail_kernel()
    with pytest.raises(DeviceUnavailableError):
        run(executor, values())
    bench.device = bench.open()
    assert bench.device.context is not first.context
    fresh = bench.chain()
    for _ in range(3):
        np.testing.assert_array_equal(run(fresh, values())[0], chained(values()))
    # What belongs to the old one stays dead, and frees nothing of the new one.
    with pytest.raises(DeviceUnavailableError, match="open a new session"):
        run(executor, values())
    with pytest.raises(DeviceUnavailableError, match="open a new session"):
        bench.device.import_array(array)
    executor.close()
    del executor, array
    np.testing.assert_array_equal(run(fresh, values())[0], chained(values()))
    assert bench.standin.violations == []


def test_a_failure_while_others_run():
    bench = Bench(query_steps=0)
    executor = bench.chain()
    runs = [executor.launch((values(),), (np.empty(300, np.float32),)) for _ in range(3)]
    bench.standin.faults.fail_kernel(nth=2)
    for started in runs:
        with pytest.raises(DeviceUnavailableError):
            started.wait()
    with pytest.raises(DeviceUnavailableError):
        run(executor, values())
    executor.close()


def test_a_call_that_fails_for_good():
    bench = Bench()
    executor = bench.chain()
    bench.standin.faults.fail_call("eventRecord", ILLEGAL_ADDRESS)
    with pytest.raises(DeviceUnavailableError, match="illegal"):
        run(executor, values())
    with pytest.raises(DeviceUnavailableError, match="illegal"):
        run(executor, values())


def test_other_errors_cost_a_run_only():
    bench = Bench()
    executor = bench.chain()
    bench.standin.faults.fail_call("memcpyAsync", 1)
    with pytest.raises(DeviceError, match=r"cuda:0: .*\(CUDA error 1\) while running a plan") as caught:
        run(executor, values())
    assert isinstance(caught.value, OnnxPlanError)
    assert isinstance(caught.value, RuntimeError)
    np.testing.assert_array_equal(run(executor, values())[0], chained(values()))
    assert bench.standin.violations == []


def test_a_wrong_product_call_costs_a_run_only():
    bench = Bench()
    maker = PlanMaker(bench.target)
    maker.product(maker.input(4, 4), maker.input(4, 4), maker.output(4, 4))
    executor = bench.bind(maker.compiled())
    a = np.eye(4, dtype=np.float32)
    # The heuristic's pick is spoilt, as if the library refused it.
    launch = bench.device.context.parts["cublaslt"][0]
    launch._functions["cublasLtMatmul"] = lambda *arguments: 13
    with pytest.raises(DeviceError, match=r"cublasLtMatmul of the product .*CUBLAS_STATUS_EXECUTION_FAILED"):
        run(executor, a, a)


def in_child(work) -> str:
    """What ``work`` raises, as a text, in a child of this process."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        text = "nothing"
        try:
            work()
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
            if not isinstance(error, OnnxPlanError):
                text += traceback.format_exc()
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


def test_no_use_of_cuda_survives_a_fork():
    bench = Bench()
    executor = bench.chain()
    run(executor, values())
    array = bench.device_array(values())
    for use in (
        lambda: run(executor, values()),
        lambda: bench.chain(),
        lambda: array.numpy(),
        lambda: array.__dlpack__(),
        lambda: bench.device.import_array(array),
        lambda: bench.device.allocate((3,), np.dtype(np.float32), host=False),
        lambda: bench.open(),
        lambda: open_context(bench.api, 0),
    ):
        assert in_child(use).startswith("DeviceUnavailableError: this process was forked from one that uses")

    def free() -> None:
        nonlocal executor, array
        del executor, array

    assert in_child(free) == "nothing"
    np.testing.assert_array_equal(run(executor, values())[0], chained(values()))
    assert bench.standin.violations == []


def test_a_child_of_a_fork_may_close_what_its_parent_runs():
    bench = Bench(query_steps=0)
    executor = bench.chain()
    result = np.empty(300, np.float32)
    started = executor.launch((values(),), (result,))

    def close() -> None:
        nonlocal started
        executor.close()
        del started

    assert in_child(close) == "nothing"
    started.wait()
    np.testing.assert_array_equal(result, chained(values()))
    executor.close()
    assert bench.standin.violations == []


def test_what_ends_a_context():
    assert all(errors.is_sticky(status) for status in STICKY)
    assert not any(errors.is_sticky(status) for status in (0, 1, 2, 600, 900, 901))


def test_the_device_of_the_caller_stays_current():
    bench = Bench(devices=2)
    bench.standin.runtime.setDevice(1)
    executor = bench.chain()
    np.testing.assert_array_equal(run(executor, values())[0], chained(values()))
    assert bench.standin.runtime.getDevice() == 1
    bench.standin.faults.fail_call("memcpyAsync", 1)
    with pytest.raises(DeviceError):
        run(executor, values())
    assert bench.standin.runtime.getDevice() == 1
    assert bench.standin.violations == []


def test_two_devices():
    bench = Bench(devices=2)
    first = bench.chain()
    bench.device = bench.open(1)
    assert bench.device.name == "cuda:1"
    second = bench.chain(first=7)
    for _ in range(3):
        np.testing.assert_array_equal(run(first, values())[0], chained(values()))
        np.testing.assert_array_equal(run(second, values())[0], chained(values(), first=7))
    array = bench.device_array(values())
    with pytest.raises(ValueError, match="is not on cuda:0"):
        first.run((array,), (np.empty(300, np.float32),))
    bench.standin.faults.fail_kernel()
    with pytest.raises(DeviceUnavailableError, match="cuda:1 failed"):
        run(second, values())
    np.testing.assert_array_equal(run(first, values())[0], chained(values()))
    assert bench.standin.violations == []
