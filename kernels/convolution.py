"""Geometry of convolutions. The same for all devices."""

from __future__ import annotations

import math

from onnxplan.compiler.records import dataclass
from onnxplan.compiler.view import View


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution, channels last; ``pads`` are those at the beginning."""

    x: View
    w: View
    output: View
    extras: tuple[View, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    groups: int

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.w.shape[:-2]

    @property
    def channels(self) -> int:
        """Input channels of a group."""
        return self.w.shape[-2]

    @property
    def features(self) -> int:
        """Output channels of a group."""
        return self.w.shape[-1] // self.groups

    @property
    def rows(self) -> int:
        """Output positions of all images."""
        return math.prod(self.output.shape[:-1])

    @property
    def taps(self) -> int:
        return math.prod(self.kernel)
