"""OpenTelemetry spans of sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, TracerProvider, get_tracer

from onnxplan.observed import ObservedSession
from onnxplan.observers import Operation
from onnxplan.runtime.cancellation import Cancelled


class SpanObserver:
    """A span for each operation, of ``provider`` or else the global provider.

    Spans are called ``"run mnist"``: the operation and the session. Runs are children of the span that is
    current where they are awaited, and what a run has to plan and compile first is a child of the run. Spans
    of runs that fail have the status ``ERROR``, an event ``exception``, and the attribute ``error.type`` of
    OpenTelemetry's conventions; those of cancelled runs have ``onnxplan.cancelled``, which is no error.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        if not isinstance(provider, TracerProvider | None):
            raise TypeError(f"opentelemetry must be True or a TracerProvider, not {provider!r}")
        self._tracer: Tracer = get_tracer("onnxplan", version("onnxplan"), provider)

    def opened(self, session: ObservedSession) -> None:
        """Nothing: spans say all."""

    @contextmanager
    def observe(self, operation: Operation) -> Iterator[None]:
        with self._tracer.start_as_current_span(
            f"{operation.kind} {operation.session}",
            kind=SpanKind.INTERNAL,
            attributes={
                "onnxplan.session.name": operation.session,
                "onnxplan.device": operation.device,
                **operation.attributes,
            },
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except (asyncio.CancelledError, Cancelled):
                span.set_attribute("onnxplan.cancelled", True)
                raise
            except Exception as error:
                span.record_exception(error)
                span.set_attribute("error.type", f"{type(error).__module__}.{type(error).__qualname__}")
                span.set_status(Status(StatusCode.ERROR, str(error)))
                raise
