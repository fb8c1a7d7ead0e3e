"""Code of convolutions whose rows adjoin; see :mod:`onnxplan.kernels.cpu.conv_planes`.

A row of a panel is what one tap of one channel meets at the panel's positions. Positions that follow each
other along x are copied together, for one tap and channel after the other.
"""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.conv_planes import PLANE_WORDS
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.epilogue import Epilogue
from onnxplan.kernels.cpu.llvm_types import I32, I64, POINTER, storage_type
from onnxplan.kernels.cpu.matmul_code import MatrixRows
from onnxplan.kernels.cpu.objects import ObjectCode, kernel_symbol
from onnxplan.kernels.cpu.product import WORDS
from onnxplan.kernels.cpu.product_code import PackPanel, ProductCode, emit_product
from onnxplan.kernels.cpu.registers import local_function
from onnxplan.kernels.cpu.tiling import RegisterTile, sum_dtype

ROW_WORDS = 3
"""Words of :class:`~onnxplan.kernels.cpu.matmul_code.MatrixRows`."""


def build_conv_planes(variant: Variant, target: Target) -> ObjectCode:
    """The kernel of the step of :func:`onnxplan.kernels.cpu.conv_planes.emit_conv_planes`."""
    kind, label, tile_sizes, stride, single, epilogue_variant = variant
    assert isinstance(tile_sizes, tuple)
    assert isinstance(stride, int)
    assert isinstance(epilogue_variant, tuple)
    tile = RegisterTile(*(int(str(size)) for size in tile_sizes))
    epilogue = Epilogue.from_variant(epilogue_variant)
    emitter = Emitter.kernel(kernel_symbol("conv_planes", variant), target, tile.lanes)
    dtype = DType.from_label(str(label))
    code = ProductCode(target, tile, dtype, "gathered", epilogue)
    rows = MatrixRows(emitter, dtype, sum_dtype(epilogue.accumulator), str(kind), tile)
    pack = _panel_gatherer(emitter, dtype, tile, stride, ahead=bool(single))
    return emit_product(emitter, code, rows, len(WORDS) + ROW_WORDS + len(PLANE_WORDS), pack)


def _panel_gatherer(
    emitter: Emitter, dtype: DType, tile: RegisterTile, stride: int, *, ahead: bool
) -> PackPanel:
    gather = _Gather(emitter, dtype, tile, stride, ahead=ahead).function
    parameters = emitter.offset(emitter.function.args[1], 8 * (len(WORDS) + ROW_WORDS))

    def pack(target: ir.Value, x: ir.Value, column: ir.Value, columns: ir.Value) -> None:
        emitter.builder.call(gather, [parameters, target, x, column, columns])

    return pack


class _Gather:
    """Writes ``(words, target, x, first, columns)``: a panel of the positions from ``first`` on.

    What taps meet outside of the input is zero, and so are columns beyond ``columns``. With ``ahead`` the
    positions behind those of a whole panel are fetched.
    """

    def __init__(
        self, emitter: Emitter, dtype: DType, tile: RegisterTile, stride: int, *, ahead: bool
    ) -> None:
        types = [POINTER, POINTER, POINTER, I64, I64]
        inner = local_function(emitter, "gather_panel", types, tile.lanes)
        words, self._target, self._x, first, columns = inner.function.args
        self._inner, self._dtype, self._tile, self._stride = inner, dtype, tile, stride
        self._ahead = ahead
        self._word = {
            name: inner.builder.load(inner.offset(words, 8 * number), align=8, typ=I64)
            for number, name in enumerate(PLANE_WORDS)
        }
        self._row_bytes = tile.width * dtype.itemsize
        self._taps = inner.mul(self._word["kernel_y"], self._word["kernel_x"])
        self._write(first, columns)
        inner.builder.ret_void()
        self.function = inner.function

    def _write(self, first: ir.Value, columns: ir.Value) -> None:
        inner, word = self._inner, self._word
        # Lanes that nobody writes are multiplied all the same, and denormal numbers would be slow.
        unwritten = inner.less(columns, self._tile.width)
        with inner.when(inner.builder.or_(inner.less(0, word["outside"]), unwritten)):
            self._clear()
        done = inner.variable(I64(0))
        y = inner.variable(inner.divide(first, word["out_x"]))
        x = inner.variable(inner.modulo(first, word["out_x"]))
        with inner.repeat_while(lambda: inner.less(done.value, columns)):
            count = inner.minimum(inner.sub(columns, done.value), inner.sub(word["out_x"], x.value))
            self._run(y.value, x.value, done.value, count)
            done.value = inner.add(done.value, count)
            x.value = I64(0)
            y.value = inner.add(y.value, 1)

    def _clear(self) -> None:
        inner = self._inner
        nbytes = inner.mul(inner.mul(self._taps, self._word["channels"]), self._row_bytes)
        with inner.loop(0, nbytes, inner.lanes * self._dtype.itemsize) as at:
            inner.store(inner.constant(0, self._dtype), inner.offset(self._target, at), self._dtype)

    def _run(self, y: ir.Value, x: ir.Value, column: ir.Value, count: ir.Value) -> None:
        """``count`` positions along x: as many as a panel has at once where they all lie inside."""
        inner, word = self._inner, self._word
        with inner.loop(0, word["kernel_y"]) as tap_y:
            row = inner.add(inner.mul(y, word["stride_y"]), inner.mul(tap_y, word["dilation_y"]))
            row = inner.sub(row, word["pad_y"])
            with inner.when(inner.builder.icmp_unsigned("<", row, word["in_y"])):
                line = inner.offset(self._x, inner.mul(row, word["step_y"]))
                with inner.loop(0, word["kernel_x"]) as tap_x:
                    tap = inner.add(inner.mul(tap_y, word["kernel_x"]), tap_x)
                    target = inner.offset(self._target, inner.mul(tap, self._row_bytes))
                    shift = inner.sub(inner.mul(tap_x, word["dilation_x"]), word["pad_x"])
                    start = inner.add(inner.mul(x, self._stride), shift)
                    self._tap(line, start, target, column, count)

    def _tap(
        self, line: ir.Value, start: ir.Value, target: ir.Value, column: ir.Value, count: ir.Value
    ) -> None:
        """Copies what a tap meets, from ``start`` of a line on, to the columns from ``column`` on."""
        inner, stride, size = self._inner, self._stride, self._dtype.itemsize

        def first_from(position: ir.Value) -> ir.Value:
            """The first lane at or behind ``position``, rounded down to negative numbers."""
            distance = inner.sub(position, start)
            return distance if stride == 1 else inner.builder.ashr(inner.add(distance, stride - 1), I64(1))

        low = inner.maximum(first_from(I64(0)), 0)
        high = inner.minimum(first_from(self._word["in_x"]), count)
        source = inner.offset(line, inner.mul(inner.add(start, inner.mul(low, stride)), size))
        to = inner.offset(target, inner.mul(inner.add(column, low), size))
        valid = inner.sub(high, low)
        whole = inner.builder.icmp_signed("==", valid, I64(self._tile.width))
        with inner.branch(whole) as (wide, narrow):
            with wide:
                self._channels(source, to, self._tile.vectors, None)
            with narrow:
                done: ir.Value = I64(0)
                for vectors in (2, 1, 0):
                    lanes = max(1, vectors) * inner.lanes
                    stop = inner.builder.and_(inner.maximum(valid, 0), I64(-lanes)) if vectors else valid
                    with inner.loop(done, stop, lanes) as lane:
                        here = inner.offset(source, inner.mul(lane, stride * size))
                        count = None if vectors else inner.sub(valid, lane)
                        there = inner.offset(to, inner.mul(lane, size))
                        self._channels(here, there, max(1, vectors), count)
                    done = stop

    def _channels(self, source: ir.Value, to: ir.Value, vectors: int, count: ir.Value | None) -> None:
        """Copies whole vectors of positions of all channels, or the first ``count`` of one vector."""
        inner, word = self._inner, self._word
        nbytes = inner.lanes * self._dtype.itemsize
        step = inner.mul(self._taps, self._row_bytes)
        written = None if count is None else inner.mask(count)
        with inner.loop(0, word["channels"]) as channel:
            at = inner.offset(source, inner.mul(channel, word["step_c"]))
            place = inner.offset(to, inner.mul(channel, step))
            for vector in range(vectors):
                value = self._positions(inner.offset(at, vector * nbytes * self._stride), count)
                inner.store_stored(value, inner.offset(place, vector * nbytes), written)
                if self._ahead and vectors == self._tile.vectors:
                    # The next panel's positions: rows of planes are too far apart for the processor to guess.
                    ahead = (vectors + vector) * nbytes * self._stride
                    for line in range(self._stride):
                        inner.prefetch(inner.offset(at, ahead + line * nbytes), locality=2)

    def _positions(self, source: ir.Value, count: ir.Value | None) -> ir.Value:
        """A vector of positions, or the first ``count`` of them; nothing behind the last one is read."""
        inner, lanes, element = self._inner, self._inner.lanes, storage_type(self._dtype)
        if self._stride == 1:
            return inner.load_stored(source, element, None if count is None else inner.mask(count))
        # Even positions of two vectors; the second begins one element early where all are read.
        early = int(count is None)
        masks: list[Mask | None] = [None, None]
        if count is not None:
            last = inner.sub(inner.mul(count, 2), 1)
            masks = [inner.mask(last), inner.mask(inner.sub(last, lanes))]
        starts = (source, inner.offset(source, (lanes - early) * self._dtype.itemsize))
        values = [inner.load_stored(at, element, mask) for at, mask in zip(starts, masks, strict=True)]
        order = [2 * lane if 2 * lane < lanes else 2 * lane + early for lane in range(lanes)]
        return inner.builder.shuffle_vector(
            *values, ir.Constant(ir.VectorType(I32, lanes), [I32(o) for o in order])
        )
