"""What this machine's processor is, and how many threads the process may use. Never pins a thread."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys
from pathlib import Path

from onnxplan.compiler.environment import is_on
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target
from onnxplan.runtime.cpu.layout import MAX_WORKERS

MATH_MODES = ("strict", "fast")


@dataclass(frozen=True, slots=True)
class InstructionSet:
    """Vector register file, and a guess of float32 operations per second and core for estimates."""

    vector_bytes: int
    vector_registers: int
    flops: float


INSTRUCTION_SETS = {
    "avx512": InstructionSet(64, 32, 1e11),
    "avx2": InstructionSet(32, 16, 5e10),
    "neon": InstructionSet(16, 32, 3e10),
    "generic": InstructionSet(16, 16, 1e10),
}
X86_FLAGS = {
    "avx512": frozenset(("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "fma")),
    "avx2": frozenset(("avx2", "fma", "f16c")),
}
DOT_PRODUCT_FLAGS = {"avx512": "avx512_vnni", "avx2": "avx_vnni"}
"""The flag of an instruction set's dot products of bytes, as Linux names it."""
BYTE_TILE_FLAGS = frozenset(("amx_tile", "amx_int8"))
BFLOAT16_TILE_FLAGS = frozenset(("amx_bf16", "avx512_bf16"))
FALLBACK_CACHES = (32 << 10, 512 << 10, 8 << 20)
BANDWIDTH = 1e10


def detect_target(threads: int | None = None, math: str = "strict") -> Target:
    """The CPU of this machine as a compilation target.

    ``threads`` defaults to :func:`default_threads`. ``ONNXPLAN_ISA`` (``avx512``, ``avx2``, ``neon`` or
    ``generic``) overrides the instruction set, ``ONNXPLAN_AMX=0`` leaves out AMX, and
    ``ONNXPLAN_FLOAT32_TILES=0`` what it does for float32. Raises ``ValueError`` for an unknown instruction
    set or math mode and for fewer than one thread.
    """
    if math not in MATH_MODES:
        raise ValueError(f"math must be one of {', '.join(MATH_MODES)}, not {math!r}")
    if threads is None:
        threads = default_threads()
    elif threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}")
    isa = os.environ.get("ONNXPLAN_ISA") or detect_isa()
    if isa not in INSTRUCTION_SETS:
        raise ValueError(f"ONNXPLAN_ISA must be one of {', '.join(INSTRUCTION_SETS)}, not {isa!r}")
    found = INSTRUCTION_SETS[isa]
    tiles = isa == "avx512" and may_use_tiles()
    return Target(
        device="cpu",
        isa=isa,
        vector_bytes=found.vector_bytes,
        vector_registers=found.vector_registers,
        cache_bytes=cache_sizes(),
        threads=min(threads, MAX_WORKERS),
        math=math,
        alignment=64,
        dot_products=DOT_PRODUCT_FLAGS.get(isa) in x86_flags(),
        byte_tiles=tiles,
        bfloat16_tiles=tiles and has_bfloat16_tiles(),
        float32_tiles=tiles and has_bfloat16_tiles() and is_on("ONNXPLAN_FLOAT32_TILES", default=True),
        flops=found.flops,
        bandwidth=BANDWIDTH,
    )


@functools.cache
def detect_isa() -> str:
    """The widest instruction set of this processor that kernels know."""
    machine = platform.machine().lower()
    if machine in ("aarch64", "arm64"):
        return "neon"
    if machine in ("x86_64", "amd64"):
        flags = x86_flags()
        return next((isa for isa, needed in X86_FLAGS.items() if needed <= flags), "generic")
    return "generic"


@functools.cache
def x86_flags() -> frozenset[str]:
    """Feature flags as Linux names them; empty where the system does not tell."""
    if sys.platform == "win32":
        return _windows_flags()
    if sys.platform == "darwin":
        return _macos_flags()
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def may_use_tiles() -> bool:
    """May this process use AMX's tile registers? ``ONNXPLAN_AMX`` may turn them off."""
    return is_on("ONNXPLAN_AMX", default=True) and has_byte_tiles()


@functools.cache
def has_byte_tiles() -> bool:
    """Does this processor multiply tiles of bytes, and does Linux let the process use their registers?

    They are asked for once by a process, for all of its threads, and its children inherit the permission.
    Source: https://docs.kernel.org/arch/x86/xstate.html
    """
    needed = BYTE_TILE_FLAGS | {DOT_PRODUCT_FLAGS["avx512"]}
    if not (sys.platform == "linux" and needed <= x86_flags()):
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    return bool(ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0)


def has_bfloat16_tiles() -> bool:
    """Do tiles multiply bfloat16 as well, and do vectors round to it?"""
    return has_byte_tiles() and x86_flags() >= BFLOAT16_TILE_FLAGS


def _macos_flags() -> frozenset[str]:
    """Source: ``sysctl hw.optional`` (Apple, "Determining instruction set characteristics")."""
    library = ctypes.CDLL(None)
    names = frozenset().union(*X86_FLAGS.values())
    found = set()
    for name in names:
        value, size = ctypes.c_int64(0), ctypes.c_size_t(8)
        key = f"hw.optional.{name}".encode()
        if library.sysctlbyname(key, ctypes.byref(value), ctypes.byref(size), None, 0) == 0 and value.value:
            found.add(name)
    return frozenset(found)


def _windows_flags() -> frozenset[str]:
    """Source: ``IsProcessorFeaturePresent`` (winnt.h); it names no smaller parts of AVX2 and AVX-512."""
    present = ctypes.CDLL("kernel32").IsProcessorFeaturePresent
    avx2, avx512 = present(40), present(41)
    return frozenset().union(*(X86_FLAGS[isa] for isa, has in (("avx2", avx2), ("avx512", avx512)) if has))


@functools.cache
def cache_sizes() -> tuple[int, ...]:
    """Bytes of the data caches that a core sees, nearest first; typical sizes where unknown."""
    found: dict[int, int] = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, size = _read(index / "level"), _read(index / "size")
        if level.isdigit() and _read(index / "type") in ("Data", "Unified") and size[:-1].isdigit():
            found[int(level)] = int(size[:-1]) << {"K": 10, "M": 20, "G": 30}.get(size[-1], 0)
    return tuple(found[level] for level in sorted(found)) or FALLBACK_CACHES


def default_threads() -> int:
    """How many threads can work at once: the smallest of the process's affinity (hyper-threads of a core
    count once) and its control groups' quota, rounded up; at least 1 and at most 63.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    count = len({_core_of(processor) for processor in allowed})
    quota = cgroup_quota()
    if quota is not None:
        count = min(count, -int(-quota // 1))
    return max(1, min(count, MAX_WORKERS))


def _core_of(processor: int) -> str:
    """A text that is equal for the hardware threads of one core."""
    topology = Path(f"/sys/devices/system/cpu/cpu{processor}/topology")
    return _read(topology / "core_cpus_list") or _read(topology / "thread_siblings_list") or str(processor)


def cgroup_quota(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> float | None:
    """Processors' worth of time that the control groups of this process allow, or None without a limit.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html (``cpu.max``) and
    https://docs.kernel.org/scheduler/sched-bwc.html (``cpu.cfs_quota_us``, version 1).
    """
    quotas = []
    for line in _read(membership).splitlines():
        number, controllers, group = line.split(":", 2)
        if number == "0":
            bases = [root, root / "unified"]
        elif "cpu" in controllers.split(","):
            bases = [root / controllers, root / "cpu"]
        else:
            continue
        # Inside a container the path is often the host's, while only the mount's root is visible.
        parts = [part for part in group.split("/") if part not in ("", "..")]
        for base in bases:
            for length in range(len(parts) + 1):
                quotas.append(_group_quota(base.joinpath(*parts[:length])))
    return min((quota for quota in quotas if quota is not None), default=None)


def _group_quota(group: Path) -> float | None:
    fields = _read(group / "cpu.max").split()
    if not fields:
        fields = [_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")]
    if len(fields) == 2 and fields[0].isdigit() and fields[1].isdigit() and int(fields[1]):
        return int(fields[0]) / int(fields[1])
    return None


def _read(path: Path) -> str:
    """The text of a system file without surrounding space; empty where there is none."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
