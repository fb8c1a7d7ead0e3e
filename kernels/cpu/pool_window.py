"""What pooling's kernels share: which taps of a window lie inside of the input, and what others count as."""

from __future__ import annotations

from collections.abc import Mapping

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.llvm_types import compute_type


@dataclass(frozen=True, slots=True)
class Window:
    """Along one axis: where tap 0 lies, the taps ``first`` to ``last`` inside, how many of them count."""

    start: ir.Value
    first: ir.Value
    last: ir.Value
    counted: ir.Value


def window_at(
    emitter: Emitter, axis: Mapping[str, ir.Value], output: ir.Value, kind: str, *, dilated: bool
) -> Window:
    """The window of position ``output``.

    ``axis`` has the words ``stride``, ``pad``, ``extent``, ``kernel``, ``dilation`` and ``limit``; the taps
    before ``limit`` count if ``kind`` is ``counted``, else those inside.
    """
    start = emitter.sub(emitter.mul(output, axis["stride"]), axis["pad"])
    before = emitter.maximum(emitter.sub(0, start), 0)
    last = emitter.maximum(emitter.sub(axis["extent"], start), 0)
    limit = emitter.maximum(emitter.sub(axis["limit"], start), 0)
    if dilated:
        before, last, limit = (_taps(emitter, axis, length) for length in (before, last, limit))
    last, limit = (emitter.minimum(axis["kernel"], end) for end in (last, limit))
    counted = limit if kind == "counted" else emitter.maximum(emitter.sub(last, before), 0)
    return Window(start, before, last, counted)


def _taps(emitter: Emitter, axis: Mapping[str, ir.Value], length: ir.Value) -> ir.Value:
    """How many taps begin within ``length`` positions."""
    return emitter.divide(emitter.sub(emitter.add(length, axis["dilation"]), 1), axis["dilation"])


def neutral(emitter: Emitter, dtype: DType, kind: str) -> ir.Value:
    """What changes no result of ``kind``, in all lanes: zero in sums, the lowest value for a maximum."""
    if kind in ("average", "counted"):
        return emitter.constant(0, dtype)
    if dtype.is_float:
        return emitter.fill(float("-inf"), compute_type(dtype))
    bits = 8 * dtype.itemsize
    return emitter.fill(-(1 << (bits - 1)) if dtype.kind == "i" else 0, compute_type(dtype))
