"""``onnxplan compare``: what it prints about a comparison."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from onnxplan.cli.outputs import format_element, statistics
from onnxplan.cli.terminal import add_row, counted, table
from onnxplan.comparison import Comparison, Finding, Operand
from onnxplan.differences import Difference, Extreme, count_special, describe_result
from onnxplan.tensor import Tensor

CAUSES = {
    "node": "the node itself: given the inputs of {against}, it still differs",
    "inputs": "its inputs: given those of {against}, the node agrees with it",
    "fusion": "the nodes around it: alone, with the same inputs, the node computes something else",
    "random": "it draws random numbers, which are others on each side",
}


def show_comparison(screen: Console, found: Comparison) -> None:
    """The first node that differs, and the first that does so by itself if that is another."""
    if found.first is None:
        screen.print(f"all values of {counted(found.nodes, 'node')} agree with {found.against}")
    else:
        _show_finding(screen, "first difference", found.first, found.against)
        if found.fault is None:
            screen.print("no node differs by itself: rounding differences grew on their way")
        elif found.fault is not found.first:
            _show_finding(screen, "first node that differs by itself", found.fault, found.against)
    if found.hidden:
        screen.print(
            f"the values of {counted(found.hidden, 'node')} inside of subgraphs cannot be fetched: what they "
            "do shows at the node around them"
        )


def _show_finding(screen: Console, title: str, finding: Finding, against: str) -> None:
    screen.print(_facts(title, finding, against))
    if finding.operands:
        inputs = table(
            "input", "type", "min", "max", "mean", "NaN, inf", "largest difference", title="its inputs"
        )
        for operand in finding.operands:
            add_row(inputs, *_describe_operand(operand))
        screen.print(inputs)


def _facts(title: str, finding: Finding, against: str) -> Table:
    facts = table("", "", title=title, header=False)
    operator = f"{finding.domain}::{finding.op_type}" if finding.domain else finding.op_type
    difference = finding.difference
    rows = {
        "node": finding.node,
        "operator": f"{operator}, opset {finding.opset}",
        "output": finding.output,
        "onnxplan": describe_result(finding.found),
        against: describe_result(finding.right),
        **_describe_difference(difference),
        "caused by": CAUSES[finding.cause].format(against=against),
    }
    if finding.own is not None and finding.own.absolute is not None:
        rows["difference of the node alone"] = _describe_extreme(finding.own.absolute)
    for name, value in rows.items():
        add_row(facts, name, value)
    return facts


def _describe_difference(difference: Difference) -> dict[str, str]:
    place = {"position in the sequence": ", ".join(map(str, difference.place))} if difference.place else {}
    if difference.absolute is None or difference.relative is None:
        return {**place, "difference": difference.mismatch}
    return {
        **place,
        "elements that differ": f"{difference.count} of {difference.size}",
        "largest absolute difference": _describe_extreme(difference.absolute),
        "largest relative difference": _describe_extreme(difference.relative),
    }


def _describe_extreme(extreme: Extreme) -> str:
    found, right = format_element(extreme.found, digits=9), format_element(extreme.right, digits=9)
    return f"{extreme.distance:.3g} at {list(extreme.index)}: {found}, expected {right}"


def _describe_operand(operand: Operand) -> list[str]:
    value = operand.right
    label = f"{operand.name} (constant)" if operand.constant else operand.name
    kind = describe_result(value)
    if not isinstance(value, np.ndarray):
        return [label, kind, "", "", "", "", ""]
    nans, infinities = count_special(value)
    special = f"{nans}, {infinities}" if nans or infinities else ""
    return [label, kind, *statistics(Tensor.from_numpy(value)), special, _describe_distance(operand)]


def _describe_distance(operand: Operand) -> str:
    difference = operand.difference
    if difference is None:
        return ""
    return difference.mismatch or f"{_distance(difference.absolute):.3g}"


def _distance(extreme: Any) -> float:
    return extreme.distance if isinstance(extreme, Extreme) else float("nan")
