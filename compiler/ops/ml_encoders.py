"""Operators of ai.onnx.ml that map categories to numbers, numbers to categories, or either to ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import scalar_map
from onnxplan.compiler.ops.ml_common import DOMAIN, labels_at, pick
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, apply, cast, select
from onnxplan.compiler.view import View

_KINDS = {"floats": np.float32, "int64s": np.int64, "strings": object}


@operator("LabelEncoder", domain=DOMAIN)
def label_encoder_of_strings(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx_aionnxml_LabelEncoder.html#labelencoder-1

    Strings to their positions among the classes, or positions to strings.
    """
    return _mapped_strings(b, node, x, "classes_strings", None)


@operator("CategoryMapper", domain=DOMAIN)
def category_mapper(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx_aionnxml_CategoryMapper.html"""
    return _mapped_strings(b, node, x, "cats_strings", "cats_int64s")


def _mapped_strings(b: Builder, node: Node, x: View, strings: str, numbers: str | None) -> View:
    """Strings to numbers, or numbers to strings: whichever ``x`` does not hold."""
    words = np.array(node.strings(strings, ()), object)
    count = len(words)
    codes = np.array(node.integers(numbers, ()), np.int64) if numbers else np.arange(count)
    if len(codes) != count:
        raise ValueError(f"{numbers} has {len(codes)} elements, {strings} {count}")
    if x.dtype is DType.STRING:
        return _lookup(b, x, words, codes, np.int64(node.integer("default_int64", -1)))
    if x.dtype is DType.INT64:
        return _lookup(b, x, codes, words, node.string("default_string", "_Unused"))
    raise TypeError(f"strings or int64 are expected, not {x.dtype}")


@operator("LabelEncoder", since=2, domain=DOMAIN)
def label_encoder(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx_aionnxml_LabelEncoder.html

    Of equal keys the last one counts; NaN is equal to NaN. Numbers are found by binary search.
    """
    keys, _ = _table(node, "keys")
    values, kind = _table(node, "values")
    if len(keys) != len(values):
        raise ValueError(f"{len(keys)} keys for {len(values)} values")
    dtype = DType.from_numpy(keys.dtype)
    if x.dtype is not dtype:
        raise TypeError(f"the input is {x.dtype}, the keys are {dtype}")
    return _lookup(b, x, keys, values, _default(node, values, kind))


def _table(node: Node, name: str) -> tuple[npt.NDArray[Any], str]:
    """Keys or values, and the kind of attribute that gives them."""
    found = [kind for kind in (*_KINDS, "tensor") if f"{name}_{kind}" in node.attributes]
    if len(found) != 1:
        raise ValueError(f"one of the attributes {name}_* is expected, not {len(found)}")
    kind = found[0]
    attribute = f"{name}_{kind}"
    if kind == "tensor":
        return node.tensor(attribute).reshape(-1), kind
    if kind == "strings":
        return np.array(node.strings(attribute), object), kind
    return np.array(node.attributes[attribute], _KINDS[kind]), kind


def _default(node: Node, values: npt.NDArray[Any], kind: str) -> Any:
    if kind == "tensor" and "default_tensor" in node.attributes:
        default = node.tensor("default_tensor").reshape(-1)
        if len(default) != 1 or default.dtype != values.dtype:
            raise ValueError("default_tensor is not one element of the type of values_tensor")
        return default[0]
    if values.dtype == object:
        return node.string("default_string", "_Unused")
    if values.dtype.kind in "iu":
        return values.dtype.type(node.integer("default_int64", -1) if kind == "int64s" else -1)
    return values.dtype.type(node.float("default_float", -0.0) if kind == "floats" else -0.0)


def _lookup(b: Builder, x: View, keys: npt.NDArray[Any], values: npt.NDArray[Any], default: Any) -> View:
    """``values`` where ``x`` holds ``keys``, ``default`` elsewhere."""
    table = np.append(values, np.array([default], values.dtype))
    if x.dtype is DType.STRING:
        places = {key: place for place, key in enumerate(keys.tolist())}
        found = [places.get(item, len(keys)) for item in b.value(x).reshape(-1).tolist()]
        return b.constant(table[np.array(found, np.int64).reshape(x.shape)])
    return labels_at(b, table, key_positions(b, x, keys))


def key_positions(b: Builder, x: View, keys: npt.NDArray[Any]) -> View:
    """For each number of ``x`` its position (int64) in ``keys``, the last one; their count if it is none."""
    count = len(keys)
    missing = keys != keys
    nothing = int(np.flatnonzero(missing)[-1]) if missing.any() else count
    ordered, last = np.unique(keys[::-1][~missing[::-1]], return_index=True)
    if len(ordered) == 0:
        return scalar_map(b, _absent, x, parameters=(nothing, count))
    places = np.flatnonzero(~missing)[::-1][last]
    # Filled up to a power of two by the last key, so that each step of the search stays inside.
    steps = (len(ordered) - 1).bit_length()
    filling = (0, 2**steps - len(ordered))
    sorted_keys = b.constant(np.pad(ordered, filling, "edge"), x.dtype)
    position = b.constant(0, DType.INT64).expand(x.shape)
    for step in reversed(range(steps)):
        ahead = scalar_map(b, _ahead, position, parameters=(2**step,))
        position = scalar_map(b, _advanced, x, pick(b, sorted_keys, ahead), position, ahead)
    key = pick(b, sorted_keys, position)
    place = pick(b, b.constant(np.pad(places, filling, "edge"), DType.INT64), position)
    return scalar_map(b, _found, x, key, place, parameters=(nothing, count))


def _ahead(*operands: Any) -> Scalar:
    position, step = operands
    result: Scalar = position + step
    return result


def _advanced(x: Scalar, key: Scalar, position: Scalar, ahead: Scalar) -> Scalar:
    return select(key <= x, ahead, position)


def _found(*operands: Any) -> Scalar:
    x, key, place, nothing, count = operands
    result: Scalar = select(apply("equal", x, key), place, count)
    if x.dtype.is_float:
        result = select(apply("isnan", x), nothing, result)
    return result


def _absent(*operands: Any) -> Scalar:
    x, nothing, count = operands
    result: Scalar = cast(apply("not_equal", x, x), DType.INT64) * (nothing - count) + count
    return result


@operator("OneHotEncoder", domain=DOMAIN)
def one_hot_encoder(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx_aionnxml_OneHotEncoder.html

    float32 of shape ``(*x.shape, categories)``; of equal categories the last one counts. Without ``zeros`` a
    run ends a stage, to look for elements that are none of the categories.
    """
    if x.dtype is DType.STRING:
        words = node.strings("cats_strings", ())
        places = {word: place for place, word in enumerate(words)}
        items = [places.get(item, -1) for item in b.value(x).reshape(-1).tolist()]
        x, categories = b.constant(np.array(items, np.int64).reshape(x.shape)), np.arange(len(words))
    elif x.dtype.kind in "fiu":
        x, categories = b.cast(x, DType.INT64), np.array(node.integers("cats_int64s", ()), np.int64)
    else:
        raise TypeError(f"numbers or strings are expected, not {x.dtype}")
    count = len(categories)
    if count == 0:
        raise ValueError("there are no categories of the type of the input")
    last = np.array([category not in categories[place + 1 :] for place, category in enumerate(categories)])
    spread = x.unsqueeze((x.rank,))
    result = scalar_map(b, _one, spread, b.constant(categories, DType.INT64), b.constant(last))
    if not node.integer("zeros", 1) and x.size:
        found = b.reduce("max", result, (x.rank,), keepdims=False)
        if not b.value(b.reduce("min", found, tuple(range(x.rank)), keepdims=False)).all():
            raise ValueError("an element is none of the categories, and zeros is 0")
    return result


def _one(x: Scalar, category: Scalar, counts: Scalar) -> Scalar:
    return cast(apply("and", apply("equal", x, category), counts), DType.FLOAT32)
