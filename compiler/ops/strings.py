"""Operators on strings. Strings have no kernels: what they compute is known when a run is planned."""

from __future__ import annotations

import functools
import re

import numpy as np

from onnxplan.compiler.arrangement import broadcast_shapes
from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.re2 import python_pattern
from onnxplan.compiler.registry import operator
from onnxplan.compiler.view import View


def _require_strings(*views: View) -> None:
    for view in views:
        if view.dtype is not DType.STRING:
            raise TypeError(f"strings are expected, not {view.dtype}")


@operator("StringConcat", since=20)
def string_concat(b: Builder, node: Node, x: View, y: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__StringConcat.html"""
    _require_strings(x, y)
    shape = broadcast_shapes([x.shape, y.shape])
    left, right = (np.broadcast_to(b.value(view), shape) for view in (x, y))
    joined = [a + c for a, c in zip(left.reshape(-1).tolist(), right.reshape(-1).tolist(), strict=True)]
    return b.constant(np.array(joined, object).reshape(shape))


@operator("StringSplit", since=20)
def string_split(b: Builder, node: Node, x: View) -> list[View]:
    """https://onnx.ai/onnx/operators/onnx__StringSplit.html

    As in Python and the reference, the empty string split at a delimiter is one empty string, and white space
    is all of Unicode's; onnxruntime counts no string there, and splits at blanks only. A negative
    ``maxsplit`` is no limit.
    """
    _require_strings(x)
    delimiter = node.string("delimiter", "") or None
    limit = node.integer("maxsplit", -1)
    parts = [_split(text, delimiter, limit) for text in b.value(x).reshape(-1).tolist()]
    counts = np.array([len(items) for items in parts], np.int64)
    width = int(counts.max(initial=0))
    texts = np.full((len(parts), width), "", object)
    for row, items in zip(texts, parts, strict=True):
        row[: len(items)] = items
    return [b.constant(texts.reshape(*x.shape, width)), b.constant(counts.reshape(x.shape))]


def _split(text: str, delimiter: str | None, limit: int) -> list[str]:
    # White space at the end is no part of the rest that the limit leaves, says the standard, unlike Python.
    return (text.rstrip() if delimiter is None else text).split(delimiter, max(limit, -1))


@operator("RegexFullMatch", since=20)
def regex_full_match(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__RegexFullMatch.html

    Patterns of RE2 are translated for Python's ``re`` (:mod:`onnxplan.compiler.ops.re2`).
    """
    _require_strings(x)
    pattern = _compiled(node.string("pattern", ""))
    found = [pattern.fullmatch(text) is not None for text in b.value(x).reshape(-1).tolist()]
    return b.constant(np.array(found, bool).reshape(x.shape))


@functools.lru_cache(maxsize=64)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(python_pattern(pattern))


@operator("StringNormalizer", since=10)
def string_normalizer(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__StringNormalizer.html

    Elements that are stop words go, then the case of the others changes. Accents and empty strings stay, as
    in onnxruntime. Letters change their case by Unicode's rules (``straße`` is ``STRASSE``), with the
    dotless i where ``locale`` is Turkish or Azerbaijani; no locale need be installed.
    """
    _require_strings(x)
    if x.rank not in (1, 2) or (x.rank == 2 and x.shape[0] != 1):
        raise ValueError(f"strings of shape [C] or [1, C] are expected, not {list(x.shape)}")
    action = node.string("case_change_action", "NONE")
    if action not in ("NONE", "LOWER", "UPPER"):
        raise ValueError(f"case_change_action {action!r} is not one of NONE, LOWER and UPPER")
    language = re.split("[-_.@]", node.string("locale", ""))[0].lower()
    stop_words = set(node.strings("stopwords", ()))
    words = b.value(x).reshape(-1).tolist()
    if node.integer("is_case_sensitive", 0):
        kept = [word for word in words if word not in stop_words]
    else:
        stop_words = {_cased(word, "LOWER", language) for word in stop_words}
        kept = [word for word in words if _cased(word, "LOWER", language) not in stop_words]
    texts = np.array([_cased(word, action, language) for word in kept] or [""], object)
    return b.constant(texts if x.rank == 1 else texts.reshape(1, -1))


def _cased(word: str, action: str, language: str) -> str:
    """``word`` in lower or upper case.

    Source: https://www.unicode.org/Public/UCD/latest/ucd/SpecialCasing.txt for Turkish and Azerbaijani.
    """
    dotless = language in ("tr", "az")
    if action == "LOWER":
        if dotless:
            word = word.replace("I\u0307", "i").replace("İ", "i").replace("I", "\u0131")
        return word.lower()
    if action == "UPPER":
        return (word.replace("i", "İ") if dotless else word).upper()
    return word
