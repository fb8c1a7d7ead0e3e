"""Feature operators of ai.onnx.ml that work on plain tensors."""

from __future__ import annotations

import numpy as np

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import scalar_map
from onnxplan.compiler.primitives import Gather
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, cast
from onnxplan.compiler.view import View

_DOMAIN = "ai.onnx.ml"


@operator("ArrayFeatureExtractor", domain=_DOMAIN)
def array_feature_extractor(b: Builder, node: Node, x: View, indices: View) -> View:
    """https://onnx.ai/onnx/operators/onnx_aionnxml_ArrayFeatureExtractor.html

    A vector is taken for a matrix of one row, as ONNX Runtime does. Indices out of range, where only a run
    can see them, read some other element.
    """
    if x.rank == 0:
        raise ValueError("the input has no axis to pick from")
    if indices.dtype is not DType.INT64:
        raise TypeError(f"indices are {indices.dtype}, not int64")
    if x.rank == 1:
        x = x.unsqueeze((0,))
    extent, shape = x.shape[-1], (*x.shape[:-1], indices.size)
    if 0 in shape:
        return b.constant(np.empty(shape, x.dtype.numpy))
    if extent == 0:
        raise ValueError("the last axis has no elements to pick from")
    if indices.is_constant:
        found = indices.numpy()
        if not -extent <= found.min() <= found.max() < extent:
            raise ValueError(f"an index is out of range for {extent} elements")
    places = b.reshape(indices, (indices.size,))
    return b.emit(Gather(x.rank - 1), [x, places], [b.new(x.dtype, shape)])[0]


@operator("Binarizer", domain=_DOMAIN)
def binarizer(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx_aionnxml_Binarizer.html

    The threshold is a float32. Integers are compared with it as float64.
    """
    if x.dtype.kind not in "fiu":
        raise TypeError(f"the input is {x.dtype}")
    return scalar_map(b, _above, x, parameters=(node.float("threshold", 0.0),))


def _above(x: Scalar, threshold: float) -> Scalar:
    number = x if x.dtype.is_float else cast(x, DType.FLOAT64)
    return cast(number > threshold, x.dtype)
