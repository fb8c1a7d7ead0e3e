"""The page of a report in headless Chromium, where that is installed."""

import dataclasses
import re
import shutil
import subprocess

import pytest
from face_models import model, node, value

import onnxplan
from onnxplan.report import render
from onnxplan.report.collecting import collect_plans

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr", "--virtual-time-budget=4000", "--dump-dom",
]  # fmt: skip
STEPS = 5000

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A plan of one step, repeated: a chain of 5,000 steps, in two stages."""
    proto = model([node("Softmax", "x", "y", name="soft")], [value("x", [4, 4])], ["y"])
    with onnxplan.InferenceSession(proto, threads=1) as session:
        plan = session.plan()
    (step,) = plan.steps
    large = dataclasses.replace(plan, steps=(step,) * STEPS)
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(render(collect_plans("large.onnx", [large, plan], {"soft": "Softmax"}, [None, None])))
    return file


def show(page, folder, view, width=1200):
    """The document after the page's scripts ran; fails on messages on the console."""
    command = [
        CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900",
        f"{page.as_uri()}#{view}",
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in run.stderr, run.stderr
    return run.stdout


@pytest.mark.parametrize("view", ["graph", "memory", "time", "roofline"])
def test_views_of_5000_steps_are_drawn_without_errors(page, tmp_path, view):
    document = show(page, tmp_path, view)
    assert re.search(rf'id="tab-{view}"[^>]*aria-selected="true"', document)
    assert "5,000" in document
    assert "<canvas" in document
    assert document.count("<option") == 2


def test_tables_hold_only_the_rows_in_sight(page, tmp_path):
    document = show(page, tmp_path, "steps")
    assert f'aria-rowcount="{STEPS + 1}"' in document
    assert 5 < document.count('role="row"') < 100


def test_nodes_say_what_they_became(page, tmp_path):
    assert "computed by steps" in show(page, tmp_path, "nodes", width=400)


def test_scripts_that_the_policy_does_not_name_are_refused(page, tmp_path):
    """The policy is at work, and messages on the console are seen."""
    changed = tmp_path / "changed.html"
    changed.write_text(
        page.read_text().replace("</body>", "<script>document.title = 'changed'</script></body>")
    )
    with pytest.raises(AssertionError, match="Content Security Policy"):
        show(changed, tmp_path, "graph")


def test_the_policy_forbids_connections_and_nothing_is_linked(page):
    text = page.read_text()
    assert "default-src 'none'" in text
    assert not re.search(r'(?:src|href)="(?!#|data:)', text)
