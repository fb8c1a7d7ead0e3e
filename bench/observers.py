"""What metrics and traces add to a run: ``python -m bench.observers``.

``await session.run`` of the reference sample, plain and observed. Spans are recorded and handed to an
exporter that drops them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Annotated, Any

import numpy as np
import typer
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from prometheus_client import CollectorRegistry

import onnxplan
from bench import record
from bench.overhead import measure, sample_model

PLAIN = "not observed"


class Dropping(SpanExporter):
    """Takes spans and forgets them."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def caller(session: onnxplan.InferenceSession) -> Callable[[], Any]:
    feeds = {"a": np.ones((3, 4), np.float32), "b": np.ones((4, 3), np.float32)}

    async def call() -> None:
        await session.run(feeds)

    return call


async def observer_rows(rounds: int = 15, block: float = 0.02) -> list[record.Row]:
    """The time of a run in microseconds, beside that of one that is not observed."""
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Dropping()))
    options: dict[str, dict[str, Any]] = {
        PLAIN: {},
        "Prometheus": {"prometheus": CollectorRegistry()},
        "OpenTelemetry without a provider": {"opentelemetry": True},
        "OpenTelemetry": {"opentelemetry": provider},
    }
    with ExitStack() as stack:
        sessions = {}
        for name, asked in options.items():
            with ExitStack() as observed:
                if asked:
                    observed.enter_context(onnxplan.instrument(**asked))
                sessions[name] = stack.enter_context(onnxplan.InferenceSession(sample_model()))
        times = await measure(
            {name: caller(session) for name, session in sessions.items()}, rounds=rounds, block=block
        )
    provider.shutdown()
    plain = times.pop(PLAIN)
    rows = [record.Row(f"await session.run, {PLAIN}", 1e6 * plain, "us")]
    for name, seconds in times.items():
        rows.append(
            record.Row(f"await session.run, {name}", 1e6 * seconds, "us", PLAIN, 1e6 * plain, plain / seconds)
        )
    return rows


def main(save: Annotated[bool, typer.Option(help="write the record")] = True) -> None:
    """Measures what observers add to runs."""
    rows = asyncio.run(observer_rows())
    record.show("observers", rows)
    if save:
        print(record.write("observers", rows))


if __name__ == "__main__":
    typer.run(main)
