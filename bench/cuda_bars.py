"""Bars that ``make bench-cuda`` is to reach, judged by the rows of its record."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.record import Row

Figure = Callable[[Sequence[Row]], float | None]
"""What a bar is for, taken from all rows; None where no row has it."""


@dataclass(frozen=True, slots=True)
class Bar:
    """``value`` is None where nothing was measured; then ``met`` is None too."""

    name: str
    unit: str
    bar: float
    at_most: bool
    value: float | None

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value <= self.bar if self.at_most else self.value >= self.bar

    def __str__(self) -> str:
        bound = f"at {'most' if self.at_most else 'least'} {self.bar:g} {self.unit}".rstrip()
        if self.value is None:
            return f"{self.name}: {bound}: not measured"
        return f"{self.name}: {self.value:.4g}, {bound}: {'met' if self.met else 'missed'}"


def judge(rows: Sequence[Row]) -> list[Bar]:
    """All bars with what the rows say of them."""
    return [Bar(name, unit, bar, at_most, figure(rows)) for name, unit, bar, at_most, figure in BARS]


def _ratios(rows: Sequence[Row], begins: str, peer: str) -> list[float]:
    return [
        row.ratio
        for row in rows
        if row.ratio is not None and row.peer.startswith(peer) and row.name.startswith(begins)
    ]


def _models(rows: Sequence[Row]) -> list[float]:
    return _ratios([row for row in rows if row.name.endswith("on the device")], "", "torch.compile")


def _mean(rows: Sequence[Row]) -> float | None:
    ratios = _models(rows)
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None


def _worst_model(rows: Sequence[Row]) -> float | None:
    return min(_models(rows), default=None)


def _value(begins: str, factor: float = 1.0) -> Figure:
    def figure(rows: Sequence[Row]) -> float | None:
        return next((factor * row.value for row in rows if row.name.startswith(begins)), None)

    return figure


def _worst(begins: str, peer: str = "") -> Figure:
    return lambda rows: min(_ratios(rows, begins, peer), default=None)


BARS: tuple[tuple[str, str, float, bool, Figure], ...] = (
    ("whole models beside torch.compile, geometric mean", "", 1.1, False, _mean),
    ("whole models beside torch.compile, worst", "", 0.9, False, _worst_model),
    ("the sample from host to host", "us", 40.0, True, _value("session.run_sync of the sample")),
    ("tiny MLP from host to host", "us", 50.0, True, _value("tiny_mlp, batch 1, from the host", 1e3)),
    ("products beside cuBLASLt's best algorithm", "", 0.98, False, _worst("product:", "best of")),
    ("elementwise beside a copy", "", 0.9, False, _worst("elementwise:")),
    ("norm beside a copy", "", 0.9, False, _worst("norm:")),
    ("softmax beside a copy", "", 0.9, False, _worst("softmax:")),
    ("attention beside PyTorch's", "", 0.8, False, _worst("attention:")),
    ("attention through cuDNN beside PyTorch's", "", 1.0, False, _worst("attention through cuDNN:")),
    ("own convolution beside cuDNN", "", 0.6, False, _worst("own convolution:")),
    ("convolution through cuDNN beside cuDNN", "", 0.95, False, _worst("convolution through cuDNN:")),
    ("run after run", "us", 10.0, True, _value("run after run")),
    ("8 tasks beside one", "", 1.3, False, _worst("8 tasks", "1 task")),
    ("first run of a new shape", "ms", 100.0, True, _value("first run of a new shape")),
)
"""Name, unit, bar, whether it is the most, and where the figure comes from."""
