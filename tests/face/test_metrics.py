"""Prometheus metrics and OpenTelemetry spans, with the libraries themselves."""

import asyncio

import numpy as np
import pytest
from face_models import EXTENT, A, B, long_model, product_model, sums_model
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import onnxplan
from onnxplan.metrics import SESSION_LIMIT, MetricsObserver
from onnxplan.observers import Operation

CPU = {"session": "g", "device": "cpu"}


@pytest.fixture
def registry():
    made = CollectorRegistry()
    with onnxplan.instrument(prometheus=made):
        yield made
    assert list(made.collect()) == []


@pytest.fixture
def exporter():
    memory = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    with onnxplan.instrument(opentelemetry=provider):
        yield memory, provider.get_tracer("test")


def test_runs_are_counted_and_timed(registry):
    value = registry.get_sample_value
    with onnxplan.InferenceSession(product_model()) as session:
        for _ in range(4):
            session.run_sync({"a": A, "b": B})
        with pytest.raises(onnxplan.InvalidFeedsError):
            session.run_sync({"a": A})
        with pytest.raises(ValueError, match="outputs"):
            asyncio.run(session.run({"a": A, "b": B}, outputs="disk"))
        assert value("onnxplan_runs_total", {**CPU, "outcome": "ok"}) == 4
        assert value("onnxplan_runs_total", {**CPU, "outcome": "error"}) == 2
        assert value("onnxplan_run_duration_seconds_count", CPU) == 4
        assert 0 < value("onnxplan_run_duration_seconds_sum", CPU) < 60
        for kind in ("load", "plan", "compile"):
            assert value(f"onnxplan_{kind}_duration_seconds_count", CPU) == 1
        failures = {"InvalidFeedsError": 1, "ValueError": 1}
        for error, count in failures.items():
            labels = {**CPU, "operation": "run", "error": error}
            assert value("onnxplan_errors_total", labels) == count
        assert value("onnxplan_sessions", CPU) == 1
        assert value("onnxplan_runs_in_flight", CPU) == 0
        memory = session.memory()
        for kind in ("constants", "slots", "results"):
            assert value("onnxplan_memory_bytes", {**CPU, "kind": kind}) == getattr(memory, kind)
        assert value("onnxplan_memory_peak_bytes", CPU) == memory.peak > 0
        compiled = session.compiled_kernels
        assert value("onnxplan_compiled_kernels_total", {"device": "cpu"}) == compiled
    assert value("onnxplan_sessions", CPU) is None
    # A counter does not go away with the session.
    assert value("onnxplan_compiled_kernels_total", {"device": "cpu"}) == compiled


def test_queued_and_cancelled_runs_are_counted(registry):
    feeds = {"x": np.ones((EXTENT, EXTENT), np.float32)}

    async def main():
        async with onnxplan.InferenceSession(long_model(), max_concurrency=1) as session:
            tasks = [asyncio.create_task(session.run(feeds)) for _ in range(3)]
            while not session._running:
                await asyncio.sleep(0)
            seen = [
                registry.get_sample_value(f"onnxplan_runs_{name}", CPU) for name in ("in_flight", "queued")
            ]
            tasks[2].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return seen

    assert asyncio.run(main()) == [3, 2]
    assert registry.get_sample_value("onnxplan_runs_total", {**CPU, "outcome": "cancelled"}) == 1
    assert registry.get_sample_value("onnxplan_runs_total", {**CPU, "outcome": "ok"}) == 2


def test_sessions_of_one_name_share_their_metrics(registry):
    with (
        onnxplan.InferenceSession(product_model(), name="p") as one,
        onnxplan.InferenceSession(product_model(), name="p") as other,
    ):
        for session in (one, other):
            session.run_sync({"a": A, "b": B})
        labels = {"session": "p", "device": "cpu"}
        assert registry.get_sample_value("onnxplan_sessions", labels) == 2
        assert registry.get_sample_value("onnxplan_runs_total", {**labels, "outcome": "ok"}) == 2
        constants = registry.get_sample_value("onnxplan_memory_bytes", {**labels, "kind": "constants"})
        assert constants == one.memory().constants + other.memory().constants


def test_the_number_of_labels_is_bounded():
    registry = CollectorRegistry()
    metrics = MetricsObserver(registry)
    for number in range(3 * SESSION_LIMIT):
        with metrics.observe(Operation("run", f"model-{number}", "cpu")):
            pass
        with pytest.raises(KeyError), metrics.observe(Operation("run", "model-0", "cpu")):
            raise type(f"Error{number}", (KeyError,), {})
    text = generate_latest(registry).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert {s.labels["error"] for s in samples if s.name == "onnxplan_errors_total"} == {"other"}
    runs = {s.labels["session"]: s.value for s in samples if s.name == "onnxplan_run_duration_seconds_count"}
    assert len(runs) == SESSION_LIMIT + 1
    assert runs["other"] == 2 * SESSION_LIMIT


def test_a_registry_is_instrumented_once():
    registry = CollectorRegistry()
    with onnxplan.instrument(prometheus=registry):
        before = {family.name for family in registry.collect()}
        with pytest.raises(ValueError, match="onnxplan_runs"):
            onnxplan.instrument(prometheus=registry)
        assert {family.name for family in registry.collect()} == before
    with onnxplan.instrument(prometheus=registry):
        assert {family.name for family in registry.collect()} == before


def test_the_text_is_what_prometheus_reads(registry):
    with onnxplan.InferenceSession(product_model()) as session:
        session.run_sync({"a": A, "b": B})
        families = {
            family.name: family
            for family in text_string_to_metric_families(generate_latest(registry).decode())
        }
    assert {"onnxplan_runs", "onnxplan_run_duration_seconds", "onnxplan_memory_bytes"} <= families.keys()
    for family in families.values():
        assert family.documentation.endswith(".")


def test_spans_nest(exporter):
    memory, tracer = exporter
    with onnxplan.InferenceSession(sums_model(["n", "m"]), name="sums") as session:
        memory.clear()
        # The first size runs inline, the second one on a worker thread: the context must follow it there.
        for shape in ((2, 3), (2000, 3000)):
            x = np.ones(shape, np.float32)

            async def request(x=x):
                with tracer.start_as_current_span("GET /sums"):
                    await session.run({"x": x, "y": x})

            asyncio.run(request())
            spans = {span.name: span for span in memory.get_finished_spans()}
            memory.clear()
            assert set(spans) == {"GET /sums", "run sums", "plan sums", "compile sums"}
            parents = {"run sums": "GET /sums", "plan sums": "run sums", "compile sums": "run sums"}
            for child, parent in parents.items():
                assert spans[child].parent.span_id == spans[parent].context.span_id
            attributes = spans["compile sums"].attributes
            assert attributes["onnxplan.session.name"] == "sums"
            assert attributes["onnxplan.device"] == "cpu"
            assert attributes["onnxplan.plan.inputs"] == (f"x: {list(shape)}", f"y: {list(shape)}")
            assert spans["run sums"].instrumentation_scope.name == "onnxplan"
            assert spans["run sums"].status.status_code is StatusCode.UNSET


def test_the_load_is_a_span_with_its_plan(exporter):
    memory, _ = exporter
    onnxplan.InferenceSession(product_model()).close()
    spans = {span.name: span for span in memory.get_finished_spans()}
    assert set(spans) == {"load g", "plan g", "compile g"}
    assert spans["plan g"].parent.span_id == spans["load g"].context.span_id
    assert spans["compile g"].attributes["onnxplan.plan.steps"] == 1


def test_spans_say_what_failed(exporter):
    memory, _ = exporter
    with onnxplan.InferenceSession(product_model()) as session:
        memory.clear()
        with pytest.raises(onnxplan.InvalidFeedsError):
            session.run_sync({"a": A})
    (span,) = memory.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "onnxplan.compiler.errors.InvalidFeedsError"
    assert [event.name for event in span.events] == ["exception"]


def test_cancelled_runs_are_no_errors(exporter):
    memory, _ = exporter

    async def main():
        async with onnxplan.InferenceSession(long_model()) as session:
            memory.clear()
            task = asyncio.create_task(session.run({"x": np.ones((EXTENT, EXTENT), np.float32)}))
            while not session._running:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    (span,) = memory.get_finished_spans()
    assert span.attributes["onnxplan.cancelled"] is True
    assert span.status.status_code is StatusCode.UNSET
