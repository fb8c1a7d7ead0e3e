"""Threads sleep when there is nothing to do."""

from __future__ import annotations

import asyncio
import time

import numpy as np
from runtime_kernels import meet_plan, wait_until

from onnxplan.runtime.cpu.executor import CpuExecutor
from onnxplan.runtime.workers import workers_for

IDLE_SECONDS = 0.5
MOST_CPU_SECONDS = 0.1
"""A thread that polls would take all of the idle time, unless the machine is very busy."""


def cpu_seconds_of_idleness() -> float:
    """Processor time of all threads of this process while the caller sleeps."""
    before = time.process_time()
    time.sleep(IDLE_SECONDS)
    return time.process_time() - before


def test_helpers_sleep_after_runs(kernels, team):
    executor = CpuExecutor(meet_plan(3), [], kernels, team=team)
    for _ in range(20):
        executor.run((), (np.zeros(executor.plan.outputs[0].shape[0], np.int64),))
    assert team.helpers >= 2
    wait_until(lambda: team.sleepers == team.helpers)
    assert team.busy == 0
    assert cpu_seconds_of_idleness() < MOST_CPU_SECONDS


def test_workers_sleep_after_asynchronous_runs(kernels, team):
    executor = CpuExecutor(meet_plan(2), [], kernels, team=team)

    def run(cancel):
        executor.run((), (np.zeros(executor.plan.outputs[0].shape[0], np.int64),), cancel)

    async def main():
        await asyncio.gather(*(workers_for("cpu", 2).submit(run) for _ in range(20)))

    asyncio.run(main())
    wait_until(lambda: team.sleepers == team.helpers)
    assert cpu_seconds_of_idleness() < MOST_CPU_SECONDS
