"""Subgraphs: If, Loop and Scan, whose bodies read values from around them."""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, NodeProto

from tests.fuzz.drawers import DRAWERS, draws
from tests.fuzz.maker import GraphMaker, Item, Scope

BODY = (
    "smooth piecewise arithmetic arithmetic where clip extremum transpose cut reduction softmax matmul "
    "concat gather squeeze expand"
).split()
"""Drawers for bodies: what they add does not depend on elements that iterations change."""

BODY_ROUNDINGS = 64.0


def body(m: GraphMaker, inputs: list[Item], nodes: int) -> tuple[Scope, list[Item]]:
    """A scope with a few nodes, and the values of the scopes around it that it reads."""
    scope = Scope(items=list(inputs))
    m.scopes.append(scope)
    for _ in range(nodes):
        DRAWERS[m.choose(BODY)][0](m)
    return scope, _captured(m, scope, inputs)


def _captured(m: GraphMaker, scope: Scope, inputs: list[Item]) -> list[Item]:
    own = {item.name for item in inputs} | {tensor.name for tensor in scope.initializers}
    own |= {name for node in scope.nodes for name in node.output}
    names = {name for node in scope.nodes for name in reads(node)} - own
    outer = {item.name: item for around in m.scopes[:-1] for item in around.items}
    return [outer[name] for name in sorted(names) if name in outer]


def reads(node: NodeProto) -> list[str]:
    """Names that a node and its subgraphs read (those of the subgraphs' own values too)."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        if attribute.HasField("g"):
            names += [name for inner in attribute.g.node for name in reads(inner)]
            names += [info.name for info in attribute.g.output]
    return names


def known(items: list[Item]) -> dict[str, Item]:
    return {item.name: item for item in items}


@draws(3)
def branches(m: GraphMaker) -> None:
    if len(m.scopes) > 2:
        return
    condition = m.put(np.array(m.flag()))
    graphs: list[GraphProto] = []
    captured: dict[str, Item] = {}
    wanted: Item | None = None
    for name in ("then", "else"):
        scope, reads = body(m, [], m.integer(1, 3))
        made = [item for item in scope.items if wanted is None or item.dtype == wanted.dtype]
        if not made:
            # A branch may also return what is around it.
            m.scopes.pop()
            around = m.pick(lambda item, like=wanted: like is None or item.dtype == like.dtype)
            m.scopes.append(scope)
            made = m.add("Identity", [around]) if around is not None else []
            reads = _captured(m, scope, [])
        result = m.choose(made[-2:]) if made else None
        if result is None:
            m.scopes.pop()
            return
        graphs.append(m.graph(f"{name}{m.name('g')}", scope, [], [result]))
        m.scopes.pop()
        captured |= known(reads)
        wanted = result
    m.add(
        "If",
        [condition],
        then_branch=graphs[0],
        else_branch=graphs[1],
        captured=list(captured.values()),
        terms=BODY_ROUNDINGS,
    )


def _kept(m: GraphMaker, state: Item, scope: Scope) -> Item | None:
    """A value of the body like ``state``, for the next iteration: made of what is there."""
    found = [item for item in scope.items if item.dtype == state.dtype and item.shape == state.shape]
    made = [item for item in found if item is not state]
    if made and m.integer(0, 2):
        return m.choose(made)
    step = m.leaf(state.dtype, [], low=-2, high=2)
    result = m.add(m.choose(["Add", "Sub"]), [state, step]) if state.dtype != "bool" else []
    return result[0] if result else None


def _state(m: GraphMaker, item: Item) -> Item:
    """As an input of a body: its elements are only those of the first iteration."""
    return Item(m.name("s"), item.array, max(item.error, 1e-6) if item.is_float else 1.0)


@draws(2)
def loop(m: GraphMaker) -> None:
    if len(m.scopes) > 1:
        return
    first = m.floats(0, 3)
    counter = Item(m.name("i"), np.array(0, np.int64), 1.0)
    condition = Item(m.name("b"), np.array(True), 1.0)
    state = _state(m, first)
    scope, _ = body(m, [state], m.integer(1, 3))
    following = _kept(m, state, scope)
    collected = [item for item in scope.items if item is not state][-m.integer(0, 1) or len(scope.items) :]
    going = m.add("Identity", [condition], keep=False)
    if following is None or not going or m.flag():
        collected = []
    captured = _captured(m, scope, [counter, condition, state])
    outputs = [*going, *([following] if following else []), *collected]
    graph = m.graph(m.name("g"), scope, [counter, condition, state], outputs)
    m.scopes.pop()
    if following is None or not going:
        return
    trips = m.put(np.array(m.integer(0, 3), np.int64))
    start = m.put(np.array(True)) if m.flag() else None
    m.add(
        "Loop",
        [trips, start, first],
        1 + len(collected),
        body=graph,
        captured=captured,
        terms=4 * BODY_ROUNDINGS,
    )


@draws(2)
def scan(m: GraphMaker) -> None:
    if len(m.scopes) > 1:
        return
    sequence = m.floats(1, 3)
    if sequence.shape[0] == 0:
        return
    first = m.leaf(sequence.dtype, sequence.shape[1:])
    state, row = _state(m, first), Item(m.name("r"), sequence.array[0], max(sequence.error, 1e-6))
    scope, _ = body(m, [state, row], m.integer(1, 3))
    following = _kept(m, state, scope)
    made = [item for item in scope.items if item is not state and item is not row]
    if following is None or not made:
        m.scopes.pop()
        return
    collected = m.choose(made)
    captured = _captured(m, scope, [state, row])
    graph = m.graph(m.name("g"), scope, [state, row], [following, collected])
    m.scopes.pop()
    m.add(
        "Scan",
        [first, sequence],
        2,
        body=graph,
        num_scan_inputs=1,
        captured=captured,
        terms=4 * BODY_ROUNDINGS,
        **({"scan_input_directions": [1]} if m.flag() else {}),
    )
