"""``make test-cuda`` and ``make bench-cuda`` as far as no GPU is needed: machinery and dry runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bench import checkout, cuda_models, cuda_rates, record
from bench.cuda_models import interleave, measure_group
from bench.supervised import Settings, first_lines, run_check
from bench.supervisor import Part, Result, list_names, run_part
from onnxplan.runtime.cuda.inventory import take_inventory
from tests.cuda import (
    gpu_cases,
    gpu_library,
    gpu_models,
    gpu_probe,
    gpu_run,
    gpu_runs,
    gpu_sanitizer,
    gpu_suite,
)

ROOT = Path(__file__).parent.parent.parent
MISBEHAVING = "tests.cuda.misbehaving"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Environment of processes that import this checkout without its being installed."""
    return checkout.environment(checkout.link(tmp_path_factory.mktemp("checkout")))


@pytest.fixture
def settings(tmp_path, monkeypatch, package):
    monkeypatch.setenv("PYTHONPATH", package["PYTHONPATH"])
    return Settings(device="cpu", folder=str(tmp_path), tasks=4, task_seconds=0.3, leak_runs=40, repeats=3)


def statuses(result: Result) -> dict[str, str]:
    return {outcome["name"]: outcome["status"] for outcome in result.outcomes}


@pytest.mark.parametrize("workers", [1, 3])
def test_crashes_and_hangs_leave_results(settings, workers):
    result = run_part(Part("bad", MISBEHAVING, 60, workers=workers, stall=2.0), settings)
    assert statuses(result) == {
        "passes": "passed",
        "measures": "passed",
        "fails": "failed",
        "skips": "skipped",
        "crashes": "failed",
        "passes again": "passed",
        "hangs": "failed",
        "passes at last": "passed",
    }
    assert not result.not_run
    assert not result.passed
    errors = {outcome["name"]: outcome.get("error", "") for outcome in result.outcomes}
    assert errors["fails"].startswith("ValueError: wrong\nline")
    assert "misbehaving.py" in errors["fails"]
    assert len(errors["fails"].splitlines()) <= 7
    assert errors["crashes"].startswith("the process ended with status -6")
    assert errors["hangs"] == "no result within 2 s"
    written = result.to_json()
    assert (written["passed"], written["failed"], written["skipped"]) == (4, 3, 1)
    assert written["details"] == {"measures": {"figure": 1.5}}
    assert written["skips"] == {"not here": 1}


def test_a_part_ends_in_time(settings):
    start = time.monotonic()
    result = run_part(Part("slow", MISBEHAVING, 3.5), settings, ["passes", "hangs", "measures"])
    assert time.monotonic() - start < 30
    assert statuses(result) == {"passes": "passed"}
    assert result.not_run == ["hangs", "measures"]
    assert run_part(Part("none", MISBEHAVING, 0.5), settings).error == "no time was left for it"


def test_a_process_whose_device_broke_is_replaced_without_blame(settings):
    names = ["notes 1", "notes 2"]
    result = run_part(Part("notes", MISBEHAVING, 30), settings, names)
    assert statuses(result) == dict.fromkeys(names, "passed")
    assert (Path(settings.folder) / "notes").read_text().splitlines() == ['"notes 1"', '"notes 2"']


def test_a_part_that_cannot_be_imported_says_so(settings):
    result = run_part(Part("none", "tests.cuda.no_such_module", 30), settings)
    assert "No module named 'tests.cuda.no_such_module'" in result.error
    assert not result.passed
    with pytest.raises(RuntimeError, match="could not be listed within 0 s"):
        list_names(Part("late", MISBEHAVING, 1), settings, 0.0)


def test_failures_of_one_kind_are_listed_together():
    outcomes = [{"name": str(n), "status": "failed", "error": "a" if n % 3 else "b"} for n in range(6)]
    assert Result("x", outcomes=outcomes).grouped_failures() == [
        {"error": "a", "names": ["1", "2", "4", "5"]},
        {"error": "b", "names": ["0", "3"]},
    ]


def test_errors_are_short():
    assert first_lines(ValueError("x" * 5000)) == "ValueError: " + "x" * 1488


@pytest.mark.parametrize("name", gpu_probe.names(Settings()))
def test_probe(settings, name):
    outcome = run_check(gpu_probe, name, settings)
    assert outcome["status"] in ("passed", "skipped"), outcome
    assert (outcome["status"] == "skipped") == (name in SKIPPED_WITHOUT_GPU)


SKIPPED_WITHOUT_GPU = ("outputs stay on the device", "torch tensors", "cupy arrays")


@pytest.mark.parametrize("name", gpu_runs.names(Settings()))
def test_runs(settings, name):
    outcome = run_check(gpu_runs, name, settings)
    assert outcome["status"] == "passed", outcome


@pytest.mark.parametrize("name", gpu_library.names(Settings()))
def test_attention_agrees_with_itself(settings, name):
    outcome = run_check(gpu_library, name, settings)
    assert outcome["status"] == "passed", outcome
    assert not outcome["details"]["cudnn"]


def test_operator_cases_come_in_an_order_that_covers_early(settings):
    names = gpu_cases.names(settings)
    known = gpu_cases.cases()
    assert len(names) == 2 * len(known)
    operators = {case.nodes[-1].op_type for case in known.values()}
    assert {known[name].nodes[-1].op_type for name in names[: len(operators)]} == operators
    for name in (names[0], names[0] + gpu_cases.PLAIN):
        assert run_check(gpu_cases, name, settings)["details"]["kernels"]


def test_a_wrong_result_of_a_case_fails(settings, monkeypatch):
    name = gpu_cases.names(settings)[0]
    monkeypatch.setattr(type(gpu_cases.cases()[name]), "check", lambda *_: np.testing.assert_equal(1, 2))
    assert run_check(gpu_cases, name, settings)["status"] == "failed"


def test_the_backend_suite_is_there_for_both_devices(settings):
    names = gpu_suite.names(settings)
    assert len(names) > 1500
    assert {name.removesuffix("_cpu") for name in names} == {
        name.removesuffix("_cuda") for name in gpu_suite.names(Settings(device="cuda"))
    }
    assert run_check(gpu_suite, "test_relu_cpu", settings)["status"] == "passed"
    assert run_check(gpu_suite, "test_bernoulli_cpu", settings)["status"] == "skipped"


def test_a_model_is_compared_with_the_cpu(settings):
    outcome = run_check(gpu_models, "light squeezenet", settings)
    assert outcome["status"] == "passed", outcome
    assert outcome["details"]["error"] == 0.0
    assert outcome["details"]["steps"] > 20


def test_relative_error_is_infinite_for_what_is_no_number():
    right = np.array([1.0, -4.0], np.float32)
    assert gpu_models.relative_error(right + np.float32(0.5), right) == 0.125
    assert gpu_models.relative_error(np.array([1.0, np.nan], np.float32), right) == np.inf
    assert gpu_models.relative_error(right.astype(np.float64), right) == np.inf
    assert gpu_models.relative_error(right[:1], right) == np.inf


def outcome(name, seconds, *kernels, status="passed"):
    return {"name": name, "status": status, "seconds": seconds, "details": {"kernels": list(kernels)}}


def test_the_sanitizer_sees_every_kernel_once():
    outcomes = [
        outcome("slow", 9.0, "map 1", "map 2", "sort 1"),
        outcome("quick", 0.1, "map 1"),
        outcome("again", 0.2, "map 1"),
        outcome("two", 0.3, "map 2", "reduce 1"),
        outcome("broken", 0.0, "scan 1", status="failed"),
    ]
    assert gpu_sanitizer.cover(outcomes) == ["quick", "two", "slow"]


LOG = """\
========= COMPUTE-SANITIZER
========= Invalid __global__ write of size 4 bytes
=========     at onnxplan_map+0x70
=========     by thread (0,0,0) in block (0,0,0)
=========
========= Invalid __global__ write of size 4 bytes
=========     at onnxplan_map+0x70
=========     by thread (0,0,0) in block (0,0,0)
========= ERROR SUMMARY: 2 errors
"""


def test_findings_of_the_sanitizer_are_failures(settings, monkeypatch, tmp_path):
    assert (
        gpu_run.run_sanitizer("memcheck", ["x"], settings, 30).error == "compute-sanitizer is not installed"
    )
    tool = tmp_path / "compute-sanitizer"
    # The tool's command line: options, among them the log file, then the command.
    tool.write_text(
        "#!/bin/sh\nwhile [ $# -gt 0 ]; do case $1 in --log-file) log=$2; shift 2;; "
        "--tool|--target-processes|--print-limit) shift 2;; *) break;; esac; done\n"
        f"cat > $log << 'END'\n{LOG}END\nexec \"$@\"\n"
    )
    tool.chmod(0o755)
    monkeypatch.setattr(gpu_sanitizer, "find_tool", lambda: str(tool))
    name = gpu_cases.names(settings)[0]
    result = gpu_run.run_sanitizer("memcheck", [name], settings, 120)
    assert statuses(result) == {name: "passed", "finding 0": "failed", "summary": "passed"}
    (failure,) = result.failures
    assert failure["error"].startswith("Invalid __global__ write of size 4 bytes at onnxplan_map+0x70")
    assert result.to_json()["details"]["summary"] == {"errors counted by the tool": 2}
    assert gpu_run.run_sanitizer("memcheck", [], settings, 30).error.startswith("no operator case passed")


def test_a_record_is_written(settings, monkeypatch, tmp_path):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(gpu_run, "GROUPS", ((Part("probe", MISBEHAVING, 30, stall=2.0),),))
    results = gpu_run.run_all(settings, ["probe"], 60)
    file = gpu_run.write_record(results, take_inventory())
    found = json.loads(file.read_text())
    assert found["suite"] == "test-cuda"
    assert found["passed"] is False
    assert {"device", "date", "commit", "versions", "rows", "driver", "parts"} <= set(found)
    assert found["parts"][0]["failed"] == 3
    assert {"name": "probe: passed", "value": 4, "unit": "checks"}.items() <= found["rows"][0].items()


@pytest.mark.parametrize("module", ["tests.cuda.gpu_run", "bench.cuda"])
@pytest.mark.skipif(bool(take_inventory().devices), reason="there is a CUDA device")
def test_without_a_device_the_scripts_say_so(module):
    command = [sys.executable, str(ROOT / "bench" / "checkout.py"), module]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert found.returncode == 2
    assert found.stdout.startswith("no CUDA device: ")


def test_blocks_of_calls_take_turns():
    calls = []
    medians = interleave({name: (lambda name=name: calls.append(name)) for name in "ab"}, 0.0, rounds=2)
    assert set(medians) == {"a", "b"}
    assert "".join(calls) == "aaabbb" + "aaa" + "bbb" + "bbb" + "aaa"


def test_models_beside_their_peers(settings):
    pytest.importorskip("torch")
    if not cuda_models.models.is_exported("tiny_mlp", dynamic=True):
        pytest.importorskip("onnxscript")
    rows, notes = measure_group(["tiny_mlp", "no_such_model"], "cpu", time.monotonic() + 240, 0.01, (1,))
    assert {row.name for row in rows} == {
        "tiny_mlp, batch 1, on the device",
        "tiny_mlp, batch 1, from the host",
    }
    assert "torch eager" in {row.peer for row in rows}
    assert all(row.value > 0 and row.ratio > 0 for row in rows)
    assert notes["no_such_model"][0].startswith("prepare: ValueError: no model 'no_such_model'")


def test_a_process_that_is_late_is_ended():
    process = cuda_models.Process("tiny_mlp", "cpu", (1,))
    assert process.answer(time.monotonic()) == (False, "it was not ready in time")
    assert not process.alive
    assert process.answer(time.monotonic() + 1) == (False, "it was not ready in time")


def test_rates_that_need_no_gpu(settings, monkeypatch):
    monkeypatch.setattr(cuda_rates, "SECONDS", 0.01)
    for name in cuda_rates.names(settings):
        found = run_check(cuda_rates, name, settings)
        assert found["status"] == ("skipped" if name.split()[0] in ("copies", "product") else "passed"), found


def test_the_checkout_is_importable_where_it_is_not_installed(package):
    code = "import onnxplan, onnxplan.compiler, bench.record; print(onnxplan.__version__, onnxplan.__file__)"
    environment = {name: package[name] for name in ("PYTHONPATH", "PATH") if name in package}
    command = [sys.executable, "-P", "-c", code]
    found = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment | {"HOME": os.environ["HOME"]}
    )
    version, file = found.stdout.split()
    assert version == "0.1.0"
    assert Path(file).is_relative_to(package["PYTHONPATH"].split(os.pathsep)[0])
