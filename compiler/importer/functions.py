"""Functions that a model brings along: checked for recursion, then inlined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from google.protobuf.message import DecodeError, EncodeError
from onnx.onnx_ml_pb2 import ModelProto, NodeProto

from onnxplan.compiler.errors import InvalidModelError

_Key = tuple[str, str, str]


def inline_functions(proto: ModelProto) -> ModelProto:
    """``proto`` without functions of its own. Raises :class:`InvalidModelError`."""
    # With all of the package, which few models need.
    from onnx import inliner

    functions = {(_domain(f.domain), f.name, f.overload): list(_calls(f.node)) for f in proto.functions}
    if len(functions) != len(proto.functions):
        raise InvalidModelError("two functions have the same domain, name and overload")
    _check_recursion(functions)
    try:
        return inliner.inline_local_functions(proto, convert_version=True)
    except (RuntimeError, ValueError, TypeError, IndexError, DecodeError, EncodeError) as error:
        names = ", ".join(_label(key) for key in functions)
        raise InvalidModelError(f"its functions cannot be inlined ({names}): {error}") from error


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _label(key: _Key) -> str:
    return "::".join(map(str, key[:2]))


def _calls(nodes: Iterable[NodeProto]) -> Iterator[_Key]:
    """What the nodes and those of their subgraphs may call."""
    pending = list(nodes)
    while pending:
        node = pending.pop()
        yield _domain(node.domain), node.op_type, node.overload
        for attribute in node.attribute:
            for graph in [attribute.g, *attribute.graphs]:
                pending.extend(graph.node)


def _check_recursion(functions: dict[_Key, list[_Key]]) -> None:
    finished: set[_Key] = set()
    for root in functions:
        active = [root]
        stack = [iter(functions[root])]
        while stack:
            callee = next((key for key in stack[-1] if key in functions and key not in finished), None)
            if callee is None:
                finished.add(active.pop())
                stack.pop()
            elif callee in active:
                cycle = " -> ".join(map(_label, [*active[active.index(callee) :], callee]))
                raise InvalidModelError(f"functions call themselves: {cycle}")
            else:
                active.append(callee)
                stack.append(iter(functions[callee]))
