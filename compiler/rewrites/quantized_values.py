"""What is known of quantised tensors in a graph: the numbers behind a real tensor, and their parameters."""

from __future__ import annotations

from dataclasses import field
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node, TensorType, Value
from onnxplan.compiler.records import dataclass

DOMAINS = ("", "ai.onnx", "com.microsoft")
BYTES = (DType.INT8, DType.UINT8)

_UNSPECIFIED_OR_FLOAT32 = (0, DType.FLOAT32.code)


@dataclass(frozen=True, slots=True, eq=False)
class Parameters:
    """Scale, of float32, and zero point of numbers of type ``dtype``: scalars, or vectors along ``axis``."""

    scale: npt.NDArray[Any]
    zero: npt.NDArray[Any]
    dtype: DType
    axis: int | None = None

    def equals(self, other: Parameters) -> bool:
        return (
            self.dtype is other.dtype
            and self.axis == other.axis
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero, other.zero)
        )

    @property
    def covers_tensor(self) -> bool:
        """Are they those of bytes, one for the whole tensor?"""
        return self.dtype in BYTES and self.axis is None

    def values(self, name: str) -> tuple[Value, Value]:
        """Both as constants of a graph, named after what they belong to."""
        return Value(f"{name}.scale", constant=self.scale), Value(f"{name}.zero", constant=self.zero)


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """A real tensor as ``(numbers - zero point) * scale``."""

    numbers: Value
    parameters: Parameters

    @property
    def triple(self) -> tuple[Value, Value, Value]:
        """Numbers, scale and zero point, as operators take them."""
        return (self.numbers, *self.parameters.values(self.numbers.name))


@dataclass(frozen=True, slots=True)
class Knowledge:
    """Of the values of a graph: elements of constants that nodes return, and numbers behind real tensors."""

    constants: dict[Value, npt.NDArray[Any]] = field(default_factory=dict)
    real: dict[Value, Quantized] = field(default_factory=dict)

    def copy(self) -> Knowledge:
        return Knowledge(dict(self.constants), dict(self.real))

    def constant(self, value: Value | None) -> npt.NDArray[Any] | None:
        if value is None:
            return None
        return value.constant if value.constant is not None else self.constants.get(value)

    def quantized(self, value: Value | None) -> Quantized | None:
        return None if value is None else self.real.get(value)

    def note_constant(self, node: Node) -> None:
        """Remembers what a node Constant returns."""
        output = node.outputs[0]
        if output is not None and isinstance(node.attributes.get("value"), np.ndarray):
            self.constants[output] = node.tensor("value")

    def note_dequantization(self, node: Node) -> None:
        """Remembers the numbers behind what a DequantizeLinear returns."""
        numbers, result = node.input(0), node.outputs[0]
        if numbers is None or result is None:
            return
        if node.integer("output_dtype", 0) not in _UNSPECIFIED_OR_FLOAT32:
            return
        constant = self.constant(numbers)
        dtype = numbers.type.dtype if isinstance(numbers.type, TensorType) else None
        found = self.parameters(node, dtype if constant is None else DType.from_numpy(constant.dtype))
        if found is not None:
            self.real[result] = Quantized(numbers, found)

    def target(self, node: Node) -> Parameters | None:
        """The parameters of a QuantizeLinear to bytes, if they are those of the whole tensor."""
        code = node.integer("output_dtype", 0)
        found = self.parameters(node, DType.from_code(code) if code else DType.UINT8)
        return found if found is not None and found.covers_tensor else None

    def parameters(self, node: Node, dtype: DType | None) -> Parameters | None:
        """The parameters of QuantizeLinear or its inverse, if they are constants that kernels take.

        That is a positive scale of float32, of the tensor or along one axis, for bytes or int32. ``dtype`` is
        the type of the numbers where there is no zero point to tell it.
        """
        scale, zero = self.constant(node.input(1)), self.constant(node.input(2))
        if scale is None or scale.dtype != np.float32 or scale.ndim > 1:
            return None
        if not scale.size or not np.all((scale > 0) & np.isfinite(scale)):
            return None
        if node.integer("block_size", 0) or node.integer("precision", 0) not in _UNSPECIFIED_OR_FLOAT32:
            return None
        if node.input(2) is not None:
            if zero is None or zero.size != scale.size:
                return None
            dtype = DType.from_numpy(zero.dtype)
        if dtype not in (*BYTES, DType.INT32):
            return None
        if zero is None:
            zero = np.zeros(scale.shape, dtype.numpy)
        if scale.size == 1:
            return Parameters(scale.reshape(()), zero.reshape(()), dtype)
        return Parameters(scale, zero, dtype, node.integer("axis", 1))


def is_operator(node: Node, op_type: str) -> bool:
    return node.op_type == op_type and node.domain in DOMAINS
