"""Sessions report to observers, and know nothing of them where there are none."""

import asyncio
import inspect
import pickle
import subprocess
import sys
import textwrap
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from face_models import EXTENT, A, B, C, long_model, product_model, sums_model

import onnxplan
from onnxplan import observers

ROOT = Path(__file__).parents[2]


class Recorder:
    """Keeps operations in the order in which they end, with what ended them."""

    def __init__(self):
        self.operations = []
        self.errors = []
        self.sessions = []
        self.open = 0

    def opened(self, session):
        self.sessions.append(session.name)

    @contextmanager
    def observe(self, operation):
        self.open += 1
        try:
            yield
        except BaseException as error:
            self.errors.append((operation.kind, type(error).__name__))
            raise
        finally:
            self.open -= 1
            self.operations.append(operation)

    @property
    def kinds(self):
        return [operation.kind for operation in self.operations]


@pytest.fixture
def recorder():
    observer = Recorder()
    with onnxplan.instrument(observer):
        yield observer
    assert observers.active == ()
    assert observer.open == 0


def test_a_session_reports_what_it_does(recorder, tmp_path):
    onnx.save(product_model(), tmp_path / "product.onnx")
    with onnxplan.InferenceSession(tmp_path / "product.onnx") as session:
        assert recorder.kinds == ["plan", "compile", "load"]
        for _ in range(3):
            np.testing.assert_array_equal(session.run_sync({"a": A, "b": B})["c"], C)
        np.testing.assert_array_equal(asyncio.run(session.run({"a": A, "b": B}))["c"], C)
    assert recorder.kinds == ["plan", "compile", "load", *["run"] * 4]
    assert recorder.sessions == ["product"]
    assert {operation.session for operation in recorder.operations} == {"product"}
    assert {operation.device for operation in recorder.operations} == {"cpu"}
    plan, compiled, _, *runs = recorder.operations
    assert plan.attributes == {"onnxplan.plan.inputs": ["a: [3, 4]", "b: [4, 3]"], "onnxplan.plan.stage": 0}
    assert compiled.attributes["onnxplan.plan.steps"] == 1
    assert [run.attributes["onnxplan.run.async"] for run in runs] == [False, False, False, True]


def test_new_shapes_are_planned_within_their_run(recorder):
    with onnxplan.InferenceSession(sums_model(), name="sums") as session:
        assert recorder.kinds == ["load"]
        for rows in (2, 5, 2):
            x = np.ones((rows, 3), np.float32)
            session.run_sync({"x": x, "y": x})
    assert recorder.kinds == ["load", "plan", "compile", "run", "plan", "compile", "run", "run"]
    assert recorder.sessions == ["sums"]


@pytest.mark.parametrize("asynchronous", [True, False])
def test_errors_pass_through_observers(recorder, asynchronous):
    with onnxplan.InferenceSession(product_model()) as session:
        run = (lambda feeds: asyncio.run(session.run(feeds))) if asynchronous else session.run_sync
        with pytest.raises(onnxplan.InvalidFeedsError, match="b"):
            run({"a": A})
        assert session.in_flight == 0
    assert recorder.errors == [("run", "InvalidFeedsError")]


def test_a_model_that_cannot_be_read_is_an_error_of_its_load(recorder, tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(onnxplan.InvalidModelError):
        onnxplan.InferenceSession(tmp_path / "broken.onnx")
    assert recorder.errors == [("load", "InvalidModelError")]
    assert recorder.sessions == []


def test_waiting_runs_are_queued_and_cancelled_ones_reported(recorder):
    feeds = {"x": np.ones((EXTENT, EXTENT), np.float32)}

    async def main():
        async with onnxplan.InferenceSession(long_model(), max_concurrency=1) as session:
            tasks = [asyncio.create_task(session.run(feeds)) for _ in range(3)]
            while not session._running:
                await asyncio.sleep(0)
            seen = session.in_flight, session.queued
            tasks[2].cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            return seen, results, (session.in_flight, session.queued)

    seen, results, after = asyncio.run(main())
    assert seen == (3, 2)
    assert after == (0, 0)
    assert isinstance(results[2], asyncio.CancelledError)
    assert recorder.errors == [("run", "CancelledError")]


def test_observed_sessions_pickle_as_plain_ones(recorder):
    with onnxplan.InferenceSession(product_model().SerializeToString(), name="product") as session:
        copied = pickle.dumps(session)
    with pickle.loads(copied) as again:
        assert again.name == "product"
    assert recorder.sessions == ["product", "product"]
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            "import pickle, sys; session = pickle.load(sys.stdin.buffer);"
            "print(type(session).__mro__[0].__module__, 'onnxplan.observed' in sys.modules)",
        ],
        input=copied,
        capture_output=True,
        check=True,
    )
    assert result.stdout.decode().split() == ["onnxplan.session", "False"]


def test_subclasses_and_artifacts_are_observed(recorder, tmp_path):
    class Own(onnxplan.InferenceSession):
        pass

    onnxplan.compile(product_model(), tmp_path / "product.plan")
    with Own(tmp_path / "product.plan") as session:
        assert isinstance(session, Own)
        np.testing.assert_array_equal(session.run_sync({"a": A, "b": B})["c"], C)
    assert recorder.kinds == ["plan", "compile", "load", "run"]


def test_runs_in_place_of_onnxruntime_are_observed(recorder):
    import onnxplan.onnxruntime as ort

    session = ort.InferenceSession(product_model().SerializeToString(), providers=["CPUExecutionProvider"])
    for _ in range(3):
        np.testing.assert_array_equal(session.run(None, {"a": A, "b": B})[0], C)
    assert recorder.kinds == ["plan", "compile", "load", "run", "run", "run"]


def test_the_signature_of_sessions_is_that_of_their_options():
    parameters = inspect.signature(onnxplan.InferenceSession).parameters
    assert {"model", "device", "name"} <= parameters.keys()


def test_threads_may_run_at_once(recorder):
    with onnxplan.InferenceSession(product_model()) as session:

        def work():
            for _ in range(50):
                session.run_sync({"a": A, "b": B})

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert session.in_flight == 0
    assert recorder.kinds.count("run") == 200


def test_sessions_are_observed_from_instrument_to_close():
    observer = Recorder()
    with onnxplan.InferenceSession(product_model()) as before:
        instrumentation = onnxplan.instrument(observer)
        before.run_sync({"a": A, "b": B})
    instrumentation.close()
    instrumentation.close()
    with onnxplan.InferenceSession(product_model()) as after:
        after.run_sync({"a": A, "b": B})
        assert type(after) is onnxplan.InferenceSession
    assert observer.operations == []


@pytest.mark.parametrize(
    ("arguments", "options", "error", "match"),
    [
        ((), {}, ValueError, "asked for nothing"),
        ((object(),), {}, TypeError, "opened and observe"),
        ((), {"prometheus": 3}, TypeError, "CollectorRegistry"),
        ((), {"opentelemetry": "x"}, TypeError, "TracerProvider"),
    ],
)
def test_what_is_no_observer_is_refused(arguments, options, error, match):
    with pytest.raises(error, match=match):
        onnxplan.instrument(*arguments, **options)
    assert observers.active == ()


@pytest.mark.parametrize(
    ("option", "package", "extra"),
    [("prometheus", "prometheus_client", "metrics"), ("opentelemetry", "opentelemetry", "tracing")],
)
def test_a_missing_library_is_named(option, package, extra):
    code = f"""
    import sys
    sys.modules[{package!r}] = None
    import onnxplan
    try:
        onnxplan.instrument({option}=True)
    except ImportError as error:
        print(error)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert f"pip install 'onnxplan[{extra}]'" in result.stdout


def test_without_observers_nothing_is_imported_or_called():
    """Counts the functions of the modules of observation that run in a session's life: one, at its start."""
    code = """
    import asyncio, sys
    import numpy as np
    import onnxplan
    from examples.demo import reference_model

    calls = []
    def watch(frame, event, argument):
        name = frame.f_globals.get("__name__", "")
        if event == "call" and name in ("onnxplan.observers", "onnxplan.observed", "onnxplan.metrics"):
            calls.append(frame.f_code.co_name)

    onnxplan.InferenceSession
    sys.setprofile(watch)
    session = onnxplan.InferenceSession(reference_model())
    feeds = {"a": np.ones((3, 4), np.float32), "b": np.ones((4, 3), np.float32)}
    for _ in range(5):
        session.run_sync(feeds)
        asyncio.run(session.run(feeds))
    session.close()
    sys.setprofile(None)
    heavy = ("onnxplan.observed", "onnxplan.instrumentation", "onnxplan.metrics", "onnxplan.tracing",
             "prometheus_client", "opentelemetry")
    print(calls, [name for name in heavy if name in sys.modules])
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip() == "['observe'] []"
