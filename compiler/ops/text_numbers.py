"""Numbers as texts and texts as numbers, as Cast converts them."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.scalar import convert

Array = npt.NDArray[Any]

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_SPECIAL = re.compile(r"[+-]?(?:inf|infinity|nan)", re.IGNORECASE)

_LARGEST_EXPONENT = 400
"""Integers are read from texts of at most so many digits: none has as many as the largest float."""


def texts_of(numbers: Array) -> Array:
    """``numbers`` as an array of ``str`` of the same shape, written as onnxruntime writes them.

    Floats of all types have up to eight significant digits, without zeros at the end and with an exponent
    where it is below -4 or above 7 (C's ``%.8g``): ``0.1``, ``1234567``, ``1e+20``. Others are ``NaN``,
    ``INF`` and ``-INF``. Booleans are ``1`` and ``0``. The standard asks for "plain floating-point
    representation (such as "314.15926")" and says no more.
    """
    dtype = DType.from_numpy(numbers.dtype)
    if dtype.is_float:
        texts = [_float_text(number) for number in numbers.astype(np.float64).reshape(-1).tolist()]
    else:
        texts = [str(int(number)) for number in numbers.reshape(-1).tolist()]
    result: Array = np.array(texts, object).reshape(numbers.shape)
    return result


def _float_text(number: float) -> str:
    if number != number:
        return "NaN"
    if number in (np.inf, -np.inf):
        return "INF" if number > 0 else "-INF"
    return f"{number:.8g}"


def numbers_of(texts: Array, dtype: DType) -> Array:
    """``texts`` (``str``) read as numbers that a conversion to ``dtype`` takes on: float64, int64 or uint64.

    Plain and scientific notation in ASCII digits, and in any case ``INF``, ``infinity`` and ``NaN``, with
    white space around them. Integers are cut from fractions towards zero, and their bits to the width of
    ``dtype``. Raises ``ValueError`` that names the text for anything else.
    """
    items = texts.reshape(-1).tolist()
    if not dtype.is_integer:
        return np.array([_float(text) for text in items], np.float64).reshape(texts.shape)
    wrapped = [_integer(text) & (2**64 - 1) for text in items]
    numbers = np.array(wrapped, np.uint64).reshape(texts.shape)
    return numbers if dtype.kind == "u" else convert(numbers, DType.INT64)


def _float(text: str) -> float:
    plain = text.strip()
    if not _NUMBER.fullmatch(plain) and not _SPECIAL.fullmatch(plain):
        raise ValueError(f"the text {text!r} is no number")
    return float(plain)


def _integer(text: str) -> int:
    plain = text.strip()
    if not _NUMBER.fullmatch(plain):
        raise ValueError(f"the text {text!r} is no integer")
    number = Decimal(plain)
    if number.adjusted() > _LARGEST_EXPONENT:
        raise ValueError(f"the text {text!r} is out of the range of integers")
    return int(number)
