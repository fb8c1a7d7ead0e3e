"""Makes a random graph node by node, each evaluated at once by ONNX's reference, so that it is valid."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.fuzz.corrected import CORRECTED

Array = Any

MAX_SIZE = 1500
MAX_RANK = 5
FLOATS = ("float32", "float64", "float16")
INTEGERS = ("int64", "int32", "uint8", "int8")
LARGEST = {"float16": 200.0, "bfloat16": 200.0}
"""Largest elements of values, where it is not :data:`LARGEST_DEFAULT`: overflow depends on rounding."""
LARGEST_DEFAULT = 1e4
ROUNDINGS = 8
"""Roundings of a function of one element, counting those of the reference."""


@dataclass(frozen=True, eq=False)
class Item:
    """A value of the graph: its elements, and how far rounding may move any of them (0: exact)."""

    name: str
    array: Array
    error: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def rank(self) -> int:
        return self.array.ndim

    @property
    def size(self) -> int:
        return self.array.size

    @property
    def dtype(self) -> str:
        return self.array.dtype.name

    @property
    def is_float(self) -> bool:
        return self.dtype in (*FLOATS, "bfloat16")

    @property
    def is_integer(self) -> bool:
        return self.array.dtype.kind in "iu"

    @property
    def is_finite(self) -> bool:
        return not self.is_float or bool(np.isfinite(self.array.astype(np.float64)).all())


@dataclass
class Scope:
    """A graph under construction and the values that it defines."""

    items: list[Item] = field(default_factory=list)
    nodes: list[NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)


class GraphMaker:
    """Draws nodes on values that exist. ``draw`` is Hypothesis's; ``random`` makes elements."""

    def __init__(
        self, draw: Callable[[Any], Any], dtypes: Sequence[str], opset: int, extent: int = 5
    ) -> None:
        self.draw = draw
        self.extent = extent
        self.max_size = MAX_SIZE * max(1, extent // 5) ** 2
        self.dtypes = dtypes
        self.opset = opset
        self.special = draw(st.integers(0, 5)) == 0
        """Do elements hold NaN and infinities here and there?"""
        self.random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        self.scopes = [Scope()]
        self.inputs: list[Item] = []
        self._names = 0

    # What to draw

    def choose(self, options: Sequence[Any]) -> Any:
        return options[0] if len(options) == 1 else self.draw(st.sampled_from(options))

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def flag(self) -> bool:
        return self.draw(st.booleans())

    def dtype(self) -> str:
        """A floating type, mostly the first."""
        return self.choose([name for name in self.dtypes for _ in range(4 if name == "float32" else 1)])

    def shape(self, low: int = 0, high: int = 4, extent: int = 0) -> tuple[int, ...]:
        rank = self.integer(low, high)
        if rank and self.integer(0, 25) == 0:
            return tuple(self.integer(0, 2) for _ in range(rank))
        if math.prod([extent or self.extent] * rank) > self.max_size:
            extent = 5
        return tuple(self.integer(1, extent or self.extent) for _ in range(rank))

    def pick(self, wanted: Callable[[Item], bool] = lambda item: True) -> Item | None:
        """A value that exists, of this graph or of one around it; late ones more often."""
        found = [item for scope in self.scopes for item in scope.items if wanted(item)]
        if not found:
            return None
        return self.choose(found[-4:] if self.flag() else found)

    def floats(self, low: int = 0, high: int = MAX_RANK, *, exact: bool = False) -> Item:
        """A floating value of a rank between these."""
        item = self.pick(
            lambda item: item.is_float and low <= item.rank <= high and not (exact and item.error)
        )
        return item if item is not None else self.leaf(self.dtype(), self.shape(low, min(high, 4)))

    def numbers(self, low: int = 0, *, exact: bool = False) -> Item:
        """A floating or integer value."""
        item = self.pick(
            lambda item: (
                (item.is_float or item.is_integer) and item.rank >= low and not (exact and item.error)
            )
        )
        return item if item is not None else self.leaf(self.dtype(), self.shape(low))

    def any(self, low: int = 0, high: int = MAX_RANK) -> Item:
        item = self.pick(lambda item: low <= item.rank <= high)
        return item if item is not None else self.leaf(self.dtype(), self.shape(low, min(high, 4)))

    def axis(self, item: Item) -> int:
        """An axis, counted from either end."""
        axis = self.integer(0, item.rank - 1)
        return axis - item.rank if self.flag() else axis

    # Leaves

    def elements(self, dtype: str, shape: Sequence[int], low: int = -16, high: int = 16) -> Array:
        """Multiples of a quarter, so that sums and products of a few are exact; integers and booleans."""
        values = self.random.integers(low, high + 1, tuple(shape))
        if dtype == "bool":
            return values > 0
        if dtype in INTEGERS:
            return (np.abs(values) if dtype.startswith("u") else values).astype(dtype)
        array = (values / 4).astype(named(dtype))
        if self.special and array.size and self.random.random() < 0.3:
            special = self.random.choice([np.nan, np.inf, -np.inf, -0.0], 2)
            flat = array.reshape(-1)
            flat[self.random.integers(0, array.size, 2)] = special.astype(array.dtype)
        return array

    def leaf(self, dtype: str, shape: Sequence[int], **limits: int) -> Item:
        """A new input, initializer or constant; within subgraphs no input."""
        return self.put(self.elements(dtype, shape, **limits))

    def put(self, array: Array) -> Item:
        """A leaf with these elements, fed or constant."""
        if len(self.scopes) == 1 and self.integer(0, 2):
            item = Item(self.name("x"), array)
            self.inputs.append(item)
            self.scopes[0].items.append(item)
            return item
        return self.constant(array)

    def constant(self, array: Array) -> Item:
        """A constant, as the output of a node or as an initializer."""
        item = Item(self.name("c"), array)
        scope = self.scopes[-1]
        tensor = numpy_helper.from_array(np.asarray(array), item.name)
        if self.integer(0, 3) == 0:
            scope.nodes.append(helper.make_node("Constant", [], [item.name], value=tensor))
        else:
            scope.initializers.append(tensor)
        scope.items.append(item)
        return item

    def indices(self, *values: int) -> Item:
        """A constant vector of int64: axes, shapes, pads."""
        return self.constant(np.array(values, np.int64))

    def name(self, prefix: str) -> str:
        self._names += 1
        return f"{prefix}{self._names}"

    # Nodes

    def add(
        self,
        op_type: str,
        inputs: Sequence[Item | None],
        outputs: int = 1,
        *,
        terms: float | None = None,
        keep: bool = True,
        captured: Sequence[Item] = (),
        **attributes: Any,
    ) -> list[Item]:
        """The outputs of a new node; none (and no node) where the reference refuses it.

        ``terms`` is how many times the largest operand may enter a rounded sum; ``None`` where the node
        rounds as a function of single elements. ``captured`` are the values that its subgraphs read.
        With ``keep=False`` the outputs are not offered to later nodes.
        """
        node = helper.make_node(
            op_type,
            ["" if item is None else item.name for item in inputs],
            [self.name("v") for _ in range(outputs)],
            **attributes,
        )
        given = {item.name: item for item in [*inputs, *captured] if item is not None}
        arrays = self._evaluate(node, {name: item.array for name, item in given.items()})
        if arrays is None or not all(self._is_acceptable(array) for array in arrays):
            return []
        errors = self._errors(node, given, arrays, terms)
        if errors is None:
            return []
        found = [Item(*entry) for entry in zip(node.output, arrays, errors, strict=True)]
        scope = self.scopes[-1]
        scope.nodes.append(node)
        if keep:
            scope.items.extend(found)
        return found

    def _evaluate(self, node: NodeProto, arrays: dict[str, Array]) -> list[Array] | None:
        graph = helper.make_graph(
            [node],
            "one",
            [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
                for name, array in arrays.items()
            ],
            [helper.make_empty_tensor_value_info(name) for name in node.output],
        )
        return evaluate(make_model(graph, self.opset), arrays)

    def _errors(
        self, node: NodeProto, given: dict[str, Item], arrays: list[Array], terms: float | None
    ) -> list[float] | None:
        """Bounds on what rounding does to each output; ``None`` where it decides too much."""
        if node.op_type in MOVING:
            error = max((item.error for item in given.values()), default=0.0)
            return [error if array.dtype.kind in "fV" else 0.0 for array in arrays]
        errors = [self._rounding(array, given, terms) for array in arrays]
        if node.op_type in EXACT and not any(item.error for item in given.values()):
            wide = {
                name: item.array.astype(np.float64) if item.is_float else item.array
                for name, item in given.items()
            }
            right = self._evaluate(node, wide)
            if right is not None and all(map(_equal, arrays, right)):
                errors = [0.0] * len(arrays)
        for _ in range(2 if any(item.error for item in given.values()) else 0):
            moved = {name: self._moved(item) for name, item in given.items()}
            others = self._evaluate(node, moved)
            if others is None:
                return None
            for number, (array, other) in enumerate(zip(arrays, others, strict=True)):
                distance = difference(array, other)
                if distance is None:
                    return None
                errors[number] += 3 * distance
        for array, error in zip(arrays, errors, strict=True):
            if error > 0.02 * max(1.0, largest(array)):
                return None
        return errors

    def _rounding(self, array: Array, given: dict[str, Item], terms: float | None) -> float:
        if array.dtype.kind not in "fV":
            return 0.0
        epsilon = float(ml_dtypes.finfo(array.dtype).eps)
        if terms is None:
            return ROUNDINGS * epsilon * largest(array)
        sizes = [largest(item.array) for item in given.values() if item.is_float] or [1.0]
        return epsilon * terms * max(1.0, *sizes, largest(array))

    def _moved(self, item: Item) -> Array:
        if not item.error:
            return item.array
        shift = item.error * self.random.choice([-1.0, 1.0], item.shape)
        return (item.array.astype(np.float64) + shift).astype(item.array.dtype)

    def _is_acceptable(self, array: Array) -> bool:
        """Is it a small tensor of a type that has kernels, and far from overflow?"""
        if array.size > self.max_size or array.ndim > MAX_RANK + 1 or array.dtype.kind not in "fiubV":
            return False
        if array.dtype.kind in "iub":
            return True
        return largest(array) <= LARGEST.get(array.dtype.name, LARGEST_DEFAULT)

    # Graphs

    def graph(
        self,
        name: str,
        scope: Scope,
        inputs: Sequence[Item],
        outputs: Sequence[Item],
        rank_only: bool = False,
    ) -> GraphProto:
        """``scope`` as a graph; its inputs have symbolic dimensions here and there."""
        infos = []
        for item in inputs:
            dims: list[Any] = list(item.shape)
            if rank_only or self.integer(0, 3) == 0:
                dims = [f"{item.name}_{axis}" for axis in range(item.rank)]
            infos.append(
                helper.make_tensor_value_info(
                    item.name, helper.np_dtype_to_tensor_dtype(item.array.dtype), dims
                )
            )
        results = [helper.make_empty_tensor_value_info(item.name) for item in outputs]
        return helper.make_graph(scope.nodes, name, infos, results, scope.initializers)


MOVING = frozenset(
    "Transpose Reshape Flatten Squeeze Unsqueeze Slice Expand Tile Concat Split Pad Gather GatherElements "
    "GatherND ScatterElements ScatterND DepthToSpace SpaceToDepth Trilu ReverseSequence Compress Identity "
    "MaxPool GlobalMaxPool ReduceMax ReduceMin Max Min Relu Abs Neg Where Clip TopK Unique CenterCropPad "
    "Floor Ceil Round Sign Shape Size Range ConstantOfShape EyeLike OneHot Hardmax".split()
)
"""Operators that do not round, and whose outputs move no further than their inputs do."""

EXACT = frozenset(
    "Add Sub Mul Sum MatMul Gemm ConvTranspose ReduceSum ReduceSumSquare ReduceL1 CumSum Einsum "
    "ReduceProd Cast ThresholdedRelu".split()
)
"""Operators that are exact where the same in float64 gives the same. Conv is not, in the form of Winograd."""


def named(dtype: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)


def make_model(graph: GraphProto, opset: int) -> ModelProto:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def evaluate(model: ModelProto, feeds: dict[str, Array]) -> list[Array] | None:
    """What the reference makes of a model; ``None`` where it refuses."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            results = ReferenceEvaluator(model, new_ops=CORRECTED).run(None, feeds)
        except Exception:
            # It raises whatever NumPy and its own code come upon.
            return None
    if not all(isinstance(item, np.ndarray | np.generic) for item in results):
        return None
    return [np.asarray(item) for item in results]


def largest(array: Array) -> float:
    """The largest finite magnitude; 0 where there is none."""
    if array.size == 0:
        return 0.0
    wide = np.abs(array.astype(np.float64))
    return float(np.max(wide, where=np.isfinite(wide), initial=0.0))


def difference(one: Array, other: Array) -> float | None:
    """The largest distance of elements; ``None`` where shapes, types or what is not finite differ."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return None
    if one.dtype.kind not in "fV":
        return 0.0 if np.array_equal(one, other) else None
    one, other = one.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(one)
    if not np.array_equal(finite, np.isfinite(other)):
        return None
    if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
        return None
    return float(np.max(np.abs(one[finite] - other[finite]), initial=0.0))


def _equal(array: Array, right: Array) -> bool:
    """Are these the same numbers, with bits to spare for partial sums?"""
    if array.dtype.kind not in "fV":
        return np.array_equal(array, right)
    spare = 2.0**-11 / float(ml_dtypes.finfo(array.dtype).eps)
    return np.array_equal(array.astype(np.float64), right, equal_nan=True) and (
        largest(array) <= spare and array.dtype.itemsize >= 4
    )
