"""The parts of ``make test-cuda`` and ``make bench-cuda`` run tiny on the stand-in for CUDA."""

from __future__ import annotations

import numpy as np
import pytest
from small_layers import SMALL_LAYERS
from standin import StandIn

import onnxplan
from bench import (
    cuda_attention,
    cuda_bandwidth,
    cuda_bars,
    cuda_convolutions,
    cuda_products,
    cuda_rates,
    cuda_steps,
    cuda_tasks,
    models,
)
from bench.overhead import product_chain
from bench.record import Row
from bench.supervised import Settings, is_device_broken, run_check
from onnxplan.runtime.cuda.api import use_api
from tests.cuda import gpu_cases, gpu_models, gpu_probe, gpu_runs, gpu_suite

CASES = [name for name in gpu_cases.names(Settings()) if "float32" in name and gpu_cases.PLAIN not in name]
SUITE = ["test_relu_cuda", "test_softmax_axis_1_cuda", "test_matmul_3d_cuda", "test_nonzero_example_cuda"]


@pytest.fixture
def standin():
    made = StandIn()
    with use_api(made.api()):
        yield made
    assert not made.violations


@pytest.fixture
def settings(tmp_path, standin):
    return Settings(folder=str(tmp_path), tasks=3, task_seconds=0.3, leak_runs=20, repeats=3)


def passed(part, name, settings):
    """The outcome of a check that must pass."""
    outcome = run_check(part, name, settings)
    assert outcome["status"] == "passed", outcome
    return outcome


@pytest.mark.parametrize(
    "name", [n for n in gpu_probe.names(Settings()) if n.split()[0] not in ("torch", "cupy")]
)
def test_probe(settings, name):
    passed(gpu_probe, name, settings)


@pytest.mark.parametrize("name", gpu_runs.names(Settings()))
def test_runs(settings, name):
    passed(gpu_runs, name, settings)


@pytest.mark.parametrize("name", CASES[:6])
def test_operator_case(settings, name):
    assert passed(gpu_cases, name, settings)["details"]["kernels"]


@pytest.mark.parametrize("name", SUITE)
def test_backend_suite(settings, name):
    passed(gpu_suite, name, settings)


def test_model(settings):
    """A small network; those of the record have the same code path."""
    model = gpu_runs.layered_model(layers=2)
    details = gpu_models.compare(model, [gpu_runs.feeds_of(2, 0), gpu_runs.feeds_of(3, 1)], settings)
    assert 0 <= details["error"] <= gpu_models.TOLERANCE
    assert details["steps"] >= 2


def test_a_broken_device_is_noticed(settings, standin):
    assert not is_device_broken(settings)
    standin.devices[0].failure = 700
    assert is_device_broken(settings)


def test_copies_are_timed(settings):
    rows = cuda_rates.copy_rows(settings, 1 << 16)
    assert [row.unit for row in rows] == ["GB/s"] * 3
    assert all(row.value > 0 for row in rows)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_are_timed(settings, monkeypatch, dtype):
    monkeypatch.setattr(cuda_rates, "SECONDS", 0.01)
    (row,) = cuda_rates.product_rows(dtype, "strict", settings, 32)
    assert row.unit == "TFLOP/s"
    assert row.value > 0


def test_runs_are_timed(settings, monkeypatch):
    monkeypatch.setattr(cuda_rates, "SECONDS", 0.01)
    for name in ("a run", "chain 10"):
        rows = passed(cuda_rates, name, settings)["details"]["rows"]
        assert all(row["value"] > 0 and row["unit"] == "us" for row in rows)


def test_steps_are_timed(settings):
    with onnxplan.InferenceSession(product_chain(3), device="cuda") as session:
        feeds = {"x0": np.ones((4, 4), np.float32), "m": np.eye(4, dtype=np.float32)}
        session.run_sync(feeds)
        times = cuda_steps.time_steps(session, dict.fromkeys(feeds, (4, 4)), settings)
        steps = session.plan().steps
        assert [item.step for item in times] == list(steps)
        assert [item.number for item in times] == list(range(len(steps)))
        assert set(times[0].to_json()) >= {"us", "GB/s", "TFLOP/s", "kernel", "nodes", "blocks"}
        np.testing.assert_array_equal(session.run_sync(feeds)["x3"].numpy(), feeds["x0"])


@pytest.mark.parametrize(("milliseconds", "ratio"), [((3.0, 1.0, 2.0), 1 / 3), ((1.0, 2.0), 1.0)])
def test_products_are_timed_beside_every_algorithm(settings, standin, milliseconds, ratio):
    standin.algorithms = milliseconds
    with onnxplan.InferenceSession(cuda_tasks.network(8, 2), device="cuda") as session:
        feeds = cuda_tasks.inputs(4, 8)
        session.run_sync(feeds)
        before = standin.counters.calls["memsetAsync"]
        (row,) = cuda_products.product_rows(session, {"x": (4, 8)}, settings)
        launches = (1 + cuda_products.ROUNDS) * (1 + len(milliseconds))
        assert standin.counters.calls["memsetAsync"] == before + launches, "operands are cold"
        expected = session.run_sync(feeds)
    assert row.name.startswith("product: product 1 x (4 x 8) (8 x 8), float32")
    assert row.peer == f"best of {len(milliseconds)} algorithms"
    assert (row.value, row.peer_value) == (pytest.approx(1e3 * milliseconds[0]), pytest.approx(1e3))
    assert row.ratio == pytest.approx(ratio)
    (bar,) = [each for each in cuda_bars.judge([row]) if "cuBLASLt" in each.name]
    assert bar.met is (ratio >= 0.98)
    with onnxplan.InferenceSession(cuda_tasks.network(8, 2), device="cpu") as session:
        for name, tensor in session.run_sync(feeds).items():
            np.testing.assert_allclose(expected[name].numpy(), tensor.numpy(), rtol=1e-5, atol=1e-5)


def test_bars_are_judged_by_the_rows_of_the_parts(settings, monkeypatch):
    """The parts' own rows are found by name; a bar without rows is not measured."""
    monkeypatch.setattr(cuda_rates, "SECONDS", 0.01)
    small = {"rows": 4, "columns": 8}
    rows = [Row(**row) for row in passed(cuda_rates, "a run", settings)["details"]["rows"]]
    rows += cuda_tasks.task_rows(settings, **small, seconds=0.2)
    rows += cuda_tasks.gap_rows(settings, columns=8, seconds=0.2)
    rows += cuda_tasks.shape_rows(settings, **small)
    rows += [
        Row.of_times("resnet50, batch 1, on the device", 1.0, "torch.compile", 2.0),
        Row.of_times("tiny_mlp, batch 1, on the device", 1.0, "torch.compile", 0.5),
        Row.of_times("tiny_mlp, batch 1, on the device", 1.0, "torch eager", 0.1),
        Row.of_times("tiny_mlp, batch 1, from the host", 60e-6, "torch.compile", 50e-6),
    ]
    bars = {bar.name: bar for bar in cuda_bars.judge(rows)}
    measured = {name for name, bar in bars.items() if bar.met is not None}
    assert measured == {
        "whole models beside torch.compile, geometric mean",
        "whole models beside torch.compile, worst",
        "the sample from host to host",
        "tiny MLP from host to host",
        "run after run",
        "8 tasks beside one",
        "first run of a new shape",
    }
    assert bars["whole models beside torch.compile, geometric mean"].value == pytest.approx(1.0)
    assert bars["whole models beside torch.compile, worst"].value == pytest.approx(0.5)
    tiny = bars["tiny MLP from host to host"]
    assert (tiny.value, tiny.met) == (pytest.approx(60), False)
    assert str(tiny) == "tiny MLP from host to host: 60, at most 50 us: missed"
    assert str(bars["attention beside PyTorch's"]).endswith("at least 0.8: not measured")
    assert all(bar.met is None for bar in cuda_bars.judge([]))


def test_a_new_shape_compiles_and_searches_nothing(settings, standin, tmp_path, monkeypatch):
    """After a warm-up: no kernel is compiled or loaded, none uploaded or timed; one call of a heuristic."""
    monkeypatch.setenv("ONNXPLAN_CACHE_DIR", str(tmp_path / "kernels"))
    standin.algorithms = (3.0, 1.0)
    watched = ("moduleLoadData", "eventElapsedTime", "memcpy", "graphInstantiate", "hostAlloc")
    with onnxplan.InferenceSession(cuda_tasks.network(8, 3), device="cuda", autotune=True) as session:
        for rows in (20, 40, 40):
            session.run_sync(cuda_tasks.inputs(rows, 8))
        device, calls = session._device, standin.counters.calls
        assert device.compiled_kernels, "what is counted does happen"
        assert all(calls[name] for name in watched)
        for rows in (33, 50, 61):
            before, heuristics = calls.copy(), standin.counters.heuristics
            kernels = device.compiled_kernels, device.loaded_kernels
            session.run_sync(cuda_tasks.inputs(rows, 8))
            made = {name: calls[name] - before[name] for name in watched}
            assert (device.compiled_kernels, device.loaded_kernels) == kernels
            assert standin.counters.heuristics == heuristics + 1
            # The second run makes the graph.
            assert made == dict.fromkeys(watched, 0) | {"hostAlloc": 2}


def test_a_kernel_is_compiled_once_for_all_processes(settings, standin, tmp_path, monkeypatch):
    """NVRTC's results are in the kernel store, by architecture."""
    monkeypatch.setenv("ONNXPLAN_CACHE_DIR", str(tmp_path / "kernels"))
    counts = []
    for capability in ((9, 0), (9, 0), (8, 0)):
        with (
            use_api(StandIn(compute_capability=capability).api()),
            onnxplan.InferenceSession(cuda_tasks.network(8, 3), device="cuda") as session,
        ):
            session.run_sync(cuda_tasks.inputs(4, 8))
            counts.append((session._device.compiled_kernels, session._device.loaded_kernels))
    (compiled, loaded), warm, other = counts
    assert compiled > 0
    assert loaded == 0
    assert warm == (0, compiled)
    assert other == (compiled, 0)


def test_tasks(settings):
    small = {"rows": 4, "columns": 8}
    (row,) = cuda_tasks.task_rows(settings, **small, seconds=0.2)
    assert row.ratio == row.value / row.peer_value > 0
    (row,) = cuda_tasks.gap_rows(settings, columns=8, seconds=0.2)
    assert row.value >= 0
    (row,) = cuda_tasks.shape_rows(settings, **small)
    assert row.value > 0
    assert set(cuda_tasks.names(settings)) == {"tasks", "gap", "new shapes"}


@pytest.mark.parametrize("name", cuda_bandwidth.CASES)
def test_kernels_are_timed_beside_a_copy(settings, standin, name):
    """Rates are of what must be moved; a launch takes two milliseconds."""
    standin.launch_milliseconds = 2.0
    case = cuda_bandwidth.CASES[name]
    row = cuda_bandwidth.bandwidth_row(name, case, settings, 1 << 16)
    wide = cuda_bandwidth.DTYPES[case.dtype].itemsize
    small = cuda_bandwidth.DTYPES[case.result or case.dtype].itemsize
    rows, others = (1 << 16) // (case.columns * wide), [shape for _, shape in case.inputs]
    moved = rows * case.columns * (wide * (1 + others.count("rows,columns")) + small)
    moved += case.columns * wide * others.count("columns")
    assert row.name == name
    assert (row.unit, row.peer) == ("GB/s", "a copy")
    assert row.value == pytest.approx(1e-9 * moved / 2e-3), "one step does it all"
    assert row.ratio == pytest.approx(row.value / row.peer_value)
    bars = [bar for bar in cuda_bars.judge([row]) if bar.value is not None]
    assert [bar.name for bar in bars] == [f"{name.partition(':')[0]} beside a copy"]


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_timed_beside_a_peer_that_agrees(settings, standin, causal):
    torch = pytest.importorskip("torch")
    standin.launch_milliseconds = 2.0
    case = cuda_attention.Case(2, 3, 40, 16, causal)

    class PeerOnCpu(cuda_attention.TorchAttention):
        def __init__(self, *operands):
            super().__init__(torch, "cpu", None, *operands)

        def launch(self, stream):
            """The stand-in says a microsecond for events with nothing between them."""

    row = cuda_attention.attention_row(case, settings, PeerOnCpu)
    assert row.name == f"attention: 2 x 3 heads of 16, 40 tokens{', causal' if causal else ''}"
    assert row.value == pytest.approx(1e-12 * 4 * 6 * 40 * 40 * 16 / (2 if causal else 1) / 2e-3)
    assert row.ratio == pytest.approx(1e-6 / 2e-3)
    (bar,) = [bar for bar in cuda_bars.judge([row]) if bar.value is not None]
    assert (bar.name, bar.met) == ("attention beside PyTorch's", False)
    alone = cuda_attention.attention_row(case, settings, None)
    assert (alone.value, alone.peer, alone.ratio) == (pytest.approx(row.value), "", None)

    class Wrong(PeerOnCpu):
        def expected(self):
            return super().expected() + 1

    with pytest.raises(ValueError, match="differs from PyTorch's"):
        cuda_attention.attention_row(case, settings, Wrong)


@pytest.mark.parametrize("layer", SMALL_LAYERS, ids=str)
def test_convolutions_are_timed_beside_a_peer_that_agrees(settings, standin, layer):
    torch = pytest.importorskip("torch")
    standin.launch_milliseconds = 2.0
    launched, peers = [], []

    class PeerOnCpu(cuda_convolutions.TorchLayer):
        def __init__(self, *operands):
            super().__init__(torch, "cpu", *operands)
            peers.append(self)

        def launch(self, stream):
            launched.append(stream)

    before = standin.counters.calls["memsetAsync"]
    row = cuda_convolutions.convolution_row(layer, settings, 2, PeerOnCpu)
    rounds = 1 + cuda_products.ROUNDS
    assert standin.counters.calls["memsetAsync"] == before + 2 * rounds, "operands are cold"
    assert len(launched) == rounds
    assert row.name == f"own convolution: {layer}"
    # One kernel, or a product of a microsecond and a map.
    assert row.value == pytest.approx(2001 if layer.residual else 2000)
    # The peer's events have nothing between them, for which the stand-in says a microsecond.
    assert (row.peer_value, row.ratio) == (pytest.approx(1), pytest.approx(1 / row.value))
    (bar,) = [bar for bar in cuda_bars.judge([row]) if bar.name.startswith("own convolution")]
    assert bar.value == row.ratio
    # The operator takes these arguments, and has no kernel for the CPU.
    with pytest.raises(NotImplementedError, match="aten::cudnn_convolution"):
        peers[0].convolve()
    alone = cuda_convolutions.convolution_row(layer, settings, 2, None)
    assert (alone.peer, alone.ratio) == ("", None)
    assert alone.value == pytest.approx(row.value)


def test_convolutions_that_differ_from_the_peer_are_no_row(settings):
    class Wrong:
        def __init__(self, layer, feeds, weights, bias):
            self.shape = (*feeds["x"].shape[:-1], layer.features)

        def expected(self):
            return np.ones(self.shape, np.float32)

    with pytest.raises(ValueError, match="differs from PyTorch's"):
        cuda_convolutions.convolution_row(SMALL_LAYERS[1], settings, 1, Wrong)


def test_layers_are_those_of_the_network():
    torch = pytest.importorskip("torch")
    found = set()

    def look(module, inputs, output):
        (height, width), (kernel, _) = inputs[0].shape[-2:], module.kernel_size
        assert height == width
        assert module.padding == (kernel // 2,) * 2
        found.add((module.in_channels, module.out_channels, kernel, module.stride[0], height))

    with torch.device("meta"):
        network = models.ZOO["resnet50"].build().eval()
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(look)
        network(torch.empty(1, 3, 224, 224))
    layers = cuda_convolutions.LAYERS.values()
    assert {(x.channels, x.features, x.kernel, x.stride, x.size) for x in layers} == found
