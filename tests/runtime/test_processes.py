"""Forks, interpreter exit and several processes at one kernel store."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from runtime_kernels import library, meet_plan, mix_plan, mixed

from onnxplan.runtime.cpu.executor import CpuExecutor
from onnxplan.runtime.cpu.native_executor import load_executor
from onnxplan.runtime.cpu.team import Team
from onnxplan.runtime.store import KernelStore

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
SECONDS = 60


@pytest.fixture(scope="module")
def kernels():
    return library()


@pytest.fixture
def team():
    team = Team(load_executor(KernelStore(None)), 3)
    yield team
    team.stop()


def meets(executor: CpuExecutor) -> bool:
    """Whether as many workers as the plan wants take part in a run."""
    size = executor.plan.outputs[0].shape[0]
    out = np.zeros(size, np.int64)
    executor.run((), (out,))
    return bool(np.all(out == size - 1))


def exit_status_of_child(work) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if work() else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@needs_fork
def test_fork_rebuilds_the_team_and_leaves_the_parents_alone(kernels, team):
    executor = CpuExecutor(meet_plan(3), [], kernels, team=team)
    assert meets(executor)
    threads = team.helpers
    for _ in range(3):
        assert exit_status_of_child(lambda: meets(executor) and team.helpers == threads) == 0
    assert meets(executor)


@needs_fork
def test_fork_of_a_fork(kernels, team):
    executor = CpuExecutor(meet_plan(2), [], kernels, team=team)
    assert meets(executor)

    def fork_again() -> bool:
        return meets(executor) and exit_status_of_child(lambda: meets(executor)) == 0

    assert exit_status_of_child(fork_again) == 0


@needs_fork
def test_fork_while_other_threads_run(kernels, team):
    chain = CpuExecutor(mix_plan(30, 40, 3), [], kernels, team=team, max_concurrency=2)
    meeting = CpuExecutor(meet_plan(2), [], kernels, team=team)
    x = np.arange(30)
    expected = mixed(x, 40)
    stop, wrong = threading.Event(), []

    def keep_running() -> None:
        while not stop.is_set():
            y = np.empty(30, np.int64)
            chain.run((x,), (y,))
            if not np.array_equal(y, expected):
                wrong.append(y)

    def run_in_child() -> bool:
        y = np.empty(30, np.int64)
        chain.run((x,), (y,))
        chain.close()
        return np.array_equal(y, expected) and meets(meeting)

    threads = [threading.Thread(target=keep_running) for _ in range(3)]
    for thread in threads:
        thread.start()
    statuses = [exit_status_of_child(run_in_child) for _ in range(20)]
    stop.set()
    for thread in threads:
        thread.join()
    assert statuses == [0] * 20
    assert not wrong


@needs_fork
def test_multiprocessing_with_fork(kernels, team):
    executor = CpuExecutor(meet_plan(3), [], kernels, team=team)
    assert meets(executor)
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    children = [context.Process(target=lambda: results.put(meets(executor))) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(SECONDS)
        assert child.exitcode == 0
    assert [results.get() for _ in children] == [True] * 3


def run_python(source: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source)],
        cwd=Path(__file__).parent,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(process: subprocess.Popen) -> str:
    output, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors) == (0, "")
    return output


EXIT_DURING_RUN = """
    import contextlib, sys, threading, time
    import numpy as np
    from onnxplan.runtime.cancellation import Cancelled
    from runtime_kernels import PlanMaker, library, meet_plan
    from onnxplan.runtime.cpu.executor import CpuExecutor
    from onnxplan.runtime.cpu.native_executor import load_executor
    from onnxplan.runtime.cpu.team import Team
    from onnxplan.runtime.store import KernelStore
    import atexit
    team = Team(load_executor(KernelStore(None)), 2)
    atexit.register(team.stop)
    out = np.zeros(3, np.int64)
    CpuExecutor(meet_plan(2), [], library(), team=team).run((), (out,))
    assert list(out) == [2, 2, 2]
    maker = PlanMaker(2)
    counts = maker.output("counts", 1000)
    for _ in range(20_000):
        maker.step("count", counts, tiles=1000, seconds=1e-3)
    executor = CpuExecutor(maker.plan(), [], library(), team=team)
    out = np.zeros(1000, np.int64)
    def run(counts):
        with contextlib.suppress(Cancelled):
            executor.run((), (counts,))
    for counts in (np.zeros(1000, np.int64), out):
        threading.Thread(target=run, args=(counts,), daemon=True).start()
    while not out.any():
        time.sleep(0.001)
    print("leaving")
"""


def test_interpreter_exits_cleanly_while_daemon_threads_run(tmp_path):
    for _ in range(2):
        assert outcome(run_python(EXIT_DURING_RUN, ONNXPLAN_CACHE_DIR=str(tmp_path))) == "leaving\n"


STORE_USER = """
    import sys
    import numpy as np
    from pathlib import Path
    from runtime_kernels import add_plan, library, mix_plan
    from onnxplan.runtime.cpu.executor import CpuExecutor
    from onnxplan.runtime.store import KernelStore, store_directory
    kernels = library(KernelStore(store_directory()))
    for plan, inputs in ((add_plan(4), 2), (mix_plan(4, 3, 1), 1)):
        out = np.zeros(4, np.int64)
        CpuExecutor(plan, [], kernels).run((np.ones(4, np.int64),) * inputs, (out,))
        print(out.tolist())
    print(kernels.compiled_count, kernels.loaded_count, "numba" in sys.modules)
    print("onnxplan.runtime.cpu.executor_source" in sys.modules)
"""


def test_processes_share_a_store(tmp_path):
    """Both at once on an empty store, where kernels and the executor are compiled once, then a third, which
    compiles nothing and imports no compiler.
    """
    both = [run_python(STORE_USER, ONNXPLAN_CACHE_DIR=str(tmp_path)) for _ in range(2)]
    values = "[2, 2, 2, 2]\n[64, 64, 64, 64]\n"
    rests = []
    for process in both:
        output = outcome(process)
        assert output.startswith(values)
        rests.append(output.removeprefix(values).split())
    assert sum(int(compiled) for compiled, *_ in rests) == 2
    assert sum(int(loaded) for _, loaded, *_ in rests) == 2
    assert sorted(executor for *_, executor in rests) == ["False", "True"]
    third = outcome(run_python(STORE_USER, ONNXPLAN_CACHE_DIR=str(tmp_path)))
    assert third == values + "0 2 False\nFalse\n"
    assert not list(tmp_path.rglob("*.tmp"))
