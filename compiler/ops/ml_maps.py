"""Operators of ai.onnx.ml between tensors and maps, whose keys are known when planning."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import MapType, Node
from onnxplan.compiler.ops.ml_common import DOMAIN, class_labels, pick
from onnxplan.compiler.primitives import Gather
from onnxplan.compiler.registry import operator
from onnxplan.compiler.structures import MapRows, MapValue
from onnxplan.compiler.view import View


@operator("ZipMap", domain=DOMAIN)
def zip_map(b: Builder, node: Node, x: View) -> MapRows[View]:
    """https://onnx.ai/onnx/operators/onnx_aionnxml_ZipMap.html

    A map for each row of ``x (N, K)``, or for ``x (K,)``. As in onnxruntime, keys ascend, and of the columns
    of a key that repeats the last one counts.
    """
    labels = class_labels(node, "classlabels_int64s", "classlabels_strings")
    if x.dtype is not DType.FLOAT32:
        raise TypeError(f"scores are of type float32, not {x.dtype}")
    if x.rank not in (1, 2):
        raise ValueError(f"scores of shape {list(x.shape)}, where (N, K) is expected")
    rows = x if x.rank == 2 else x.unsqueeze((0,))
    if rows.shape[1] != len(labels) or not len(labels):
        raise ValueError(f"{len(labels)} keys for {rows.shape[1]} columns")
    column_of = {key: column for column, key in enumerate(labels.tolist())}
    keys = tuple(sorted(column_of))
    columns = [column_of[key] for key in keys]
    if columns != list(range(rows.shape[1])):
        shape = (rows.shape[0], len(columns))
        rows = b.emit(Gather(1), [rows, b.constant(np.array(columns))], [b.new(rows.dtype, shape)])[0]
    key = DType.STRING if labels.dtype == object else DType.INT64
    return MapRows(MapType(key, rows.dtype), keys, rows)


@operator("DictVectorizer", domain=DOMAIN)
def dict_vectorizer(b: Builder, node: Node, x: MapValue[View]) -> View:
    """https://onnx.ai/onnx/operators/onnx_aionnxml_DictVectorizer.html

    As in onnxruntime, a row ``(1, C)``, and keys that the vocabulary lacks are left out.
    """
    vocabulary = class_labels(node, "int64_vocabulary", "string_vocabulary")
    if not vocabulary.size:
        raise ValueError("there is no vocabulary")
    if (vocabulary.dtype == object) is not (x.type.key is DType.STRING):
        raise TypeError(f"the vocabulary is not of the keys' type {x.type.key}")
    places = {key: place for place, key in enumerate(x.keys)}
    positions = np.array([places.get(key, len(places)) for key in vocabulary.tolist()], np.int64)
    default = "" if x.type.value is DType.STRING else 0
    return _spread(b, x.values, positions, default)


@operator("CastMap", domain=DOMAIN)
def cast_map(b: Builder, node: Node, x: MapValue[View]) -> View:
    """https://onnx.ai/onnx/operators/onnx_aionnxml_CastMap.html

    A row ``(1, N)``. As in onnxruntime: numbers become texts of six decimals, floats are cut to integers,
    SPARSE takes keys from 0 on, leaves out those of ``max_map`` and above, and puts ``0.f`` between texts.
    """
    if x.type.key is DType.STRING:
        raise TypeError("keys are integers, not strings")
    values, default = _cast_values(b, x.values, node.string("cast_to", "TO_FLOAT"))
    form = node.string("map_form", "DENSE")
    if form == "DENSE":
        return values.unsqueeze((0,))
    if form != "SPARSE":
        raise ValueError(f"the form {form!r} is neither DENSE nor SPARSE")
    count = node.integer("max_map", 1)
    if count <= 0:
        raise ValueError(f"max_map is {count}")
    if x.keys and int(x.keys[0]) < 0:
        raise ValueError(f"the key {x.keys[0]} is no position in a tensor")
    positions = np.full(count, len(x.keys), np.int64)
    for place, key in enumerate(x.keys):
        if int(key) < count:
            positions[int(key)] = place
    return _spread(b, values, positions, default)


def _spread(b: Builder, values: View, positions: npt.NDArray[Any], default: Any) -> View:
    """The values at ``positions`` as a row; ``default`` where a position is behind the last one."""
    if positions.tolist() == list(range(values.size)):
        return values.unsqueeze((0,))
    table = b.concat([values, b.constant([default], values.dtype)], 0)
    return pick(b, table, b.constant(positions)).unsqueeze((0,))


def _cast_values(b: Builder, values: View, target: str) -> tuple[View, Any]:
    """The values of a map in the type that ``cast_to`` names, and what stands for missing ones."""
    if target not in ("TO_FLOAT", "TO_STRING", "TO_INT64"):
        raise ValueError(f"cast_to {target!r} is none of TO_FLOAT, TO_STRING, TO_INT64")
    texts = values.dtype is DType.STRING
    if target == "TO_STRING":
        return (values if texts else _formatted(b, values)), "0.f"
    dtype = DType.FLOAT32 if target == "TO_FLOAT" else DType.INT64
    if not texts:
        return b.cast(values, dtype), 0
    convert = float if target == "TO_FLOAT" else int
    return b.constant([convert(text) for text in b.value(values).tolist()], dtype), 0


def _formatted(b: Builder, values: View) -> View:
    """Numbers as texts. A run that yields them ends a stage: no kernel writes strings."""
    whole = values.dtype.is_integer
    return b.constant(
        [str(number) if whole else f"{number:f}" for number in b.value(values).tolist()], DType.STRING
    )
