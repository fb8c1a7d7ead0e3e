"""The kernels of this process: specification to address, from the kernel store or newly compiled."""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.target import Target
from onnxplan.runtime.machine import machine_identity, package_identity
from onnxplan.runtime.object_loader import ObjectLoader
from onnxplan.runtime.store import KernelStore, ObjectCode, StoredCode, content_key, store_directory

if TYPE_CHECKING:
    from onnxplan.runtime.compile_requests import Request

logger = logging.getLogger("onnxplan.store")
compile_logger = logging.getLogger("onnxplan.compile")

Build = Callable[[KernelSpec, Target], ObjectCode]
Load = Callable[[bytes, str], int]
Progress = Callable[[int, int], None]
Beside = Callable[[Target, "Sequence[Request]"], AbstractContextManager[None]]
Effort = Callable[[KernelSpec], int]

TOOLS = ("llvmlite", "numba", "numpy")

_libraries: weakref.WeakSet[KernelLibrary] = weakref.WeakSet()
LOADER = ObjectLoader()


def load_object(code: bytes, symbol: str) -> int:
    """The address of a function in object code for this machine, which stays in the process."""
    return LOADER.load(code, (symbol,))[0]


def _nobody(target: Target, requests: Sequence[Request]) -> AbstractContextManager[None]:
    return nullcontext()


def _equal(spec: KernelSpec) -> int:
    return 0


class KernelLibrary:
    """Kernels for one target, shared by all sessions of the process. Safe from any number of threads.

    ``build`` compiles a specification to object code; ``sources()`` is a digest of what it compiles from
    (:func:`onnxplan.runtime.store.source_digest`). Of the target only what kernels are compiled for counts:
    instruction set, registers, alignment and math mode; cache sizes and threads must not change the code.
    ``cache=False`` neither reads nor writes the store on disk. ``load`` brings code to where it runs, gives
    what calls it there, and raises ``RuntimeError`` where it cannot; ``platform`` is a digest of what the
    code depends on beside its source. Both default to those of this machine's processor. Up to ``parallel``
    kernels are compiled at once, and shared with other processes that compile into the same store;
    ``beside(target, requests)`` may have one for as long as kernels are compiled. Those of most ``effort`` go
    first.
    """

    def __init__(
        self,
        build: Build,
        target: Target,
        sources: Callable[[], str],
        *,
        cache: bool = True,
        store: KernelStore | None = None,
        load: Load = load_object,
        platform: Callable[[Target], str] | None = None,
        parallel: int = 1,
        beside: Beside = _nobody,
        effort: Effort = _equal,
    ) -> None:
        self._build = build
        self._target = target
        self._sources = sources
        self._store = store or KernelStore(store_directory() if cache else None)
        self._addresses: dict[KernelSpec, int] = {}
        self._asked: set[KernelSpec] = set()
        self._lock = threading.Lock()
        self._load = load
        self._platform = platform or platform_key
        self._environment: tuple[str, str] | None = None
        self._parallel = parallel
        self._beside, self._effort = beside, effort
        self.missing_count = 0
        """Kernels that the store did not have when they were asked for, whoever has compiled them then."""
        self.compiled_count = 0
        """Kernels that ``build`` has compiled."""
        self.loaded_count = 0
        """Kernels that came from the store on disk, also those that others put there meanwhile."""
        _libraries.add(self)

    @property
    def target(self) -> Target:
        return self._target

    @property
    def store(self) -> KernelStore:
        return self._store

    def objects(
        self, specs: Sequence[KernelSpec], progress: Progress | None = None
    ) -> dict[KernelSpec, ObjectCode]:
        """The code of the kernels, from the store or newly compiled; ``progress`` as below."""
        found: dict[KernelSpec, ObjectCode] = {}

        def take(spec: KernelSpec, code: ObjectCode) -> bool:
            found[spec] = code
            return True

        stored = {spec: self._store.get(self._key(spec)) for spec in specs}
        missing = [spec for spec, code in stored.items() if code is None or not take(spec, code)]
        self._compile(missing, progress, take, take)
        return found

    def has_stored(self, specs: Sequence[KernelSpec]) -> bool:
        """Has the store on disk the code of all these kernels?"""
        return all(self._store.has(self._key(spec)) for spec in specs)

    def addresses(self, specs: Sequence[KernelSpec], progress: Progress | None = None) -> tuple[int, ...]:
        """The addresses of the kernels, in order.

        ``progress(done, total)`` is called before the first and after each kernel that must be compiled, by
        this process or another.
        """
        known = self._addresses
        if not all(spec in known for spec in specs):
            with self._lock:
                missing = [spec for spec in dict.fromkeys(specs) if spec not in known]
                # What was asked for early counts as missing, whoever has built it meanwhile.
                asked = self._asked
                unknown = [spec for spec in missing if spec in asked or not self._load_stored(spec)]
                logger.debug(
                    "%d of %d kernels came from the store %s",
                    len(missing) - len(unknown), len(missing), self._store.directory,
                )  # fmt: skip
                self._compile(unknown, progress, self._take, self._finish)
        return tuple(known[spec] for spec in specs)

    def _take(self, spec: KernelSpec, entry: StoredCode) -> bool:
        """Loads what the store has; False where that cannot be linked."""
        try:
            self._addresses[spec] = self._load(entry.code, entry.symbol)
        except RuntimeError as error:
            logger.warning("stored object code of %s cannot be linked and is built again: %s", spec, error)
            return False
        self.loaded_count += 1
        return True

    def _build_logged(self, spec: KernelSpec) -> ObjectCode:
        start = time.perf_counter()
        code = self._build(spec, self._target)
        compile_logger.debug("compiled %s in %.0f ms", spec, 1e3 * (time.perf_counter() - start))
        return code

    def _finish(self, spec: KernelSpec, code: ObjectCode) -> None:
        self._addresses[spec] = self._load(code.code, code.symbol)
        self.compiled_count += 1

    def _load_stored(self, spec: KernelSpec) -> bool:
        entry = self._store.get(self._key(spec))
        return entry is not None and self._take(spec, entry)

    def _compile(
        self,
        specs: Sequence[KernelSpec],
        progress: Progress | None,
        take: Callable[[KernelSpec, StoredCode], bool],
        finish: Callable[[KernelSpec, ObjectCode], object],
    ) -> None:
        """Builds kernels and hands each to ``finish``, or to ``take`` where another process built it."""
        total = len(specs)
        if not total:
            return
        self.missing_count += total
        # Not needed by a warm start.
        from onnxplan.runtime.shared_build import Job, build_shared

        # Who builds a long one last is waited for.
        specs = sorted(specs, key=self._effort, reverse=True)

        def taken(spec: KernelSpec, entry: StoredCode) -> bool:
            usable = take(spec, entry)
            if usable:
                compile_logger.debug("another process compiled %s", spec)
            return usable

        jobs = [
            Job(
                self._key(spec),
                partial(self._build_logged, spec),
                partial(taken, spec),
                partial(finish, spec),
                self._label,
            )
            for spec in specs
        ]
        if progress is not None:
            progress(0, total)
        beside = self._beside(self._target, [*filter(None, map(self._request, specs))])
        with beside, closing(build_shared(self._store, jobs, self._parallel)) as built:
            for done, _ in enumerate(built, 1):
                if progress is not None:
                    progress(done, total)

    def missing(self, spec: KernelSpec) -> Request | None:
        """What asks another process for a kernel that is neither here nor in the store on disk."""
        if spec in self._addresses or self._store.has(self._key(spec)):
            return None
        self._asked.add(spec)
        return self._request(spec)

    def _request(self, spec: KernelSpec) -> Request | None:
        if self._store.directory is None:
            return None
        # Not needed by a warm start.
        from onnxplan.runtime.compile_requests import Request

        return Request(str(self._store.directory.absolute()), self._key(spec), self._label, spec)

    @property
    def _label(self) -> str:
        return f"{self._target.device} {self._target.isa}"

    def _key(self, spec: KernelSpec) -> str:
        if self._environment is None:
            self._environment = self._platform(self._target), self._sources()
        return content_key(spec.key, *self._environment)

    def reset_lock(self) -> None:
        """For the child of a fork, where the thread that held the lock does not exist."""
        self._lock = threading.Lock()


def platform_key(target: Target) -> str:
    """A digest of what compiled code depends on beside its source: processor, target and tool versions."""
    shape = (target.device, target.isa, target.vector_bytes, target.vector_registers, target.alignment)
    return content_key(tool_key(), repr(shape), target.math)


@functools.cache
def tool_key() -> str:
    """A digest of this processor and of the versions of the tools that compile for it.

    A warm start asks for it, so llvmlite is imported only where nothing else tells what it would see.
    """
    return content_key(*(machine_identity() or _llvm_machine()), *map(package_identity, TOOLS))


def _llvm_machine() -> tuple[str, ...]:
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features().flatten()
    return "llvm", llvm.get_default_triple(), llvm.get_host_cpu_name(), features


def _after_fork_in_child() -> None:
    LOADER.reset_lock()
    for library in tuple(_libraries):
        library.reset_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
