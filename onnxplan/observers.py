"""Who is told what sessions do. Sessions ask once, when made: without observers they are plain ones."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from onnxplan.compiler.records import dataclass

if TYPE_CHECKING:
    from onnxplan.observed import ObservedSession
    from onnxplan.session import InferenceSession

OperationKind: TypeAlias = Literal["load", "plan", "compile", "run"]
AttributeValue: TypeAlias = "str | int | bool | Sequence[str]"


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that a session does.

    ``kind`` is ``"load"`` (all that making a session takes), ``"plan"`` (lowering and passes for some input
    shapes), ``"compile"`` (kernels loaded or compiled, weights packed, memory bound) or ``"run"``.
    ``session`` is the session's name: its option ``name``, else the stem of the model's file, else the name
    of its graph, else ``"model"``. ``device`` is where it runs (for ``"load"`` what was asked for).
    ``attributes`` say more, by names such as ``onnxplan.plan.steps`` (docs/observability.md lists them).
    """

    kind: OperationKind
    session: str
    device: str
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)


class SessionObserver(Protocol):
    """Told what sessions do; register one by :func:`onnxplan.instrument`."""

    def opened(self, session: ObservedSession) -> None:
        """``session`` is ready. Keep no more than a weak reference to it."""
        ...

    def observe(self, operation: Operation) -> AbstractContextManager[Any]:
        """A context that is entered before ``operation`` and left after it.

        What ends an operation early passes through it: an error, ``asyncio.CancelledError`` for a task that
        was cancelled, ``onnxplan.runtime.cancellation.Cancelled`` for a run that was stopped otherwise.
        Contexts of runs may be open in any number of tasks and threads at once.
        """
        ...


active: tuple[SessionObserver, ...] = ()
"""Those that sessions made from now on are observed by."""


def observe(session: InferenceSession) -> None:
    """Makes a session that is about to open one that reports, if there is anyone to report to."""
    if active:
        kind = type(session)
        session.__class__ = importlib.import_module(kind._observed_by).observed_kind(kind)
