"""Keeps the plans that a process made of a model's file for later processes, on a thread of its own.

It begins when a run has ended, gives way to everything else, and is given up when the interpreter exits, but
for models that are small: those are written before.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import shutil
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.target import Target
from onnxplan.runtime.artifact_planner import ArtifactPlanner
from onnxplan.runtime.device import Array
from onnxplan.runtime.origin import Origin
from onnxplan.runtime.planner import ForwardingPlanner, PlannedStage, Planner, Request
from onnxplan.runtime.seen_models import Place
from onnxplan.runtime.store_upkeep import LARGEST_PART, kept_bound, tidy

if TYPE_CHECKING:
    from onnxplan.runtime.artifact_writer import ArtifactWriter, TargetCode

logger = logging.getLogger("onnxplan.store")

MOST_PLANS = 16
"""Plans of a model for different requests that are kept; those made first go first."""
MOST_WRITES = 4
"""So often a session writes an entry, each time with all plans that it made meanwhile."""
START_SECONDS = 0.1
"""How long after the end of a run the first entry is begun."""
AGAIN_SECONDS = 60.0
"""How long after an entry the next one is begun."""
SMALL_BYTES = 64 << 20
"""Constants of a model that an exiting interpreter still writes."""
EXIT_SECONDS = 1.0
"""How long it waits for that at most."""
STOP_SECONDS = 0.25
"""How long it waits for a writer to remove what it has begun."""
NICENESS = 10

_keepers: weakref.WeakSet[ModelKeeper] = weakref.WeakSet()


class _StopError(Exception):
    """The interpreter exits."""


class ModelKeeper:
    """Writes plans into the entry at ``place``. Safe from any number of threads.

    ``target_code`` gives the code of kernels for ``target``, and is asked for it where ``has_code`` says that
    nothing must be compiled: an interpreter must not exit while a compiler is at work. ``describe`` adds to
    an artifact what it says about a model beside plans; the model was read from ``origin``.
    """

    def __init__(
        self,
        place: Place,
        origin: Origin,
        target: Target,
        has_code: Callable[[Sequence[KernelSpec]], bool],
        target_code: Callable[[Sequence[KernelSpec]], TargetCode],
        describe: Callable[[ArtifactWriter], None],
    ) -> None:
        self._place = place
        self._origin = origin
        self._target = target
        self._has_code = has_code
        self._target_code = target_code
        self._describe = describe
        self._made: dict[Request, PlannedStage] = {}
        self._ready: dict[Request, PlannedStage] = {}
        """Of those the ones that runs used: their kernels are compiled."""
        self._writes = 0
        self._writing_bytes = 0
        self.after_fork()
        _keepers.add(self)

    def after_fork(self) -> None:
        """In the child of a fork, where no other thread exists."""
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._hurry = threading.Event()
        self._stop = threading.Event()

    def add(self, request: Request, planned: PlannedStage) -> None:
        """Remembers a plan until it is written, if it can be kept."""
        if (
            not planned.facts.final
            or request.fetches is not None
            or request.texts
            or self._writes >= MOST_WRITES
        ):
            return
        with self._lock:
            self._made[request] = planned
            if len(self._made) > MOST_PLANS:
                del self._made[next(iter(self._made))]

    def start(self) -> None:
        """Begins to write what was added, once what is under way is written."""
        with self._lock:
            self._ready = dict(list({**self._ready, **self._made}.items())[-MOST_PLANS:])
            self._made = {}
            if not self._ready or self._thread is not None or self._writes >= MOST_WRITES:
                return
            thread = threading.Thread(target=self._work, name="onnxplan-keeper", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                logger.warning("the plans of %s are not kept: %s", self._place.path, error)
                self._ready = {}
                return
            self._thread = thread

    def finish(self, seconds: float | None = None) -> None:
        """Waits for the writer, for so long at most; what waits to be written is written at once."""
        self._hurry.set()
        thread = self._thread
        if thread is not None:
            thread.join(seconds)

    def exit(self) -> None:
        """At the exit of the interpreter: lets a small entry be written, and gives up a large one."""
        if self._thread is not None:
            if max(self._writing_bytes, _constant_bytes(self._ready)) <= SMALL_BYTES:
                self.finish(EXIT_SECONDS)
            self._stop.set()
            self.finish(STOP_SECONDS)

    def _work(self) -> None:
        if sys.platform == "linux":
            # There a thread has a niceness of its own.
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while True:
            self._hurry.wait(AGAIN_SECONDS if self._writes else START_SECONDS)
            with self._lock:
                ready, self._ready = self._ready, {}
                self._writes += 1
                self._writing_bytes = _constant_bytes(ready)
            try:
                self._write(ready)
            except _StopError:
                return
            except Exception:
                logger.exception("the plans of %s are not kept", self._place.path)
            # Nothing holds on to constants while this waits.
            del ready
            with self._lock:
                self._writing_bytes = 0
                if not self._ready or self._writes >= MOST_WRITES:
                    self._ready, self._thread = {}, None
                    return

    def _write(self, made: dict[Request, PlannedStage]) -> None:
        store = self._place.store
        release = store.claim(self._place.key)
        if release is None:
            return
        try:
            known = self._known()
            # A request that was planned again is among the newest.
            every = {request: stage for request, stage in known.items() if request not in made} | made
            kept = dict(list(every.items())[-MOST_PLANS:])
            nbytes = _constant_bytes(kept)
            bound = int(LARGEST_PART * kept_bound())
            if nbytes > bound:
                logger.info("%s is not kept: its constants take %d bytes", self._place.path, nbytes)
                return
            self._step()
            specs = list(
                dict.fromkeys(spec for stage in kept.values() for spec in stage.compiled.plan.kernels)
            )
            if not self._has_code(specs):
                logger.info("%s is not kept: the store lost kernels of it", self._place.path)
                return
            writer = self._artifact(kept, specs)
            folder = store.directory
            if folder is None or writer.nbytes > min(bound, _free_bytes(os.fspath(folder)) // 2):
                logger.info("%s is not kept: it would take %d bytes", self._place.path, writer.nbytes)
                return
            store.put_model(self._place.key, partial(writer.write_to, digest_constants=False))
        finally:
            release()
        tidy(store)

    def _known(self) -> dict[Request, PlannedStage]:
        """The plans that the entry has by now."""
        seen = self._place.open()
        if seen is None or seen.artifact.header.origin != self._origin:
            return {}
        return ArtifactPlanner(seen.artifact, 0, _NoKernels(), self._target.threads, _no_planner).stages()

    def _artifact(self, planned: dict[Request, PlannedStage], specs: Sequence[KernelSpec]) -> ArtifactWriter:
        from onnxplan.runtime.artifact_writer import ArtifactWriter

        writer = ArtifactWriter(self._step)
        self._describe(writer)
        writer.fields["origin"] = self._origin.to_json()
        target = writer.add_target(self._target, self._target_code(specs))
        for request, stage in planned.items():
            writer.add_plan(target, request, stage)
        return writer

    def _step(self) -> None:
        if self._stop.is_set():
            raise _StopError


class KeepingPlanner(ForwardingPlanner):
    """Plans of ``planner``, handed to ``keeper``."""

    def __init__(self, planner: Planner, keeper: ModelKeeper) -> None:
        super().__init__(planner)
        self._keeper = keeper

    def plan(self, request: Request, answers: tuple[Array, ...]) -> PlannedStage:
        planned = super().plan(request, answers)
        if not answers:
            self._keeper.add(request, planned)
        return planned

    def settle(self, *, wait: bool = False) -> None:
        self._keeper.start()
        if wait:
            self._keeper.finish()


class _NoKernels:
    """For plans that are written, not run."""

    def addresses(
        self, specs: Sequence[KernelSpec], progress: Callable[[int, int], None] | None = None
    ) -> tuple[int, ...]:
        raise AssertionError("these plans are not run")


def _no_planner() -> Planner:
    raise AssertionError("nothing is planned here")


def _constant_bytes(planned: dict[Request, PlannedStage]) -> int:
    arrays = {id(array): array.nbytes for stage in planned.values() for array in stage.compiled.constants}
    return sum(arrays.values())


def _free_bytes(folder: str) -> int:
    """Of the disk of a folder, which may be made only now."""
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return shutil.disk_usage(folder).free


@atexit.register
def _exit() -> None:
    for keeper in tuple(_keepers):
        keeper.exit()


def _after_fork_in_child() -> None:
    for keeper in tuple(_keepers):
        keeper.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
