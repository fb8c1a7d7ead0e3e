"""What compiled code needs of the machine that runs it, as names that can be compared on another one."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence

from onnxplan.runtime.cpu.target import may_use_tiles, x86_flags
from onnxplan.runtime.library import tool_key
from onnxplan.runtime.store import KernelStore, StoredCode, content_key

TILES = "permission to use AMX's tile registers, which ONNXPLAN_AMX may turn off"


def used_features(store: KernelStore, *, tiles: bool) -> tuple[str, ...]:
    """What code that is compiled for this machine may use: system, architecture, and processor flags.

    LLVM compiles for all features that it finds, so that a kernel may use any of them, but for tile
    registers: ``tiles`` says whether one does. ``store`` keeps what it found: LLVM takes 40 MiB of memory.
    """
    key = content_key("features", tool_key())
    entry = store.get(key)
    if entry is None:
        entry = StoredCode("features", " ".join(_enabled_flags()).encode())
        store.put(key, entry, "processor features")
    return (*_machine(), *entry.code.decode().split(), *([TILES] if tiles else []))


def _enabled_flags() -> list[str]:
    import llvmlite.binding as llvm

    enabled = {_plain(name) for name, is_on in llvm.get_host_cpu_features().items() if is_on}
    return sorted(flag for flag in x86_flags() if _plain(flag) in enabled)


def missing_features(required: Sequence[str]) -> tuple[str, ...]:
    """Those of ``required`` that this machine, or this process, does not have."""
    present = {*_machine(), *x86_flags()}
    if TILES in required and may_use_tiles():
        present.add(TILES)
    return tuple(feature for feature in required if feature not in present)


def _machine() -> tuple[str, str]:
    return f"system {sys.platform}", f"architecture {platform.machine().lower()}"


def _plain(name: str) -> str:
    """LLVM writes ``avx512vbmi2`` and ``sse4.1`` where Linux writes ``avx512_vbmi2`` and ``sse4_1``."""
    return name.replace("_", "").replace(".", "").replace("-", "")
