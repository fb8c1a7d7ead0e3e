"""What compiled code depends on of this machine and its packages, found without importing a compiler."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
import sys
from importlib.util import find_spec
from pathlib import Path

from onnxplan.runtime.executable import MAPS_IMAGES, map_image
from onnxplan.runtime.image import Image

# ``cpuid(leaf, subleaf, words)`` and ``xgetbv(0, 0, words)`` in the System V calling convention of x86-64.
_CPUID = bytes.fromhex("f30f1efa 53 4989d0 89f8 89f1 0fa2 418900 41895804 41894808 4189500c 5b c3")
_XGETBV = bytes.fromhex("f30f1efa 4989d0 31c9 0f01d0 418900 41895004 c3")
_ALL = (0, 1, 2, 3)
_EAX, _EBX, _ECX, _EDX = _ALL
_LEAVES = (
    (0x0, 0, (_EBX, _ECX, _EDX)),
    # EBX holds the number of the processor that one happens to run on.
    (0x1, 0, (_EAX, _ECX, _EDX)),
    (0x7, 0, _ALL),
    (0x7, 1, _ALL),
    (0x7, 2, _ALL),
    (0xD, 1, (_EAX,)),
    (0x14, 0, (_EBX,)),
    (0x19, 0, (_EBX,)),
    (0x1E, 0, (_EBX,)),
    (0x1E, 1, (_EAX,)),
    (0x24, 0, _ALL),
    (0x24, 1, _ALL),
    (0x29, 0, (_EBX,)),
    (0x80000001, 0, (_ECX, _EDX)),
    (0x80000002, 0, _ALL),
    (0x80000003, 0, _ALL),
    (0x80000004, 0, _ALL),
    (0x80000008, 0, (_EBX,)),
    (0x80000021, 0, (_EAX,)),
)
"""Leaves and registers that tell an x86 processor's model and features: those that LLVM reads, and the name.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, CPUID; AMD64 Architecture
Programmer's Manual, volume 3, appendix E; ``llvm/lib/TargetParser/Host.cpp``.
"""
_OSXSAVE = 1 << 27
_ARM_FIELDS = ("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features", "Hardware")
_APPLE_NAMES = ("machdep.cpu.brand_string", "hw.cpufamily", "hw.cpusubfamily", "kern.osversion")
_LIBRARY_SUFFIXES = (".so", ".dylib", ".dll")


def machine_identity() -> tuple[str, ...] | None:
    """Texts that differ for processors for which LLVM compiles differently; None where none were found.

    At least as fine as LLVM's own names of processor and features, which are made of the same facts.
    """
    kind = platform.machine().lower()
    found: tuple[str, ...] | None = None
    if kind in ("x86_64", "amd64"):
        words = _x86_words()
        if words is not None:
            found = (words.hex(),)
    elif kind in ("aarch64", "arm64"):
        found = _apple_names() if sys.platform == "darwin" else _arm_lines(Path("/proc/cpuinfo"))
    # LLVM's target triple names the version of macOS.
    version = platform.release() if sys.platform == "darwin" else ""
    return found and (sys.platform, version, kind, *found)


def _x86_words() -> bytes | None:
    """What the processor says of itself, the same on each of its cores; None where code cannot be made."""
    if not MAPS_IMAGES:
        return None
    try:
        return _read_words(map_image(Image(_CPUID.ljust(64, b"\xcc") + _XGETBV, {}, (), ()), {}))
    except RuntimeError:
        # A system that lets no new code run.
        return None


def _read_words(code: int) -> bytes:
    kind = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)
    cpuid, xgetbv = kind(code), kind(code + 64)
    words = (ctypes.c_uint32 * 4)()

    def read(leaf: int, subleaf: int) -> tuple[int, ...]:
        cpuid(leaf, subleaf, ctypes.addressof(words))
        return tuple(words)

    found = []
    for leaf, subleaf, registers in _LEAVES:
        # Beyond the last leaf some processors answer with another one.
        known = leaf <= read(leaf & 0x80000000, 0)[_EAX]
        answer = read(leaf, subleaf) if known else (0,) * 4
        found += [answer[register] for register in registers]
    if read(1, 0)[_ECX] & _OSXSAVE:
        # Which registers the system saves decides whether their instructions may be used.
        xgetbv(0, 0, ctypes.addressof(words))
        found += words[:2]
    return struct.pack(f"<{len(found)}I", *found)


def _arm_lines(cpuinfo: Path) -> tuple[str, ...] | None:
    """The lines of ``/proc/cpuinfo`` that LLVM reads, of all kinds of cores."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return None
    found = {" ".join(line.split()) for line in lines if line.partition(":")[0].strip() in _ARM_FIELDS}
    return tuple(sorted(found)) or None


def _apple_names() -> tuple[str, ...] | None:
    found = []
    library = ctypes.CDLL(None)
    for name in _APPLE_NAMES:
        text, size = ctypes.create_string_buffer(256), ctypes.c_size_t(256)
        if library.sysctlbyname(name.encode(), text, ctypes.byref(size), None, 0):
            return None
        found.append(text.raw[: size.value].hex())
    return tuple(found)


def package_identity(name: str) -> str:
    """Version of an installed package, and sizes of shared libraries that it may bring, without importing it.

    ``"none"`` where it is not installed.
    """
    spec = find_spec(name)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if len(folders) != 1:
        return _metadata_version(name)
    folder = Path(folders[0])
    found = [item for item in os.listdir(folder.parent) if item.startswith(f"{name}-")]
    versions = [item[len(name) + 1 : -len(".dist-info")] for item in found if item.endswith(".dist-info")]
    version = versions[0] if len(versions) == 1 else _metadata_version(name)
    return " ".join([version, *_library_sizes(folder / "binding")])


def _library_sizes(folder: Path) -> list[str]:
    """Builds of one version of llvmlite may hold different LLVMs."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(
            f"{item.name}:{item.stat().st_size}"
            for item in os.scandir(folder)
            if item.name.endswith(_LIBRARY_SUFFIXES)
        )
    return []


def _metadata_version(name: str) -> str:
    # Importing it takes as long as all the rest.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
