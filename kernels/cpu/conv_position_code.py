"""Where output positions of a convolution read its input."""

from __future__ import annotations

from llvmlite import ir

from onnxplan.kernels.cpu.conv_taps import CONV_WORDS
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.emitter_core import Variable
from onnxplan.kernels.cpu.llvm_types import I64
from onnxplan.kernels.cpu.product import WORDS

ONE = I64(1)


def conv_words(emitter: Emitter) -> dict[str, ir.Value]:
    """The values of :data:`~onnxplan.kernels.cpu.conv_taps.CONV_WORDS`."""
    return {name: emitter.parameter(len(WORDS) + number) for number, name in enumerate(CONV_WORDS)}


class Positions:
    """Walks along output positions in row-major order: where their first tap reads ``x``."""

    def __init__(self, emitter: Emitter, word: dict[str, ir.Value], first: ir.Value) -> None:
        self._emitter, self._word = emitter, word
        values: list[Variable] = []
        rest = first
        for axis in "xyz":
            values.insert(0, emitter.variable(emitter.modulo(rest, word[f"out_{axis}"])))
            rest = emitter.divide(rest, word[f"out_{axis}"])
        self._position = dict(zip("zyx", values, strict=True))
        self._image = emitter.variable(rest)

    def first_tap(self, axis: str) -> ir.Value:
        """The coordinate in ``x`` that the first tap reads; may lie outside."""
        emitter, word = self._emitter, self._word
        return emitter.sub(
            emitter.mul(self._position[axis].value, word[f"stride_{axis}"]), word[f"pad_{axis}"]
        )

    def offset(self) -> ir.Value:
        """Bytes from the start of ``x`` to what the first tap reads."""
        emitter, word = self._emitter, self._word
        total = emitter.mul(self._image.value, word["step_n"])
        for axis in "zyx":
            total = emitter.add(total, emitter.mul(self.first_tap(axis), word[f"step_{axis}"]))
        return total

    def left_in_line(self) -> ir.Value:
        """Positions from here to the end of a line along x."""
        return self._emitter.sub(self._word["out_x"], self._position["x"].value)

    def advance(self, count: ir.Value = ONE) -> None:
        """Moves ``count`` positions on, not further than to the next line."""
        emitter, word = self._emitter, self._word
        carry = count
        for axis in "xyz":
            position = self._position[axis]
            moved = emitter.add(position.value, carry)
            wraps = emitter.builder.icmp_signed("==", moved, word[f"out_{axis}"])
            position.value = emitter.builder.select(wraps, I64(0), moved)
            carry = emitter.builder.zext(wraps, I64)
        self._image.value = emitter.add(self._image.value, carry)


def lies_inside(emitter: Emitter, coordinate: ir.Value, extent: ir.Value) -> ir.Value:
    return emitter.builder.icmp_unsigned("<", coordinate, extent)
