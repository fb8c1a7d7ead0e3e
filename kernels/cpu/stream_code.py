"""Writing what a thread has put together past the caches."""

from __future__ import annotations

from llvmlite import ir

from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.llvm_types import I8
from onnxplan.kernels.cpu.walk_code import whole_vectors

UNROLL = 4


def stream_bytes(emitter: Emitter, to: ir.Value, source: ir.Value, count: ir.Value) -> None:
    """Writes ``count`` bytes past the caches, but for those beside whole vectors of the result."""
    wide = emitter.with_lanes(emitter.target.vector_bytes)
    head = emitter.minimum(wide.elements_to_line(to, 1), count)
    _move(emitter, to, source, emitter.integer(0), head)

    def stream(indices: list[ir.Value]) -> None:
        values = [wide.load_stored(emitter.offset(source, index), I8) for index in indices]
        for index, value in zip(indices, values, strict=True):
            wide.stream_stored(value, emitter.offset(to, index))

    stop = whole_vectors(wide, head, count, (UNROLL, 1), stream)
    _move(emitter, to, source, stop, count)


def _move(emitter: Emitter, to: ir.Value, source: ir.Value, start: ir.Value, stop: ir.Value) -> None:
    """The few bytes from ``start`` up to ``stop``."""
    with emitter.when(emitter.less(start, stop)):
        count = emitter.sub(stop, start)
        emitter.copy_bytes(emitter.offset(to, start), emitter.offset(source, start), count)
