"""All code in the documents runs, and prints what they say."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.document_code import ROOT, blocks, commands, differs, prepare, run_command, run_python, updated

DOCUMENTS = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))]
LANGUAGES = {"python", "console", "text"}


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def documents_with(language: str) -> list[str]:
    return [name for name in DOCUMENTS if any(block.language == language for block in blocks(read(name)))]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_blocks_say_what_they_are(document):
    text = read(document)
    found = blocks(text)
    assert 2 * len(found) == len(re.findall(r"^ *```", text, re.MULTILINE)), "a fence is not closed"
    for block in found:
        assert block.language in LANGUAGES, f"line {block.line}: {block.language!r}"


@pytest.mark.parametrize("document", documents_with("python"))
def test_python_runs_and_prints_what_is_written(document, tmp_path):
    prepare(tmp_path)
    code = [block for block in blocks(read(document)) if block.language == "python"]
    for block, printed in zip(code, run_python(document, code, tmp_path), strict=True):
        if block.output is not None:
            difference = differs(block.output.text, printed)
            assert difference is None, f"{document}, line {block.line}\n{difference}"


def installs(command: str) -> None:
    """``pip install 'onnxplan[extra]'``: the extra exists."""
    project = tomllib.loads(read("pyproject.toml"))["project"]
    requirements = shlex.split(command)[2:]
    assert requirements, command
    for requirement in requirements:
        name, _, extras = requirement.partition("[")
        assert name in ("onnxplan", ".")
        for extra in filter(None, extras.rstrip("]").split(",")):
            assert extra in project["optional-dependencies"], extra


def makes(command: str) -> None:
    """``make target``: the target exists."""
    target = command.split()[1]
    assert re.search(rf"^{re.escape(target)}:", read("Makefile"), re.MULTILINE), target


def imports(command: str) -> None:
    """``python -m module`` that takes minutes or serves: the module exists."""
    module = command.split()[2]
    assert importlib.util.find_spec(module) is not None, module


def requests(command: str) -> None:
    """``curl`` to the example: the service has that route."""
    from examples.search_service import create_app

    (path,) = re.findall(r"localhost:\d+(/[\w/]*)", command)
    app = create_app(lambda: pytest.fail("nothing is loaded before it starts"))
    assert path in {route.path for route in app.routes}


CHECKS = {
    r"pip install ": installs,
    r"make ": makes,
    r"python -m (bench|examples|pytest|tests)\b": imports,
    r"curl ": requests,
}
"""What is not executed: commands that install, take minutes, or go on until they are stopped."""


@pytest.mark.parametrize("document", documents_with("console"))
def test_commands_work(document, tmp_path):
    prepare(tmp_path)
    for block in blocks(read(document)):
        if block.language != "console":
            continue
        printed = ""
        for command in commands(block):
            check = next((check for pattern, check in CHECKS.items() if re.match(pattern, command)), None)
            if check is None:
                printed += run_command(command, tmp_path)
            else:
                check(command)
        if block.output is not None and printed:
            difference = differs(block.output.text, printed)
            assert difference is None, f"{document}, line {block.line}\n{difference}"


# The machinery itself

SAMPLE = """
Text.

```python
value = 6 * 7
print(value, "\\n...")
```

```text
41
```

```python
print(value + 1)
```

Not output of the block above:

```text
44
```
"""


def test_outputs_stand_right_behind_their_block():
    first, second, third, fourth = blocks(SAMPLE)
    assert (first.language, first.line, first.output) == ("python", 4, second)
    assert (third.language, third.output, fourth.text) == ("python", None, "44\n")


def test_wrong_outputs_are_found_and_corrected(tmp_path):
    (printed, _) = run_python("sample", [b for b in blocks(SAMPLE) if b.language == "python"], tmp_path)
    assert printed == "42 \n...\n"
    assert "- 41" in differs("41\n", printed)
    assert differs("4...\n", printed) is None
    assert updated("sample", SAMPLE, tmp_path) == SAMPLE.replace("41\n", "42\n...\n")


def test_code_that_fails_says_where(tmp_path):
    (block,) = blocks("\n\n```python\nprint(1 / 0)\n```\n")
    with pytest.raises(RuntimeError, match=r"sample, block in line 3(.|\n)*ZeroDivisionError"):
        run_python("sample", [block], tmp_path)
    with pytest.raises(RuntimeError, match="exit status 3"):
        run_command("exit 3", tmp_path)
    (block,) = blocks("```console\nls\n```\n")
    with pytest.raises(ValueError, match="commands begin"):
        list(commands(block))


def test_the_tool_rewrites_a_document(tmp_path):
    path = tmp_path / "sample.md"
    path.write_text(SAMPLE)
    subprocess.run([sys.executable, "-m", "tests.document_code", str(path)], cwd=ROOT, check=True)
    assert "42\n...\n" in path.read_text()
    assert Path(path).read_text() == SAMPLE.replace("41\n", "42\n...\n")
