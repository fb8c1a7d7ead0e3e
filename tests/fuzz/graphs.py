"""Hypothesis strategies for random valid models, with feeds and what the reference makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from onnx import ModelProto

from tests.fuzz import blocks, control, elementwise, movement, products, reductions  # noqa: F401
from tests.fuzz.drawers import DRAWERS
from tests.fuzz.maker import GraphMaker, Item, make_model

OPSETS = (13, 17, 18, 21, 23)
KINDS = tuple(name for name, (_, weight) in DRAWERS.items() for _ in range(weight))

WINDOWS = "convolution convolution_block transposed_convolution pool resize".split()
"""What the standard does not define with NaN and infinities: do these meet the zeros of a padding?"""


@dataclass(frozen=True)
class Program:
    """A model with feeds, the right outputs, and how far rounding may move each."""

    model: ModelProto
    feeds: dict[str, Any]
    expected: dict[str, Any]
    errors: dict[str, float]


@st.composite
def programs(
    draw: Any,
    dtypes: Sequence[str] = ("float32",),
    max_nodes: int = 9,
    extent: int = 5,
    kinds: Sequence[str] = KINDS,
) -> Program:
    """Models of up to ``max_nodes`` drawn nodes (some are several) with floats of ``dtypes``.

    Extents are mostly up to ``extent``.
    """
    maker = GraphMaker(draw, dtypes, draw(st.sampled_from(OPSETS)), extent)
    maker.leaf(maker.dtype(), maker.shape(1))
    if maker.special:
        kinds = [kind for kind in kinds if kind not in WINDOWS]
    for kind in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=max_nodes)):
        DRAWERS[kind][0](maker)
    return finish(maker)


def finish(maker: GraphMaker) -> Program:
    """The model of what was drawn: the last value and a few others are outputs."""
    (scope,) = maker.scopes
    last = next((item for item in reversed(scope.items) if _is_made(item)), scope.items[-1])
    outputs: dict[str, Item] = {last.name: last}
    for _ in range(maker.integer(0, 3)):
        item = maker.choose(scope.items)
        outputs.setdefault(item.name, item)
    graph = maker.graph("fuzz", scope, maker.inputs, list(outputs.values()))
    return Program(
        make_model(graph, maker.opset),
        {item.name: item.array for item in maker.inputs},
        {name: np.asarray(item.array) for name, item in outputs.items()},
        {name: item.error for name, item in outputs.items()},
    )


def _is_made(item: Item) -> bool:
    return item.name.startswith("v")
