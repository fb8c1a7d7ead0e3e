"""Code of Winograd's transforms, a vector of channels at a time; see :mod:`onnxplan.kernels.cpu.winograd`."""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.llvm_types import I64, POINTER
from onnxplan.kernels.cpu.registers import Grid, local_function
from onnxplan.kernels.cpu.winograd import POINTS, even_polynomial

F32 = DType.FLOAT32


def input_transform(emitter: Emitter, m: int) -> ir.Function:
    """A function ``(addresses, target, plane, channels)`` that transforms an input tile.

    ``addresses`` holds those of the ``t * t`` inputs' channels; the value for a pair of points goes to
    ``target``, ``plane`` bytes after the pair before. The last vector of a row is written whole.
    """
    extent = m + 2
    inner = local_function(emitter, "transform_input", [POINTER, POINTER, I64, I64], emitter.lanes)
    addresses, target, plane, channels = inner.function.args

    def vector(channel: ir.Value, mask: Mask | None) -> None:
        offset = inner.mul(channel, 4)
        lines: Grid = []
        for y in range(extent):
            line = []
            for x in range(extent):
                entry = inner.offset(addresses, 8 * (y * extent + x))
                address = inner.builder.load(entry, align=8, typ=POINTER)
                line.append(inner.load(inner.offset(address, offset), F32, mask))
            lines.append(_evaluate(inner, m, line))
        at = inner.offset(target, offset)
        for x in range(extent):
            for y, value in enumerate(_evaluate(inner, m, [line[x] for line in lines])):
                inner.store(value, inner.offset(at, inner.mul(plane, y * extent + x)), F32)

    full = inner.builder.and_(channels, I64(-inner.lanes))
    with inner.loop(0, full, inner.lanes) as channel:
        vector(channel, None)
    rest = inner.sub(channels, full)
    with inner.when(inner.less(0, rest)):
        vector(full, inner.mask(rest))
    inner.builder.ret_void()
    return inner.function


def output_transform(emitter: Emitter, m: int, row_bytes: int) -> ir.Function:
    """A function ``(sums, target, plane, vectors)`` from the sums at all pairs of points to an output tile.

    The sums of a pair stand at ``sums``, ``plane`` bytes after those of the pair before; the ``m * m``
    positions go to ``target``, ``row_bytes`` apart.
    """
    extent = m + 2
    inner = local_function(emitter, "transform_output", [POINTER, POINTER, I64, I64], emitter.lanes)
    sums, target, plane, vectors = inner.function.args
    vector_bytes = 4 * inner.lanes
    with inner.loop(0, vectors) as vector:
        at = inner.offset(sums, inner.mul(vector, vector_bytes))
        lines = [
            _interpolate(
                inner,
                m,
                [inner.load(inner.offset(at, inner.mul(plane, y * extent + x)), F32) for x in range(extent)],
            )
            for y in range(extent)
        ]
        to = inner.offset(target, inner.mul(vector, vector_bytes))
        for x in range(m):
            for y, value in enumerate(_interpolate(inner, m, [line[x] for line in lines])):
                inner.store(value, inner.offset(to, (y * m + x) * row_bytes), F32)
    inner.builder.ret_void()
    return inner.function


def _weighted(inner: Emitter, coefficients: list[float], values: list[ir.Value]) -> ir.Value:
    """The sum of ``values`` times ``coefficients``, the last of which is 1."""
    total = values[-1]
    for coefficient, value in zip(coefficients[:-1], values[:-1], strict=True):
        total = inner.fma(inner.constant(coefficient, F32), value, total)
    return total


def _evaluate(inner: Emitter, m: int, values: list[ir.Value]) -> list[ir.Value]:
    """Inputs of a line transformed: at 0, at plus and minus each point, at infinity."""
    points = POINTS[m]
    whole = even_polynomial(points)
    result = [_weighted(inner, whole, values[0:-1:2])]
    for point in points:
        others = even_polynomial(tuple(other for other in points if other != point))
        even = _weighted(inner, others, values[2::2])
        odd = _weighted(inner, others, values[1:-1:2])
        result += [inner.fma(inner.constant(sign * point, F32), odd, even) for sign in (1.0, -1.0)]
    return [*result, _weighted(inner, whole, values[1::2])]


def _interpolate(inner: Emitter, m: int, values: list[ir.Value]) -> list[ir.Value]:
    """Outputs of a line from sums at 0, at plus and minus each point, at infinity."""
    builder = inner.builder
    pairs = [
        (
            builder.fadd(values[1 + 2 * number], values[2 + 2 * number]),
            builder.fsub(values[1 + 2 * number], values[2 + 2 * number]),
        )
        for number in range(len(POINTS[m]))
    ]
    result = []
    for power in range(m):
        total = values[0] if power == 0 else values[-1] if power == m - 1 else None
        for point, pair in zip(POINTS[m], pairs, strict=True):
            term, factor = pair[power % 2], inner.constant(point**power, F32)
            total = builder.fmul(factor, term) if total is None else inner.fma(factor, term, total)
        result.append(total)
    return result
