"""The identity of processor and tools that kernel keys hold."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from onnxplan.runtime import library, machine
from onnxplan.runtime.library import tool_key
from onnxplan.runtime.machine import machine_identity, package_identity

needs_x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or sys.platform == "win32",
    reason="needs an x86 processor and the System V calling convention",
)


@pytest.fixture
def fresh():
    tool_key.cache_clear()
    yield
    tool_key.cache_clear()


def test_key_needs_no_compiler():
    code = (
        "import sys; from onnxplan.runtime.library import tool_key; tool_key();"
        "print([name for name in ('llvmlite', 'numba', 'importlib.metadata') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = [] if machine_identity() is not None else ["llvmlite"]
    assert result.stdout.strip() == str(expected)


@needs_x86
def test_words_of_the_processor():
    words = machine._x86_words()
    assert words is not None
    assert words[:12] in (b"GenuntelineI", b"AuthcAMDenti", b"HygouineGenn"), words[:12]
    assert machine_identity() == machine_identity()


@needs_x86
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs to choose the processor it runs on")
def test_all_cores_are_the_same_machine():
    allowed = os.sched_getaffinity(0)
    try:
        found = set()
        for processor in allowed:
            os.sched_setaffinity(0, {processor})
            found.add(machine_identity())
    finally:
        os.sched_setaffinity(0, allowed)
    assert len(found) == 1


@needs_x86
@pytest.mark.skipif(sys.platform != "linux", reason="compares with /proc/cpuinfo")
def test_words_say_what_the_system_says():
    """Family, model and stepping from the first leaf, and the name from the last ones."""
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    words = machine._x86_words()
    signature = int.from_bytes(words[12:16], "little")
    family, model = signature >> 8 & 15, signature >> 4 & 15
    model += (signature >> 16 & 15) << 4 if family in (6, 15) else 0
    family += signature >> 20 & 255 if family == 15 else 0
    assert (family, model, signature & 15) == tuple(
        int(fields[name]) for name in ("cpu family", "model", "stepping")
    )
    assert b" ".join(words.replace(b"\0", b" ").split()).find(fields["model name"].encode()) >= 0


@pytest.mark.parametrize("part", ["processor", "llvmlite", "numba", "numpy"])
def test_another_processor_or_version_is_another_key(fresh, monkeypatch, part):
    first = tool_key()
    tool_key.cache_clear()
    assert tool_key() == first
    tool_key.cache_clear()
    if part == "processor":
        found = machine_identity() or ()
        monkeypatch.setattr(library, "machine_identity", lambda: (*found, "changed"))
    else:
        monkeypatch.setattr(
            library,
            "package_identity",
            lambda name: package_identity(name) + (" changed" if name == part else ""),
        )
    assert tool_key() != first


@needs_x86
def test_each_bit_of_the_processor_counts(fresh, monkeypatch):
    words = machine._x86_words()
    keys = set()
    for place in range(len(words)):
        changed = bytearray(words)
        changed[place] ^= 1
        monkeypatch.setattr(machine, "_x86_words", lambda changed=changed: bytes(changed))
        keys.add(machine_identity())
    assert len(keys) == len(words)


def test_llvm_is_asked_where_nothing_else_tells(fresh, monkeypatch):
    first = tool_key()
    tool_key.cache_clear()
    monkeypatch.setattr(library, "machine_identity", lambda: None)
    assert tool_key() != first
    import llvmlite.binding as llvm

    assert llvm.get_host_cpu_name() in library._llvm_machine()


@needs_x86
def test_system_that_forbids_new_code(monkeypatch):
    def refuse(*_arguments, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("mmap.mmap", refuse)
    assert machine_identity() is None


def test_processors_that_nobody_knows(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert machine_identity() is None


def test_arm_is_what_the_system_says(tmp_path):
    core = "processor\t: {}\nBogoMIPS\t: {}\nFeatures\t: fp asimd {}\nCPU implementer\t: 0x41\n"
    core += "CPU part\t: {}\n\n"
    files = [tmp_path / str(number) for number in range(4)]
    files[0].write_text(core.format(0, 50.0, "sve", "0xd40") + core.format(1, 50.0, "sve", "0xd46"))
    files[1].write_text(core.format(0, 48.0, "sve", "0xd46") + core.format(1, 51.0, "sve", "0xd40"))
    files[2].write_text(core.format(0, 50.0, "", "0xd40"))
    files[3].write_text("processor\t: 0\n")
    first, moved, plain, nothing = map(machine._arm_lines, files)
    assert first == moved
    assert first != plain
    assert nothing is None
    assert machine._arm_lines(tmp_path / "none") is None


@pytest.mark.parametrize("name", ["llvmlite", "numba", "numpy"])
def test_versions_are_those_of_the_metadata(name):
    assert package_identity(name).split()[0] == version(name)
    assert (len(package_identity(name).split()) > 1) == (name == "llvmlite")


def test_packages_without_the_usual_folders(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "installed_twice"
    package.mkdir()
    (package / "__init__.py").touch()
    assert package_identity("installed_twice") == "none"
    for number in ("1.0", "2.0"):
        folder = tmp_path / f"installed_twice-{number}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: installed_twice\nVersion: {number}\n")
        assert package_identity("installed_twice") == version("installed_twice")
    assert package_identity("no_such_package") == "none"
