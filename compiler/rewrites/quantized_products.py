"""Convolutions and matrix products of dequantised bytes as products of the bytes themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node, Value
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.rewrites.quantized_values import BYTES, Knowledge, Parameters, Quantized

MICROSOFT = "com.microsoft"
OPSET = 13
"""The version of the standard's operators that are added."""

SUM_LIMIT = 2**31
BIAS_ERROR = 0.05
"""The largest part of a quantum that rounding a bias to the unit of the sums may cost."""

Target = tuple[Value, Parameters, tuple[Node, ...]]


@dataclass(frozen=True, slots=True)
class Rewritten:
    """``nodes`` take the place of a product and of the nodes ``replaced``, which came after it."""

    nodes: list[Node]
    replaced: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class _Operands:
    """Two quantised operands of the product ``node``; ``depth`` is how many terms its sums have, if known."""

    node: Node
    left: Quantized
    right: Quantized
    depth: int | None

    @property
    def unit(self) -> npt.NDArray[Any]:
        """The scale of the sums: a scalar, or one for each column of the right operand."""
        left, right = self.left.parameters, self.right.parameters
        unit: npt.NDArray[Any] = left.scale.astype(np.float64) * right.scale.astype(np.float64)
        return unit

    def fits(self, bias: npt.NDArray[Any] | None) -> bool:
        """Can no sum leave 32 bits?"""
        if self.depth is None:
            return True
        added = 0 if bias is None or not bias.size else int(np.abs(bias.astype(np.int64)).max())
        largest = _largest(self.left.parameters) * _largest(self.right.parameters)
        return self.depth * largest + added < SUM_LIMIT

    @property
    def inputs(self) -> tuple[Value, ...]:
        """Each operand with its scale and zero point."""
        return (*self.left.triple, *self.right.triple)


def _largest(parameters: Parameters) -> int:
    limits = np.iinfo(parameters.dtype.numpy)
    zero = parameters.zero.astype(np.int64)
    return int(max((limits.max - zero).max(), (zero - limits.min).max()))


@dataclass(frozen=True, slots=True)
class Products:
    """Rewrites products. ``target_of`` says what quantises a value that nothing else reads."""

    knowledge: Knowledge
    target_of: Callable[[Value], Target | None]
    _rules: dict[str, Callable[[Node], Rewritten | None]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rules = {"Conv": self._convolution, "MatMul": self._product, "Gemm": self._general_product}
        object.__setattr__(self, "_rules", rules)

    def rewritten(self, node: Node) -> Rewritten | None:
        """What ``node`` becomes if it is a product of bytes."""
        rule = self._rules.get(node.op_type)
        return None if rule is None or node.outputs[0] is None else rule(node)

    # Operators

    def _convolution(self, node: Node) -> Rewritten | None:
        operands = self._operands(node, right_axis=0)
        if operands is None:
            return None
        weights = self.knowledge.constant(operands.right.numbers)
        if weights is None or weights.ndim < 3:
            return None
        integers = self._integer_bias(operands)
        target = self._target(operands, integers)
        if target is not None:
            result, parameters, way = target
            inputs = (*operands.inputs, *parameters.values(result.name), *_given(integers))
            return Rewritten([_node(node, "QLinearConv", inputs, result)], way)
        if not operands.fits(None):
            return None
        left, _, left_zero, right, _, right_zero = operands.inputs
        sums = _node(node, "ConvInteger", (left, right, left_zero, right_zero), _new(node, "sums"))
        shape = (-1, *(1,) * (weights.ndim - 2)) if operands.unit.ndim else ()
        factor = _constant(node, "factor", operands.unit.astype(np.float32).reshape(shape))
        nodes = [sums, *_real(node, sums, factor)]
        bias = node.input(2)
        if bias is None:
            return Rewritten(_ending_in(nodes, node))
        extents = _constant(node, "shape", np.array([-1, *(1,) * (weights.ndim - 2)]))
        column = Node("Reshape", "", OPSET, (bias, extents), (_new(node, "bias"),), {}, node.name)
        nodes += [column, _binary(node, "Add", nodes[-1], column.outputs[0])]
        return Rewritten(_ending_in(nodes, node))

    def _product(self, node: Node) -> Rewritten | None:
        operands = self._operands(node, right_axis=-1)
        if operands is None:
            return None
        target = self._target(operands, None)
        if target is not None:
            result, parameters, way = target
            inputs = (*operands.inputs, *parameters.values(result.name))
            return Rewritten([_node(node, "QLinearMatMul", inputs, result)], way)
        if not operands.fits(None):
            return None
        left, left_scale, left_zero, right, right_scale, right_zero = operands.inputs
        inputs = (left, right, left_scale, right_scale, left_zero, right_zero)
        return Rewritten(
            _ending_in([_node(node, "MatMulIntegerToFloat", inputs, _new(node, "y"), MICROSOFT)], node)
        )

    def _general_product(self, node: Node) -> Rewritten | None:
        operands = self._operands(node, right_axis=0 if node.integer("transB", 0) else 1)
        if operands is None:
            return None
        bias = node.input(2)
        plain = node.float("alpha", 1.0) == 1 and node.float("beta", 1.0) == 1
        integers = self._integer_bias(operands) if plain else None
        target = self._target(operands, integers) if plain or bias is None else None
        if target is not None:
            result, parameters, way = target
            inputs = (*operands.inputs, integers, *parameters.values(result.name))
            return Rewritten([_node(node, "QGemm", inputs, result, MICROSOFT)], way)
        if not operands.fits(None):
            return None
        product = _node(node, "QGemm", operands.inputs, _new(node, "product"), MICROSOFT)
        nodes = [product]
        if bias is not None and node.float("beta", 1.0) != 0:
            if node.float("beta", 1.0) != 1:
                factor = _constant(node, "beta", np.float32(node.float("beta")))
                nodes.append(Node("Mul", "", OPSET, (bias, factor), (_new(node, "bias"),), {}, node.name))
                bias = nodes[-1].outputs[0]
            nodes.append(_binary(node, "Add", product, bias))
        return Rewritten(_ending_in(nodes, node))

    # Operands

    def _operands(self, node: Node, right_axis: int) -> _Operands | None:
        """The operands if both are bytes of known parameters, the right ones along ``right_axis`` at most."""
        left, right = (self.knowledge.quantized(node.input(position)) for position in range(2))
        if left is None or right is None or not left.parameters.covers_tensor:
            return None
        weights = self.knowledge.constant(right.numbers)
        axis = right.parameters.axis
        if right.parameters.dtype not in BYTES:
            return None
        if axis is not None and (weights is None or axis % weights.ndim != right_axis % weights.ndim):
            return None
        return _Operands(node, left, right, None if weights is None else _depth(node, weights))

    def _target(self, operands: _Operands, bias: Value | None) -> Target | None:
        """What quantises the product, if the product of integers, with an integer ``bias``, may end in it."""
        result = operands.node.outputs[0]
        if result is None or (operands.node.input(2) is not None and bias is None):
            return None
        return self.target_of(result) if operands.fits(self.knowledge.constant(bias)) else None

    def _integer_bias(self, operands: _Operands) -> Value | None:
        """The constant third input in units of the sums, int32, if nothing is lost by that but rounding."""
        node, unit = operands.node, operands.unit
        result = node.outputs[0]
        target = None if result is None else self.target_of(result)
        if node.input(2) is None or target is None:
            return None
        found = self.knowledge.quantized(node.input(2))
        real = self.knowledge.constant(node.input(2))
        if found is not None:
            numbers, own = self.knowledge.constant(found.numbers), found.parameters
            if numbers is None:
                return None
            if own.dtype is DType.INT32 and not own.zero.any() and np.allclose(own.scale, unit, 1e-5, 0):
                return _constant(node, "bias", numbers)
            real = (numbers.astype(np.float64) - own.zero) * own.scale
        if real is None or real.ndim != 1 or not np.all(unit / target[1].scale <= 2 * BIAS_ERROR):
            return None
        integers = np.rint(real.astype(np.float64) / unit)
        if not np.all(np.abs(integers) < SUM_LIMIT / 2):
            return None
        return _constant(node, "bias", integers.astype(np.int32))


def _depth(node: Node, weights: npt.NDArray[Any]) -> int:
    """How many products a sum has."""
    if node.op_type == "Conv":
        return int(np.prod(weights.shape[1:]))
    if node.op_type == "Gemm":
        return int(weights.shape[1 if node.integer("transB", 0) else 0])
    return int(weights.shape[max(-2, -weights.ndim)])


def _given(value: Value | None) -> tuple[Value, ...]:
    return () if value is None else (value,)


def _node(
    node: Node, op_type: str, inputs: tuple[Value | None, ...], result: Value, domain: str = ""
) -> Node:
    """``op_type`` in the place of ``node``, with its attributes."""
    attributes = {name: value for name, value in node.attributes.items() if name not in ("beta", "broadcast")}
    return Node(op_type, domain, 1 if domain else OPSET, inputs, (result,), attributes, node.name)


def _real(node: Node, sums: Node, factor: Value) -> list[Node]:
    """Sums of integers as floats, times ``factor``."""
    cast = Node("Cast", "", OPSET, sums.outputs, (_new(node, "real"),), {"to": DType.FLOAT32.code}, node.name)
    return [cast, _binary(node, "Mul", cast, factor)]


def _binary(node: Node, op_type: str, left: Node, right: Value | None) -> Node:
    inputs = (left.outputs[0], right)
    return Node(op_type, "", OPSET, inputs, (_new(node, op_type.lower()),), {}, node.name)


def _ending_in(nodes: list[Node], node: Node) -> list[Node]:
    """``nodes``, the last of which writes what ``node`` did."""
    last = nodes[-1]
    nodes[-1] = Node(
        last.op_type, last.domain, last.version, last.inputs, node.outputs[:1], last.attributes, last.name
    )
    return nodes


def _new(node: Node, what: str) -> Value:
    return Value(f"{node.label}.{what}")


def _constant(node: Node, what: str, array: npt.ArrayLike) -> Value:
    return Value(f"{node.label}.{what}", constant=np.ascontiguousarray(array))
