"""Rules are registered by the import of their files."""

from __future__ import annotations

import importlib
import sys

import pytest

from onnxplan.compiler import registry

FAMILY = """
from onnxplan.compiler.registry import operator


@operator("Halve")
def halve(b, node, x):
    return x

"""


@pytest.fixture
def family(tmp_path, monkeypatch):
    """A file that registers a rule, and may do more then."""
    monkeypatch.setattr(registry, "_ENTRIES", {})
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(more=""):
        (tmp_path / "halving.py").write_text(FAMILY + more)
        importlib.invalidate_caches()

    yield write
    sys.modules.pop("halving", None)


def test_a_file_whose_import_was_interrupted_is_imported_again(family):
    family("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        importlib.import_module("halving")
    family("")
    module = importlib.import_module("halving")
    assert [entry.rule for entry in registry.entries()] == [module.halve]


def test_two_rules_for_one_version_are_refused(family):
    family("operator('Halve')(lambda b, node, x: x)")
    with pytest.raises(ValueError, match="operator Halve has two rules for version 1"):
        importlib.import_module("halving")
