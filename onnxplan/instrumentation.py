"""Metrics and traces of sessions: :func:`instrument`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Self

from onnxplan import observers
from onnxplan.observers import SessionObserver

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider
    from prometheus_client import CollectorRegistry


class Instrumentation:
    """What :func:`instrument` has begun; :meth:`close` (or leaving it as a context) ends it.

    Sessions that were made meanwhile stay observed by spans and counters, but the registry forgets their
    metrics.
    """

    def __init__(self, told: tuple[SessionObserver, ...], ends: Iterable[Callable[[], None]]) -> None:
        self._told = told
        self._ends = list(ends)
        observers.active += told

    def close(self) -> None:
        """Ends it for sessions made from now on. Closing twice does nothing."""
        observers.active = tuple(each for each in observers.active if each not in self._told)
        while self._ends:
            self._ends.pop()()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def instrument(
    *observer: SessionObserver,
    prometheus: bool | CollectorRegistry = False,
    opentelemetry: bool | TracerProvider = False,
) -> Instrumentation:
    """Has all sessions that this process makes from now on report what they do.

    ``prometheus``: metrics in this registry, or with ``True`` in ``prometheus_client.REGISTRY``.
    ``opentelemetry``: spans of this provider, or with ``True`` of the global one. ``observer`` are observers
    of the caller's own. Sessions that exist already stay as they are, and without a call of this function
    sessions look for nothing and import nothing.

    Raises ``ImportError`` where a library is missing (extras ``metrics`` and ``tracing``), ``TypeError`` for
    what is no registry, provider or observer, and ``ValueError`` where nothing is asked for, or the registry
    has onnxplan's metrics already.
    """
    told = list(observer)
    for each in told:
        if not callable(getattr(each, "observe", None)) or not callable(getattr(each, "opened", None)):
            raise TypeError(f"an observer has the methods opened and observe, {each!r} has not")
    ends: list[Callable[[], None]] = []
    if opentelemetry is not False:
        try:
            from onnxplan.tracing import SpanObserver
        except ImportError as error:
            raise ImportError(
                f"traces need the package opentelemetry-api: pip install 'onnxplan[tracing]' ({error})"
            ) from error
        told.append(SpanObserver(None if opentelemetry is True else opentelemetry))
    if prometheus is not False:
        try:
            from onnxplan.metrics import MetricsObserver
        except ImportError as error:
            raise ImportError(
                f"metrics need the package prometheus-client: pip install 'onnxplan[metrics]' ({error})"
            ) from error
        metrics = MetricsObserver(None if prometheus is True else prometheus)
        told.append(metrics)
        ends.append(metrics.close)
    if not told:
        raise ValueError("instrument() was asked for nothing: give prometheus, opentelemetry or an observer")
    return Instrumentation(tuple(told), ends)
