"""Prometheus metrics of sessions."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeVar

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from onnxplan.compiler import errors
from onnxplan.compiler.records import dataclass
from onnxplan.observed import ObservedSession
from onnxplan.observers import Operation
from onnxplan.runtime.cancellation import Cancelled

RUN_BUCKETS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
START_BUCKETS = (1e-3, 5e-3, 2.5e-2, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
"""Upper bounds in seconds, of runs and of what comes before them."""

SESSION_LIMIT = 100
"""Names of sessions that get labels of their own; all others share the label ``"other"``."""

ERRORS = frozenset(
    kind.__name__
    for kind in (*vars(errors).values(), OSError, TypeError, ValueError)
    if isinstance(kind, type) and issubclass(kind, Exception)
)
"""Errors that get labels of their own."""

LABELS = ("session", "device")
OUTCOMES = ("ok", "error", "cancelled")

C = TypeVar("C", bound=Collector)


class MetricsObserver:
    """Metrics of all sessions in a registry (``None``: that of ``prometheus_client``).

    Runs are counted and timed as they end. Gauges are read from the sessions that exist when the registry is
    scraped, and cost nothing in between. Raises ``ValueError`` where the registry has such metrics already.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        if not isinstance(registry, CollectorRegistry | None):
            raise TypeError(f"prometheus must be True or a CollectorRegistry, not {registry!r}")
        self._registry = REGISTRY if registry is None else registry
        self._names = Names(SESSION_LIMIT)
        self._gauges = SessionCollector(self._names)
        self._series: dict[tuple[str, str, str], Series] = {}
        self._registered: list[Collector] = []
        try:
            self._runs = self._add(
                Counter("onnxplan_runs", "Runs by how they ended.", (*LABELS, "outcome"), registry=None)
            )
            self._errors = self._add(
                Counter("onnxplan_errors", "Failures.", (*LABELS, "operation", "error"), registry=None)
            )
            self._seconds: dict[str, Histogram] = {
                kind: self._add(
                    Histogram(
                        f"onnxplan_{kind}_duration_seconds", text, LABELS, registry=None, buckets=buckets
                    )
                )
                for kind, text, buckets in (
                    ("run", "Runs that succeeded, from the call to the result.", RUN_BUCKETS),
                    ("load", "Making sessions, with all plans and kernels made then.", START_BUCKETS),
                    ("plan", "Making plans for input shapes.", START_BUCKETS),
                    ("compile", "Loading or compiling kernels and binding plans.", START_BUCKETS),
                )
            }
            self._add(self._gauges)
        except ValueError:
            self.close()
            raise

    def _add(self, collector: C) -> C:
        self._registry.register(collector)
        self._registered.append(collector)
        return collector

    def close(self) -> None:
        """Takes the metrics out of the registry."""
        while self._registered:
            self._registry.unregister(self._registered.pop())

    def opened(self, session: ObservedSession) -> None:
        self._gauges.add(session)

    def observe(self, operation: Operation) -> AbstractContextManager[None]:
        return _Timer(self._series_of(operation))

    def _series_of(self, operation: Operation) -> Series:
        key = self._names.label(operation.session), operation.device, operation.kind
        series = self._series.get(key)
        if series is None:
            # Looking up a metric by its labels takes longer than counting does.
            *labels, kind = key
            outcomes = {outcome: self._runs.labels(*labels, outcome) for outcome in OUTCOMES}
            errors = partial(self._errors.labels, *labels, kind)
            series = Series(self._seconds[kind].labels(*labels), outcomes if kind == "run" else {}, errors)
            self._series[key] = series
        return series


@dataclass(frozen=True, slots=True)
class Series:
    """The metrics of one kind of operation of one session: ``outcomes`` of runs only, ``errors`` by name."""

    seconds: Histogram
    outcomes: Mapping[str, Counter]
    errors: Callable[[str], Counter]


class _Timer:
    """Counts and times one operation."""

    __slots__ = ("_begin", "_series")

    def __init__(self, series: Series) -> None:
        self._series = series

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        series = self._series
        if kind is None:
            outcome = "ok"
            series.seconds.observe(time.perf_counter() - self._begin)
        elif issubclass(kind, asyncio.CancelledError | Cancelled):
            outcome = "cancelled"
        else:
            outcome = "error"
            series.errors(kind.__name__ if kind.__name__ in ERRORS else "other").inc()
        counter = series.outcomes.get(outcome)
        if counter is not None:
            counter.inc()


class Names:
    """The first ``limit`` names are labels; others share one, so that metrics do not grow without bound."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def label(self, name: str) -> str:
        if name in self._known:
            return name
        with self._lock:
            if len(self._known) < self._limit:
                self._known.add(name)
        return name if name in self._known else "other"


class SessionCollector(Collector):
    """Gauges read from the open sessions, summed over those of one name and device."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._sessions: weakref.WeakSet[ObservedSession] = weakref.WeakSet()
        self._kernels: dict[tuple[str, str, bool], int] = {}
        self._lock = threading.Lock()

    def add(self, session: ObservedSession) -> None:
        with self._lock:
            self._sessions.add(session)
            self._count_kernels(session)

    def _count_kernels(self, session: ObservedSession) -> None:
        self._kernels[session.kernel_origin] = session.compiled_kernels

    def describe(self) -> list[Metric]:
        return list(self._families().values())

    @staticmethod
    def _families() -> dict[str, Metric]:
        gauges = {
            "sessions": ("onnxplan_sessions", "Open sessions.", LABELS),
            "in_flight": ("onnxplan_runs_in_flight", "Runs that are not over, queued ones too.", LABELS),
            "queued": ("onnxplan_runs_queued", "Runs that wait for a place or a worker thread.", LABELS),
            "memory": (
                "onnxplan_memory_bytes",
                "Memory of the device that plans hold: constants, and slots (arenas) for runs.",
                (*LABELS, "kind"),
            ),
            "peak": ("onnxplan_memory_peak_bytes", "The most of constants and slots at once.", LABELS),
        }
        families: dict[str, Metric] = {
            key: GaugeMetricFamily(name, text, labels=labels) for key, (name, text, labels) in gauges.items()
        }
        families["kernels"] = CounterMetricFamily(
            "onnxplan_compiled_kernels", "Kernels that this process had to compile.", labels=("device",)
        )
        return families

    def collect(self) -> list[Metric]:
        values: dict[tuple[str, tuple[str, ...]], float] = {}

        def add(key: str, value: float, *labels: str) -> None:
            values[key, labels] = values.get((key, labels), 0) + value

        with self._lock:
            for session in tuple(self._sessions):
                if session.closed:
                    continue
                labels = self._names.label(session.name), session.device
                memory = session.memory()
                add("sessions", 1, *labels)
                add("in_flight", session.in_flight, *labels)
                add("queued", session.queued, *labels)
                add("memory", memory.constants, *labels, "constants")
                add("memory", memory.slots, *labels, "slots")
                add("memory", memory.results, *labels, "results")
                add("peak", memory.peak, *labels)
                self._count_kernels(session)
            for (device, *_), count in self._kernels.items():
                add("kernels", count, device)
        families = self._families()
        for (key, own), value in values.items():
            families[key].add_metric(own, value)  # type: ignore[attr-defined]
        return list(families.values())
