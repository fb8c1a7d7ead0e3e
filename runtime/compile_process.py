"""A second process that compiles kernels into the store while this one does.

LLVM lets one thread of a process in at a time, but processes on one store share the work
(:mod:`onnxplan.runtime.shared_build`). The second begins with the last kernel.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.target import Target
from onnxplan.runtime.cpu.target import default_threads
from onnxplan.runtime.store import KernelStore

if TYPE_CHECKING:
    import subprocess

logger = logging.getLogger("onnxplan.store")

LEAST_KERNELS = 3
"""Fewer are compiled by the time that a process has started."""

PROGRAM = """
import json, sys
job = json.load(sys.stdin)
sys.path[:] = job["path"]
from onnxplan.runtime.devices import compile_into_store
compile_into_store(job)
"""


@contextmanager
def compiling_beside(store: KernelStore, target: Target, specs: Sequence[KernelSpec]) -> Iterator[None]:
    """A process compiles ``specs`` into ``store`` while the body does, if that pays and can be.

    It ends with the body. There is none where the store keeps nothing, where the interpreter is part of
    another program, and where one processor is all there is: nobody depends on it.
    """
    process = _start(store, target, specs)
    try:
        yield
    finally:
        if process is not None:
            _end(process)


def _start(store: KernelStore, target: Target, specs: Sequence[KernelSpec]) -> subprocess.Popen[bytes] | None:
    if store.directory is None or len(specs) < LEAST_KERNELS or default_threads() < 2 or not _is_python():
        return None
    # Not needed by a warm start.
    import subprocess
    import tempfile

    job = {
        "path": sys.path,
        "target": target.to_json(),
        "kernels": [spec.to_json() for spec in reversed(specs)],
    }
    with tempfile.TemporaryFile() as file:
        file.write(json.dumps(job).encode())
        file.seek(0)
        try:
            return subprocess.Popen(
                [sys.executable, "-P", "-c", PROGRAM],
                stdin=file,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"ONNXPLAN_CACHE_DIR": str(store.directory.absolute())},
            )
        except OSError as error:
            logger.debug("no process compiles beside this one: %s", error)
            return None


def _is_python() -> bool:
    """Is ``sys.executable`` an interpreter, and not a program that has one inside?"""
    return not getattr(sys, "frozen", False) and Path(sys.executable or "").name.startswith("python")


def _end(process: subprocess.Popen[bytes]) -> None:
    code = process.poll()
    if code:
        logger.warning("the process that compiles beside this one failed with status %d", code)
    # All kernels are there. What it holds is given back by the system, as for any builder that died.
    process.kill()
    process.wait()


def read_job(job: dict[str, Any]) -> tuple[Target, list[KernelSpec]]:
    """The target and the kernels of what the program read."""
    return Target.from_json(job["target"]), [KernelSpec.from_json(kernel) for kernel in job["kernels"]]
