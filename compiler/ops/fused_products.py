"""Products with the activation that follows them in one node, as onnxruntime's optimiser writes them."""

from __future__ import annotations

from collections.abc import Mapping

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.convolution import conv
from onnxplan.compiler.ops.products import general_matrix_product
from onnxplan.compiler.registry import find, operator
from onnxplan.compiler.view import View

MICROSOFT = "com.microsoft"
LATEST = 1 << 30

_CONVOLUTION_ACTIVATIONS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "Relu": ("Relu", ()),
    "Silu": ("Swish", ()),
    "Tanh": ("Tanh", ()),
    "Sigmoid": ("Sigmoid", ()),
    "HardSwish": ("HardSwish", ()),
    "LeakyRelu": ("LeakyRelu", ("alpha",)),
    "HardSigmoid": ("HardSigmoid", ("alpha", "beta")),
    "Clip": ("Clip", ("min", "max")),
}
"""The operator and the attributes that ``activation_params`` are, in order."""

_PRODUCT_ACTIVATIONS = frozenset(
    [
        "Celu", "Elu", "HardSigmoid", "LeakyRelu", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Tanh",
        "ThresholdedRelu",
    ]
)  # fmt: skip


def _activated(b: Builder, node: Node, name: str, attributes: Mapping[str, float], x: View) -> View:
    """The standard's operator ``name`` of ``x``, in its latest version but for a Clip with attributes."""
    version = 6 if name == "Clip" else LATEST
    rule = find("", name, version)
    assert rule is not None
    activation = Node(name, "", version, (), (), attributes, node.name)
    result = rule(b, activation, x)
    assert isinstance(result, View)
    return result


@operator("FusedConv", domain=MICROSOFT)
def fused_convolution(
    b: Builder, node: Node, x: View, w: View, bias: View | None = None, added: View | None = None
) -> View:
    """https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.FusedConv

    ``added`` has the shape of the result and joins the sum before the activation.
    """
    result = conv(b, node, x, w, bias)
    if added is not None:
        if added.shape != result.shape:
            raise ValueError(f"a sum of shapes {list(result.shape)} and {list(added.shape)}")
        result = b.scalar("add", result, added)
    name = node.string("activation", "")
    if not name:
        return result
    if name not in _CONVOLUTION_ACTIVATIONS:
        raise ValueError(f"activation {name!r} is not supported")
    operator_name, names = _CONVOLUTION_ACTIVATIONS[name]
    given = node.floats("activation_params", ())
    if names and len(given) != len(names):
        raise ValueError(f"{len(given)} parameters for the activation {name}, which has {', '.join(names)}")
    return _activated(b, node, operator_name, dict(zip(names, given, strict=False)), result)


@operator("FusedGemm", domain=MICROSOFT)
def fused_general_matrix_product(b: Builder, node: Node, a: View, w: View, c: View | None = None) -> View:
    """https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.FusedGemm

    Parameters that the node does not give have the defaults of the activation's own operator.
    """
    result = general_matrix_product(b, node, a, w, c)
    name = node.string("activation", "")
    if not name:
        return result
    if name not in _PRODUCT_ACTIVATIONS:
        raise ValueError(f"activation {name!r} is not supported")
    attributes = {
        parameter: node.float(f"activation_{parameter}")
        for parameter in ("alpha", "beta", "gamma")
        if f"activation_{parameter}" in node.attributes
    }
    return _activated(b, node, name, attributes, result)
