"""Where the time of a model's runs goes: the data of a profile. All times are in seconds.

:meth:`onnxplan.InferenceSession.profile` measures one, :mod:`onnxplan.profiler` says how.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from onnxplan.compiler.records import dataclass
from onnxplan.dataclass_json import from_json, to_json
from onnxplan.runtime.ceilings import Ceilings

STEP, HOST, BETWEEN = "step", "host", "between"
"""Kinds of rows: a step of a plan, work of the host behind a stage, and what lies between other rows."""


@dataclass(frozen=True, slots=True)
class StepProfile:
    """A row: a step, the host's work, what lies between them, or several rows summed.

    ``index`` is the step's number in its stage's plan, ``None`` for other rows. ``family`` names the kernel,
    ``kernel`` also what is compiled into it, abbreviated. ``nodes`` are the labels of the ONNX nodes that it
    came from, ``operators`` their types, each once. ``seconds`` is the median of the runs (rows of what lies
    between are the rest of the whole, which noise may make negative), ``estimated`` the plan's own estimate
    for one thread, ``ceiling`` the least that the row's arithmetic or traffic takes on this machine, 0 where
    that is unknown. ``flops`` and ``bytes`` are the plan's. ``count`` is how many rows were summed.
    """

    kind: str
    index: int | None
    kernel: str
    family: str
    nodes: tuple[str, ...]
    operators: tuple[str, ...]
    seconds: float
    estimated: float = 0.0
    flops: int = 0
    bytes: int = 0
    ceiling: float = 0.0
    count: int = 1

    @property
    def flops_per_second(self) -> float:
        return _ratio(self.flops, self.seconds)

    @property
    def bytes_per_second(self) -> float:
        return _ratio(self.bytes, self.seconds)

    @property
    def ceiling_share(self) -> float:
        """How near the row comes to the machine's ceiling; above 1 where its data is in caches."""
        return _ratio(self.ceiling, self.seconds)

    @property
    def lost(self) -> float:
        """Seconds above the ceiling: what a better kernel could save at most."""
        return max(0.0, self.seconds - self.ceiling)


@dataclass(frozen=True, slots=True)
class BufferProfile:
    """A byte range of a stage's arena and the steps, first and last, between which it is in use."""

    name: str
    offset: int
    size: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class StageProfile:
    """The part of a model that one plan runs: all of it, or up to where data decides how it goes on.

    ``seconds`` is the median time of the stage; ``rows`` are its steps in order, then ``between`` (binding,
    handing out tiles, waiting for helpers), then the host's work where a stage ends with some; they add up
    to it. ``ends`` says why the stage ends, empty for the last one. ``buffers`` are those of the arena.
    """

    index: int
    seconds: float
    rows: tuple[StepProfile, ...]
    ends: str
    arena_bytes: int
    arena_lower_bound: int
    constant_bytes: int
    buffers: tuple[BufferProfile, ...]

    @property
    def steps(self) -> tuple[StepProfile, ...]:
        """The rows of steps alone, in the plan's order."""
        return tuple(row for row in self.rows if row.kind == STEP)


@dataclass(frozen=True, slots=True)
class TileEvent:
    """A worker (0 is the caller) computed the tiles ``first <= tile < last`` of a step of a stage.

    ``step`` is ``None`` for the host's work. Times are seconds from the beginning of the timeline.
    """

    worker: int
    stage: int
    step: int | None
    first: int
    last: int
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class StageEvent:
    """When a stage ran in the run of a timeline."""

    stage: int
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One of several asynchronous runs at once: submitted, begun by the worker thread ``thread``, ended."""

    number: int
    thread: str
    submitted: float
    begun: float
    ended: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """What happened when: one run tile by tile, and after it several asynchronous ones as wholes."""

    seconds: float
    stages: tuple[StageEvent, ...]
    tiles: tuple[TileEvent, ...]
    runs: tuple[RunEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class Profile:
    """Runs of a model with some feeds, by step. ``print`` shows it as a table.

    ``seconds`` is the median of ``runs`` whole runs (``run_sync``). Times of steps are of as many others,
    which read the clock between two steps. ``between_stages`` is the rest of a run: checks of feeds, results,
    and the way from stage to stage. ``ceilings`` are those of the device with ``threads`` threads, ``None``
    where nothing measures them. ``timeline`` is there where it was asked for.
    """

    model: str
    device: str
    target: str
    threads: int
    version: str
    runs: int
    seconds: float
    stages: tuple[StageProfile, ...]
    ceilings: Ceilings | None
    timeline: Timeline | None = None

    @property
    def between_stages(self) -> float:
        """Seconds of a run that lie in no stage."""
        return self.seconds - sum(stage.seconds for stage in self.stages)

    @property
    def rows(self) -> tuple[StepProfile, ...]:
        """All rows of all stages, and last what lies between stages: together the run."""
        found = [row for stage in self.stages for row in stage.rows]
        return (*found, StepProfile(BETWEEN, None, "run", "run", (), (), self.between_stages))

    def share(self, row: StepProfile) -> float:
        """The row's part of the run."""
        return _ratio(row.seconds, self.seconds)

    def by_kernel(self) -> tuple[StepProfile, ...]:
        """The rows summed by kernel family, the longest first."""
        return self._summed(lambda row: row.family)

    def by_operator(self) -> tuple[StepProfile, ...]:
        """The rows summed by the types of the ONNX nodes they came from, the longest first.

        A step of several types is a row of its own kind, such as ``Conv + Relu``: nobody can say which part
        of it took how long. Steps of nodes that an artifact without its model does not tell are ``unknown``.
        """
        return self._summed(_operator_label)

    def _summed(self, label: Callable[[StepProfile], str]) -> tuple[StepProfile, ...]:
        groups: dict[tuple[str, str], list[StepProfile]] = {}
        for row in self.rows:
            groups.setdefault((row.kind, label(row)), []).append(row)
        found = [_sum_of(kind, name, rows) for (kind, name), rows in groups.items()]
        return tuple(sorted(found, key=lambda row: row.seconds, reverse=True))

    def without_timeline(self) -> Profile:
        """The same without its timeline, which may be large."""
        return replace(self, timeline=None)

    def trace(self) -> dict[str, Any]:
        """The timeline in Chrome's trace event format, for Perfetto; ``json.dump`` writes it to a file.

        Raises ``ValueError`` where the profile has no timeline.
        """
        from onnxplan.chrome_trace import profile_trace

        return profile_trace(self)

    def __str__(self) -> str:
        from onnxplan.profile_text import profile_to_text

        return profile_to_text(self)

    def to_json(self) -> str:
        """The profile as JSON text; :meth:`from_json` gives an equal one back."""
        return to_json(self)

    @staticmethod
    def from_json(text: str | bytes) -> Profile:
        """The profile that :meth:`to_json` wrote; raises ``ValueError`` for anything else."""
        return from_json(Profile, text)


def _operator_label(row: StepProfile) -> str:
    if row.kind == BETWEEN:
        return row.family
    return " + ".join(row.operators) or "unknown"


def _sum_of(kind: str, name: str, rows: Iterable[StepProfile]) -> StepProfile:
    found = list(rows)
    return StepProfile(
        kind,
        None,
        name,
        name,
        tuple(dict.fromkeys(node for row in found for node in row.nodes)),
        tuple(dict.fromkeys(each for row in found for each in row.operators)),
        sum(row.seconds for row in found),
        sum(row.estimated for row in found),
        sum(row.flops for row in found),
        sum(row.bytes for row in found),
        sum(row.ceiling for row in found),
        sum(row.count for row in found),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
