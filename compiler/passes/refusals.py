"""Why neighbours were not fused: passes say so, and who wants to know listens.

Nobody listens while models are planned as usual: then a refusal costs one look at a context variable. Reasons
are constant texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from onnxplan.compiler.program import Operation

Refusals = dict[tuple[frozenset[str], frozenset[str]], str]
"""The latest reason for each producer and consumer, both known by the labels of their ONNX nodes."""

_listening: ContextVar[Refusals | None] = ContextVar("onnxplan_refusals", default=None)


@contextmanager
def recorded_refusals() -> Iterator[Refusals]:
    """What passes that run inside, on this thread, refuse to fuse. Later passes may fuse it after all."""
    found: Refusals = {}
    token = _listening.set(found)
    try:
        yield found
    finally:
        _listening.reset(token)


def refuse(producer: Operation, consumer: Operation, reason: str) -> None:
    """Notes why ``producer`` is not computed together with ``consumer``, which reads its result."""
    found = _listening.get()
    if found is not None:
        found[frozenset(producer.nodes), frozenset(consumer.nodes)] = reason
