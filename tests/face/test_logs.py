"""The log that ``ONNXPLAN_LOG`` asks for, and what is in it."""

import asyncio
import io
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
from face_models import EXTENT, long_model, product_model
from rich.console import Console

import onnxplan
from onnxplan.cli import terminal
from onnxplan.logs import LOGGERS, parse_levels


def test_levels():
    assert parse_levels("info") == {"onnxplan": logging.INFO}
    assert parse_levels("INFO, store=debug,plan=Warning") == {
        "onnxplan": logging.INFO, "onnxplan.store": logging.DEBUG, "onnxplan.plan": logging.WARNING,
    }  # fmt: skip
    for text, part in (("loud", "'loud' is none of"), ("info,shop=debug", "'shop' is none of"), ("", "''")):
        with pytest.raises(ValueError, match=part):
            parse_levels(text)


def test_every_logger_is_known():
    """The names that the package's modules ask for are those that the variable takes."""
    import re
    from pathlib import Path

    root = Path(onnxplan.__file__).parent.parent
    found = {
        name
        for room in ("onnxplan", "runtime", "compiler", "kernels")
        for path in (root / room).rglob("*.py")
        for name in re.findall(r'getLogger\("onnxplan\.(\w+)"\)', path.read_text())
    }
    assert found == set(LOGGERS)


def run(levels, code, tmp_path):
    environment = {**os.environ, "ONNXPLAN_LOG": levels, "ONNXPLAN_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout == ""
    return done.stderr


def test_the_variable_shows_messages(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(product_model().SerializeToString())
    code = f"import onnxplan; onnxplan.InferenceSession({str(path)!r})"
    shown = run("info,compile=debug", code, tmp_path)
    assert "INFO onnxplan.plan: planned stage 0" in shown
    assert "INFO onnxplan.compile: compiling" in shown
    # By this process or by the one beside it.
    assert "compiled matmul" in shown
    assert "DEBUG onnxplan.store" not in shown
    again = run("debug", code, tmp_path)
    assert "compiled matmul" not in again
    assert "kernels came from the store" in again
    assert run("error", code, tmp_path) == ""
    assert "'loud' is none of" in run("loud", "import onnxplan", tmp_path)


def test_nothing_is_shown_without_it(tmp_path):
    assert run("", "import onnxplan", tmp_path) == ""


def test_cancelled_runs(caplog):
    caplog.set_level(logging.INFO, "onnxplan.run")

    async def go():
        x = np.ones((EXTENT, EXTENT), np.float32)
        with onnxplan.InferenceSession(long_model(400), threads=1) as session:
            task = asyncio.create_task(session.run({"x": x}))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(go())
    assert any("a run was cancelled" in record.getMessage() for record in caplog.records)


@pytest.fixture
def screen(monkeypatch):
    """Standard error, as a terminal of its own."""
    file = io.StringIO()
    made = Console(file=file, force_terminal=True, width=100)
    monkeypatch.setattr(terminal, "console", lambda **_: made)
    monkeypatch.setattr(terminal, "QUIET_SECONDS", 3600.0)
    return file


def test_quick_loading_shows_nothing(screen):
    with terminal.compilation_bar() as loaded:
        loaded()
    assert "loading" not in screen.getvalue()


def test_long_loading_shows_a_bar_until_it_is_over(screen):
    with terminal.compilation_bar() as loaded:
        bar = loaded.__self__
        bar._show_loading()
        bar._bar.refresh()
        assert "loading and planning" in screen.getvalue()
        bar.report(0, 2)
        bar._bar.refresh()
        assert "compiling kernels" in screen.getvalue()
        bar.report(1, 2)
        bar.report(2, 2)
        assert bar._bar.finished
        loaded()
        length = len(screen.getvalue())
        bar._show_loading()
        assert len(screen.getvalue()) == length


def test_pipes_see_no_bar(capfd):
    with terminal.compilation_bar() as loaded:
        loaded()
    assert capfd.readouterr().err == ""
