"""Detection of the processor and of the threads a process may use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from onnxplan.runtime.cpu import target as detection
from onnxplan.runtime.cpu.layout import MAX_WORKERS
from onnxplan.runtime.cpu.target import INSTRUCTION_SETS, cgroup_quota, default_threads, detect_target


def test_detected_target_is_consistent(monkeypatch):
    monkeypatch.delenv("ONNXPLAN_ISA", raising=False)
    target = detect_target()
    shape = INSTRUCTION_SETS[target.isa]
    assert (target.device, target.math, target.alignment) == ("cpu", "strict", 64)
    assert (target.vector_bytes, target.vector_registers) == (shape.vector_bytes, shape.vector_registers)
    assert list(target.cache_bytes) == sorted(target.cache_bytes)
    assert 1 <= target.threads <= (os.cpu_count() or 1)


@pytest.mark.parametrize("isa", sorted(INSTRUCTION_SETS))
def test_instruction_set_can_be_chosen(monkeypatch, isa):
    monkeypatch.setenv("ONNXPLAN_ISA", isa)
    assert detect_target().isa == isa


def test_unknown_choices_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="math"):
        detect_target(math="sloppy")
    with pytest.raises(ValueError, match="threads"):
        detect_target(threads=0)
    monkeypatch.setenv("ONNXPLAN_ISA", "avx1024")
    with pytest.raises(ValueError, match="ONNXPLAN_ISA"):
        detect_target()


def test_threads_are_bounded():
    assert detect_target(threads=3).threads == 3
    assert detect_target(threads=100_000).threads == MAX_WORKERS


def test_x86_flags_choose_the_instruction_set(monkeypatch):
    monkeypatch.setattr(detection.platform, "machine", lambda: "x86_64")
    avx2, avx512 = detection.X86_FLAGS["avx2"], detection.X86_FLAGS["avx512"]
    for flags, isa in (
        (frozenset(), "generic"),
        (avx2, "avx2"),
        (avx2 | avx512, "avx512"),
        (avx2 | avx512 - {"avx512vl"}, "avx2"),
        (avx2 - {"fma"}, "generic"),
    ):
        monkeypatch.setattr(detection, "x86_flags", lambda flags=flags: flags)
        assert detection.detect_isa.__wrapped__() == isa
    for machine, isa in (("aarch64", "neon"), ("arm64", "neon"), ("riscv64", "generic")):
        monkeypatch.setattr(detection.platform, "machine", lambda machine=machine: machine)
        assert detection.detect_isa.__wrapped__() == isa


@pytest.mark.skipif(not detection.has_byte_tiles(), reason="this processor, or its system, has no AMX")
def test_tiles_of_bytes_belong_to_avx512_and_can_be_turned_off(monkeypatch):
    monkeypatch.delenv("ONNXPLAN_AMX", raising=False)
    for isa in INSTRUCTION_SETS:
        monkeypatch.setenv("ONNXPLAN_ISA", isa)
        assert detect_target().byte_tiles == (isa == "avx512")
    monkeypatch.setenv("ONNXPLAN_ISA", "avx512")
    for off in ("0", ""):
        monkeypatch.setenv("ONNXPLAN_AMX", off)
        assert not detect_target().byte_tiles


def test_tiles_need_the_processor_and_the_system(monkeypatch):
    for name in ("amx_tile", "amx_int8", "avx512_vnni"):
        flags = frozenset(("amx_tile", "amx_int8", "avx512_vnni")) - {name}
        monkeypatch.setattr(detection, "x86_flags", lambda flags=flags: flags)
        assert not detection.has_byte_tiles.__wrapped__()
    flags = frozenset(("amx_tile", "amx_int8", "avx512_vnni"))
    monkeypatch.setattr(detection, "x86_flags", lambda: flags)
    monkeypatch.setattr(detection.ctypes, "CDLL", lambda name: type("C", (), {"syscall": lambda *call: -1}))
    assert not detection.has_byte_tiles.__wrapped__()


def test_detection_imports_no_compiler():
    source = (
        "import sys; from onnxplan.runtime.cpu.target import detect_target; detect_target(); "
        "print([name for name in ('numba', 'llvmlite', 'onnx') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_quota_of_version_2_is_the_smallest_of_the_group_and_its_parents(tmp_path):
    membership = tmp_path / "cgroup"
    membership.write_text("0::/outer/inner\n")
    root = tmp_path / "fs"
    assert cgroup_quota(root, membership) is None
    write(root / "outer/inner/cpu.max", "max 100000\n")
    assert cgroup_quota(root, membership) is None
    write(root / "outer/cpu.max", "150000 100000\n")
    assert cgroup_quota(root, membership) == 1.5
    write(root / "outer/inner/cpu.max", "400000 100000\n")
    assert cgroup_quota(root, membership) == 1.5


def test_quota_inside_a_container_is_at_the_root(tmp_path):
    membership = tmp_path / "cgroup"
    membership.write_text("0::/../../docker/abc\n")
    write(tmp_path / "fs/cpu.max", "50000 100000")
    assert cgroup_quota(tmp_path / "fs", membership) == 0.5


def test_quota_of_version_1(tmp_path):
    membership = tmp_path / "cgroup"
    membership.write_text("5:memory:/job\n3:cpu,cpuacct:/job\n")
    group = tmp_path / "fs/cpu,cpuacct/job"
    write(group / "cpu.cfs_quota_us", "-1")
    write(group / "cpu.cfs_period_us", "100000")
    assert cgroup_quota(tmp_path / "fs", membership) is None
    write(group / "cpu.cfs_quota_us", "250000")
    assert cgroup_quota(tmp_path / "fs", membership) == 2.5


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no affinity masks")
def test_threads_follow_affinity_and_quota(monkeypatch):
    monkeypatch.setattr(detection, "_core_of", lambda processor: str(processor // 2))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(8)))
    for quota, threads in ((None, 4), (2.5, 3), (0.1, 1), (100.0, 4)):
        monkeypatch.setattr(detection, "cgroup_quota", lambda quota=quota: quota)
        assert default_threads() == threads
    monkeypatch.setattr(detection, "cgroup_quota", lambda: None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {3})
    assert default_threads() == 1
