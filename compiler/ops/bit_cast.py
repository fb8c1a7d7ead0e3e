"""BitCast: the same bits as another type."""

from __future__ import annotations

from onnxplan.compiler.arrangement import layout_order
from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import element_type
from onnxplan.compiler.primitives import Reinterpret
from onnxplan.compiler.registry import operator
from onnxplan.compiler.view import View

# Types of which not all bits that an element takes in memory mean something, and those that stand for them.
_UNSIGNED = {DType.BOOL: DType.UINT8, DType.INT4: DType.UINT4, DType.INT2: DType.UINT2}


@operator("BitCast", since=26)
def bit_cast(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__BitCast.html

    Booleans count as bytes; bytes other than 0 are true.
    """
    target = element_type(node.attributes.get("to"))
    for dtype in (x.dtype, target):
        if dtype is DType.STRING:
            raise TypeError("strings have no bits to reinterpret")
    if x.dtype.bits != target.bits:
        raise TypeError(
            f"{x.dtype} has {x.dtype.bits} bits, {target} {target.bits}; they must be equal in size"
        )
    if x.dtype is target:
        return x
    if x.dtype.is_integer and target.is_integer:
        return b.cast(x, target)
    source = b.cast(x, _UNSIGNED.get(x.dtype, x.dtype))
    carrier = _UNSIGNED.get(target, target)
    if source.dtype is not carrier:
        result = b.new(carrier, source.shape, layout_order(source.shape, [source]))
        source = b.emit(Reinterpret(), [source], [result])[0]
    return b.cast(source, target)
