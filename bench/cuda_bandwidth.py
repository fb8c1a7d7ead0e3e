"""Elementwise kernels, norms and softmax on a GPU, each beside a copy of as many bytes.

Tensors are so large that no cache holds any of them. Rates count what must be read and written once, whatever
the steps do.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import onnx
import onnx.parser

import onnxplan
from bench.cuda_plans import borrowed_slot, executor_of, steps_launch
from bench.cuda_products import cold_seconds
from bench.cuda_rates import cuda_runtime
from bench.record import Row
from bench.supervised import Settings
from onnxplan.compiler.dtypes import DType

TENSOR_BYTES = 1 << 30
"""Of the largest tensor of each case."""
PEER = "a copy"


@dataclass(frozen=True, slots=True)
class Case:
    """Nodes from ``x``, of rows of ``columns``, and from ``inputs`` of one of the shapes ``rows,columns`` and
    ``columns``, to ``z``; element types by their names in ONNX's text."""

    dtype: str
    columns: int
    body: str
    inputs: tuple[tuple[str, str], ...] = ()
    result: str = ""

    def model(self, tensor_bytes: int) -> onnx.ModelProto:
        """The model on as many rows as fit into ``tensor_bytes``."""
        rows = tensor_bytes // (self.columns * DTYPES[self.dtype].itemsize)
        extents = {"rows,columns": f"[{rows},{self.columns}]", "columns": f"[{self.columns}]"}
        inputs = ", ".join(
            f"{self.dtype}{extents[shape]} {name}" for name, shape in (("x", "rows,columns"), *self.inputs)
        )
        result = f"{self.result or self.dtype}{extents['rows,columns']} z"
        text = f'<ir_version: 10, opset_import: ["" : 23]> case ({inputs}) => ({result}) {{ {self.body} }}'
        return onnx.parser.parse_model(text)


DTYPES = {"float": DType.FLOAT32, "float16": DType.FLOAT16, "bfloat16": DType.BFLOAT16}

CASES = {
    "elementwise: add, float32": Case("float", 4096, "z = Add(x, y)", (("y", "rows,columns"),)),
    "elementwise: bias and gelu, float16": Case(
        "float16", 4096, 's = Add(x, b) z = Gelu<approximate="tanh">(s)', (("b", "columns"),)
    ),
    "elementwise: silu, bfloat16": Case("bfloat16", 4096, "s = Sigmoid(x) z = Mul(x, s)"),
    "elementwise: float32 to float16": Case("float", 4096, "z = Cast<to=10>(x)", result="float16"),
    "norm: layer norm of 1024, float32": Case(
        "float",
        1024,
        "z = LayerNormalization<axis=-1>(x, s, b)",
        (("s", "columns"), ("b", "columns")),
    ),
    "norm: RMS norm of 4096, float16": Case(
        "float16", 4096, "z = RMSNormalization<axis=-1>(x, s)", (("s", "columns"),)
    ),
    "softmax: rows of 1024, float32": Case("float", 1024, "z = Softmax<axis=-1>(x)"),
    "softmax: rows of 2048, float16": Case("float16", 2048, "z = Softmax<axis=-1>(x)"),
}


def names(settings: Settings) -> list[str]:
    return list(CASES)


def check(name: str, settings: Settings) -> dict[str, Any]:
    """A row for one case; what the tensors hold does not matter to its time, so nothing fills them."""
    return {"rows": [asdict(bandwidth_row(name, CASES[name], settings, TENSOR_BYTES))]}


def bandwidth_row(name: str, case: Case, settings: Settings, tensor_bytes: int) -> Row:
    """GB/s of the steps of a case, beside those of a copy inside of the device in turn with them."""
    runtime = cuda_runtime(settings)
    model = case.model(tensor_bytes)
    shapes = {value.name: _shape(value) for value in model.graph.input}
    moved = sum(_bytes(value) for value in (*model.graph.input, *model.graph.output))
    with onnxplan.InferenceSession(model, device=settings.device) as session:
        executor, purpose = executor_of(session, shapes), "timing a case"
        with borrowed_slot(executor, purpose) as slot:
            first, second = (executor.context.allocate(moved // 2, purpose) for _ in range(2))

            def copy(stream: int) -> None:
                kind = runtime.memcpyDeviceToDevice
                runtime.memcpyAsync(second.ptr, first.ptr, moved // 2, kind, stream)

            times = cold_seconds(runtime, [steps_launch(slot), copy], lambda stream: None)
    rate, copied = (1e-9 * moved / seconds for seconds in times)
    return Row(name, rate, "GB/s", PEER, copied, rate / copied)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _bytes(value: Any) -> int:
    dtype = DType.from_code(value.type.tensor_type.elem_type)
    total = dtype.itemsize
    for extent in _shape(value):
        total *= extent
    return total
