import numpy as np
import pytest
from harness import cpu_isas, run_operation, selector
from products import arrays, broadcast, fill, place

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.evaluate import evaluate
from onnxplan.compiler.primitives import Attention
from onnxplan.compiler.program import Operation
from onnxplan.compiler.trace import apply, cast, select, trace

F32 = DType.FLOAT32
TOLERANCE = {DType.FLOAT64: 1e-12, F32: 1e-5, DType.FLOAT16: 2e-3, DType.BFLOAT16: 1e-2}


def operation(rng, q, k, v, primitive, *, extras=(), k_layout="swapped", output="gaps"):
    pass
