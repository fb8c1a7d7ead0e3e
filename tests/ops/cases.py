"""Operator cases: written once, run on the NumPy evaluation of lowered programs and on every device."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import TensorType
from onnxplan.compiler.structures import SequenceValue, name_tensors

Array = Any
Feeds = dict[str, Array]
Maker = Callable[[np.random.Generator], Array]

OPSET = 28

FLOAT16, FLOAT32, FLOAT64 = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = (FLOAT32, FLOAT64, FLOAT16, BFLOAT16)
SIGNED = tuple(np.dtype(name) for name in ("int8", "int16", "int32", "int64"))
UNSIGNED = tuple(np.dtype(name) for name in ("uint8", "uint16", "uint32", "uint64"))
INTEGERS = SIGNED + UNSIGNED
NUMBERS = FLOATS + INTEGERS
UINT8 = UNSIGNED[0]
BOOL = np.dtype(bool)
TEXT = np.dtype(object)

EXACT = (0.0, 0.0)
# Relative and absolute error: a few roundings of the type.
TOLERANCES = {FLOAT64: (1e-11, 1e-12), FLOAT32: (1e-5, 1e-6), FLOAT16: (1.5e-3, 1e-5), BFLOAT16: (8e-3, 1e-5)}


def is_float(dtype: np.dtype) -> bool:
    """Is it a floating type, of NumPy or of ``ml_dtypes``?"""
    if dtype.kind == "f":
        return True
    return dtype.kind == "V" and dtype.name.startswith(("float", "bfloat"))


@dataclass(frozen=True)
class Case:
    """Nodes with feeds and the results that are expected of them.

    ``inputs`` maps names to arrays or to functions of a random generator; those named in ``constants`` become
    initializers. Lists of arrays are sequences, which cannot be constants. ``reference`` takes the inputs in
    order (floats widened to float64, ``None`` for missing ones) and returns the outputs, whose types are
    ``dtypes`` (default: the first input's); without it ONNX's reference evaluator says what is right.
    ``tolerance`` is the relative and absolute error of float outputs. ``folds`` tells that with all inputs
    constant nothing is left to run.
    """

    id: str
    nodes: tuple[NodeProto, ...]
    inputs: Mapping[str, Array | Maker | None]
    outputs: tuple[str, ...]
    opset: int = OPSET
    constants: tuple[str, ...] = ()
    reference: Callable[..., Array | Sequence[Array]] | None = None
    dtypes: tuple[np.dtype, ...] | None = None
    tolerance: tuple[float, float] | None = None
    folds: bool = True
    opsets: Mapping[str, int] = field(default_factory=dict)

    def values(self, seed: int = 0) -> dict[str, Array | None]:
        """All inputs; the same for the same seed."""
        random = np.random.default_rng([seed, *self.id.encode()])
        return {name: item(random) if callable(item) else item for name, item in self.inputs.items()}

    def feeds(self, seed: int = 0) -> Feeds:
        """What a run is fed: the inputs that are neither missing nor constants."""
        return {
            name: array
            for name, array in self.values(seed).items()
            if array is not None and name not in self.constants
        }

    def model(self, seed: int = 0, *, constant: bool = False) -> onnx.ModelProto:
        """The model; all of its inputs are initializers if ``constant``."""
        values = {name: array for name, array in self.values(seed).items() if array is not None}
        known = values if constant else self.constants
        fed = {name: item for name, item in values.items() if name not in known or isinstance(item, list)}
        graph = helper.make_graph(
            list(self.nodes),
            "case",
            [helper.make_value_info(name, type_of(item)) for name, item in fed.items()],
            [helper.make_empty_tensor_value_info(name) for name in self.outputs],
            [make_tensor(name, array) for name, array in values.items() if name not in fed],
        )
        domains = {"": self.opset, **self.opsets}
        imports = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
        return helper.make_model(graph, opset_imports=imports)

    def expected(self, seed: int = 0) -> dict[str, Array]:
        """The right results."""
        values = self.values(seed)
        with np.errstate(all="ignore"):
            if self.reference is None:
                evaluator = ReferenceEvaluator(self.model(seed))
                results = evaluator.run(None, self.feeds(seed))
                return dict(zip(self.outputs, map(_arrays, results), strict=True))
            results = self.reference(*(_widened(array) for array in values.values()))
            if not isinstance(results, tuple | list):
                results = [results]
            dtypes = self.dtypes
            if dtypes is None:
                first = next(_flat(item)[0].dtype for item in values.values() if item is not None)
                dtypes = (first,) * len(results)
            return {
                name: [np.asarray(item).astype(dtype) for item in result]
                if isinstance(result, list)
                else np.asarray(result).astype(dtype)
                for name, result, dtype in zip(self.outputs, results, dtypes, strict=True)
            }

    def check(self, results: Mapping[str, Array], seed: int = 0) -> None:
        """Raises ``AssertionError`` where ``results`` differ from what is expected, in type or shape too."""
        expected = self.expected(seed)
        assert results.keys() == expected.keys()
        for name, right in expected.items():
            if isinstance(right, list):
                assert len(results[name]) == len(right), name
                for position, pair in enumerate(zip(results[name], right, strict=True)):
                    compare(np.asarray(pair[0]), pair[1], self.tolerance, f"{name}[{position}]")
            else:
                compare(np.asarray(results[name]), right, self.tolerance, name)


def flatten(feeds: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors in ``feeds`` by names of their own, and the structures that lowering makes of sequences."""
    values: dict[str, Any] = {}
    structures: dict[str, Any] = {}
    for name, fed in feeds.items():
        if isinstance(fed, list):
            element = TensorType(DType.from_numpy(fed[0].dtype), None)
            structures[name], items = name_tensors(
                name, SequenceValue(element, tuple(fed)), {*feeds, *values}
            )
            values |= items
        else:
            values[name] = fed
    return values, structures


def compare(found: Array, right: Array, tolerance: tuple[float, float] | None, name: str) -> None:
    """Raises ``AssertionError`` unless ``found`` is ``right``; ``tolerance`` holds for floats."""
    assert found.dtype == right.dtype, f"{name}: {found.dtype}, expected {right.dtype}"
    assert found.shape == right.shape, f"{name}: shape {found.shape}, expected {right.shape}"
    if is_float(right.dtype):
        relative, absolute = TOLERANCES.get(right.dtype, EXACT) if tolerance is None else tolerance
        np.testing.assert_allclose(
            found.astype(np.float64), right.astype(np.float64), relative, absolute, err_msg=name
        )
    else:
        np.testing.assert_array_equal(found, right, err_msg=name)


def _flat(value: Array | list[Array]) -> list[Array]:
    return value if isinstance(value, list) else [value]


def _arrays(result: Any) -> Any:
    return [np.asarray(item) for item in result] if isinstance(result, list) else np.asarray(result)


def type_of(value: Array | list[Array]) -> onnx.TypeProto:
    """The type of an input: of a sequence that of its first element, without a shape."""
    if isinstance(value, list):
        return helper.make_sequence_type_proto(
            helper.make_tensor_type_proto(tensor_code(value[0].dtype), None)
        )
    return helper.make_tensor_type_proto(tensor_code(value.dtype), value.shape)


def _widened(array: Array | list[Array] | None) -> Array | list[Array] | None:
    if isinstance(array, list):
        return [_widened(item) for item in array]
    return array.astype(np.float64) if array is not None and is_float(array.dtype) else array


def tensor_code(dtype: np.dtype) -> int:
    """The ``TensorProto.DataType`` of a NumPy type."""
    return TensorProto.STRING if dtype.kind == "O" else helper.np_dtype_to_tensor_dtype(dtype)


def make_tensor(name: str, array: Array) -> TensorProto:
    """``array`` as a named ``TensorProto``."""
    return numpy_helper.from_array(np.asarray(array), name)


def case(
    name: str,
    op_type: str,
    inputs: Mapping[str, Array | Maker | None],
    *,
    outputs: int | Sequence[str] = 1,
    attributes: Mapping[str, Any] | None = None,
    domain: str = "",
    **settings: Any,
) -> Case:
    """A case of one node. ``settings`` are further fields of :class:`Case`."""
    names = [f"y{i}" for i in range(outputs)] if isinstance(outputs, int) else list(outputs)
    sources = ["" if item is None else key for key, item in inputs.items()]
    node = helper.make_node(op_type, sources, names, domain=domain, **(attributes or {}))
    if domain:
        settings.setdefault("opsets", {domain: 1})
    opset = settings.get("opset", OPSET)
    label = f"{op_type}-{opset}-{name}" if name else f"{op_type}-{opset}"
    return Case(label, (node,), inputs, tuple(name for name in names if name), **settings)


def known(
    name: str, op_type: str, inputs: Mapping[str, Array | Maker | None], *results: Array, **settings: Any
) -> Case:
    """A case of one node whose results are written down."""
    return case(
        name,
        op_type,
        inputs,
        outputs=len(results),
        reference=lambda *_: results,
        dtypes=tuple(np.asarray(result).dtype for result in results),
        **settings,
    )


# Makers of inputs


def texts(*items: str, shape: Sequence[int] | None = None) -> Array:
    """Strings, as a vector or of ``shape``."""
    array = np.empty(len(items), object)
    array[:] = items
    return array if shape is None else array.reshape(shape)


def uniform(dtype: Any, *shape: int, low: float = -4.0, high: float = 4.0) -> Maker:
    """Numbers between ``low`` and ``high``; booleans where ``dtype`` is ``bool``."""
    target = np.dtype(dtype)

    def make(random: np.random.Generator) -> Array:
        if target == BOOL:
            return random.random(shape) < 0.5
        least = max(low, 0) if target.kind == "u" else low
        if target.kind in "iu":
            return random.integers(math.ceil(least), math.floor(high), shape, endpoint=True).astype(target)
        return random.uniform(least, high, shape).astype(target)

    return make


def special(dtype: Any, *shape: int, low: float = -4.0, high: float = 4.0) -> Maker:
    """As :func:`uniform`, with NaN, infinities and zeros of both signs among the first elements of floats."""
    draw = uniform(dtype, *shape, low=low, high=high)

    def make(random: np.random.Generator) -> Array:
        array = draw(random)
        flat = array.reshape(-1)
        values = [np.nan, np.inf, -np.inf, 0.0, -0.0][: flat.size]
        flat[: len(values)] = values
        return array

    return make


def distinct(dtype: Any, *shape: int) -> Maker:
    """A permutation of 0, 1, 2, ...; for operators that only move elements or compare them."""

    def make(random: np.random.Generator) -> Array:
        return random.permutation(math.prod(shape)).reshape(shape).astype(dtype)

    return make


def shape_of(*extents: int) -> Array:
    """An int64 vector: a shape, axes, pads."""
    return np.array(extents, np.int64)


def discover() -> list[Case]:
    """The cases of all ``cases_*.py`` beside this file, each with an ``id`` of its own."""
    found: dict[str, Case] = {}
    for path in sorted(Path(__file__).parent.glob("cases_*.py")):
        cases: Iterable[Case] = importlib.import_module(path.stem).CASES
        for item in cases:
            if item.id in found:
                raise ValueError(f"{path.name}: there is another case {item.id!r}")
            found[item.id] = item
    return list(found.values())
