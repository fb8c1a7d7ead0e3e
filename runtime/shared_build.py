"""Builds entries of the kernel store so that any number of processes on one store share the work.

Each takes the entries that nobody else builds, one after another, and reads what others built meanwhile. An
entry whose builder died is free again; one that does not arrive for long is built here as well.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from typing import Any

from onnxplan.compiler.records import dataclass
from onnxplan.runtime.store import KernelStore, ObjectCode, Release, StoredCode
from onnxplan.runtime.store_upkeep import tidy

POLL_SECONDS = 0.01
"""How often a process that has nothing left to build looks whether others have finished."""
PATIENCE_SECONDS = 30.0
"""How long it looks in vain before it takes others for stopped and builds the rest itself."""


@dataclass(frozen=True, slots=True)
class Job:
    """One entry: its key, and what to do for it.

    Either ``take`` gets what another process built and says whether that is of use, or ``finish`` gets what
    ``build`` returned, which is then put into the store with ``target``.
    """

    key: str
    build: Callable[[], ObjectCode]
    take: Callable[[StoredCode], bool]
    finish: Callable[[ObjectCode], object]
    target: str


def build_shared(store: KernelStore, jobs: Sequence[Job], parallel: int = 1) -> Generator[None, None, None]:
    """Does all jobs, and yields after each.

    ``build`` is called on the caller's thread, or with ``parallel`` on so many threads at once, the rest on
    the caller's. Once something raises, no more builds are begun.
    """
    waiting = deque(jobs)
    claims: dict[str, Release] = {}
    running: dict[Future[ObjectCode], Job] = {}
    pool = _pool(min(parallel, len(jobs)))
    patience = time.monotonic() + PATIENCE_SECONDS
    try:
        while waiting or running:
            arrived = False
            for _ in range(len(waiting)):
                if len(running) >= parallel:
                    break
                job = waiting.popleft()
                claim = store.claim(job.key)
                if claim is None and time.monotonic() < patience:
                    waiting.append(job)
                    continue
                if claim is not None:
                    claims[job.key] = claim
                entry = store.get(job.key)
                if entry is None or not job.take(entry):
                    running[pool.submit(job.build)] = job
                    continue
                _release(claims, job)
                arrived = True
                yield
            waits = bool(waiting) and len(running) < parallel
            for future in wait(running, POLL_SECONDS if waits else None, FIRST_COMPLETED).done:
                job = running.pop(future)
                code = future.result()
                job.finish(code)
                store.put(job.key, code, job.target)
                # What was built without a claim says nothing about the others.
                arrived |= _release(claims, job)
                yield
            if arrived or claims:
                patience = time.monotonic() + PATIENCE_SECONDS
            elif waiting and not running and time.monotonic() < patience:
                time.sleep(POLL_SECONDS)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for claim in claims.values():
            claim()
        tidy(store)


def get_or_build(store: KernelStore, key: str, build: Callable[[], StoredCode], target: str) -> ObjectCode:
    """The entry of ``key``, which was not there, built by one of the processes that ask for it."""
    found: list[ObjectCode] = []

    def take(entry: StoredCode) -> bool:
        found.append(entry)
        return True

    for _ in build_shared(store, [Job(key, build, take, found.append, target)]):
        pass
    return found[0]


def build_if_free(store: KernelStore, key: str, build: Callable[[], ObjectCode], target: str) -> None:
    """Builds the entry of ``key`` unless it is there, or somebody else builds it."""
    claim = store.claim(key)
    if claim is not None:
        try:
            if store.get(key) is None:
                store.put(key, build(), target)
        finally:
            claim()


def _release(claims: dict[str, Release], job: Job) -> bool:
    """Gives back the claim on a job; was there one?"""
    claim = claims.pop(job.key, None)
    if claim is None:
        return False
    claim()
    return True


class _CallersThread(Executor):
    """Calls at once what is submitted."""

    def submit(self, call: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(call(*arguments, **options))
        except Exception as error:
            future.set_exception(error)
        return future


def _pool(threads: int) -> Executor:
    return ThreadPoolExecutor(threads, "onnxplan-compiler") if threads > 1 else _CallersThread()
