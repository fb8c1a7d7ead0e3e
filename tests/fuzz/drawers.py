"""What draws a node, by name and weight."""

from __future__ import annotations

from collections.abc import Callable

from tests.fuzz.maker import GraphMaker

Drawer = Callable[[GraphMaker], object]

DRAWERS: dict[str, tuple[Drawer, int]] = {}
"""Functions that add a node or a few to a graph, or nothing where none fits; how often each is drawn."""


def draws(weight: int = 1) -> Callable[[Drawer], Drawer]:
    """Registers a function that draws nodes."""

    def register(drawer: Drawer) -> Drawer:
        assert drawer.__name__ not in DRAWERS
        DRAWERS[drawer.__name__] = (drawer, weight)
        return drawer

    return register
