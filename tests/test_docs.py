"""What the documents say is true."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import onnxplan
from bench import figures
from examples.demo import reference_model
from tests.document_code import FENCE

ROOT = Path(__file__).parent.parent
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))]


def words(document: str) -> set[str]:
    return set(re.findall(r"\w+", (ROOT / document).read_text(encoding="utf-8")))


def test_the_example_of_the_readme_runs(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    onnx.save(reference_model(), tmp_path / "model.onnx")
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    (printed,) = re.findall(r"it prints `(.*?)`", text)
    assert result.stdout.split() == printed.split()


def test_the_reference_names_all_that_is_public():
    missing = {name for name in onnxplan.__all__ if not name.startswith("_")} - words("docs/api.md")
    for kind in (onnxplan.InferenceSession, onnxplan.Tensor):
        missing |= {name for name in dir(kind) if not name.startswith("_")} - words("docs/api.md")
    assert not missing


def test_the_site_has_every_page_and_every_public_name():
    index = (ROOT / "docs" / "index.rst").read_text(encoding="utf-8").split()
    assert {path.stem for path in ROOT.glob("docs/*.md")} | {"reference"} <= set(index)
    described = re.findall(r"^\.\. auto\w+:: (\w+)$", (ROOT / "docs" / "reference.rst").read_text(), re.M)
    assert set(described) == {name for name in onnxplan.__all__ if not name.startswith("_")}


@pytest.mark.parametrize("name", [name for name in onnxplan.__all__ if not name.startswith("_")])
def test_public_names_and_their_members_are_described(name):
    public = getattr(onnxplan, name)
    assert (public.__doc__ or "").strip()
    if isinstance(public, type):
        fields = (
            {field.name for field in dataclasses.fields(public)} if dataclasses.is_dataclass(public) else ()
        )
        members = {
            member: inspect.getattr_static(public, member)
            for kind in public.__mro__
            if kind.__module__.startswith("onnxplan")
            for member in vars(kind)
            if not member.startswith("_") and member not in fields
        }
        assert [member for member, value in members.items() if not (value.__doc__ or "").strip()] == []


def test_the_readme_leads_to_every_page():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {path.name for path in ROOT.glob("docs/*.md")} == set(re.findall(r"\(docs/([\w-]+\.md)\)", text))


def test_figures_are_those_of_records():
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    records = [json.loads(path.read_text()) for path in figures.RESULTS.glob("*.json")]
    for suite, title, _ in figures.SUITES:
        (section,) = re.findall(rf"^## {title}$(.*?)^(?:## |<!--)", text, re.M | re.S)
        tables = (
            figures.suite_table(record)
            for record in records
            if record["suite"] == suite and record["commit"] in section
        )
        assert any("\n".join(table) in section for table in tables), suite


def test_the_reference_names_all_environment_variables():
    used = set()
    for room in ("onnxplan", "compiler", "kernels", "runtime"):
        for path in (ROOT / room).rglob("*.py"):
            used |= set(re.findall(r"\"(ONNXPLAN_[A-Z0-9_]*[A-Z])\"", path.read_text(encoding="utf-8")))
    assert used == {word for word in words("docs/api.md") if word.startswith("ONNXPLAN_")}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_paths_lead_somewhere(document):
    path = ROOT / document
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("https://"):
            assert (path.parent / target).exists(), target
    for name in re.findall(
        r"`((?:compiler|kernels|runtime|onnxplan|bench|catalogue|tests|docs|examples)/[\w/.]*)`", text
    ):
        # Folders that benchmarks make exist once they ran.
        assert (ROOT / name).exists() or name.startswith("bench/results"), name


def test_modules_that_the_readme_runs_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    modules = re.findall(r"python -m (bench\.\w+)", text)
    assert modules
    for module in modules:
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in DOCUMENTS:
        for target in re.findall(r"`?\bmake ([a-z-]+)\b`", (ROOT / name).read_text(encoding="utf-8")):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
