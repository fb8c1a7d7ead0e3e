"""A dense copy of a view, for kernels that need their operand so."""

from __future__ import annotations

import numpy as np

from onnxplan.compiler.expression import identity
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.cuda.map import select_map


def dense_copy(emit: StepEmitter, target: Target, view: View, name: str) -> View:
    """The elements of ``view`` side by side; of constants a copy that is made once."""
    if view.is_constant:
        return View.dense(emit.constant((view,), "dense", np.ascontiguousarray), view.shape)
    copy = View.dense(emit.temporary(view.dtype, view.size, name), view.shape)
    select_map(Operation(MapReduce(identity(view.dtype), view.shape), (view,), (copy,)), emit, target)
    return copy
