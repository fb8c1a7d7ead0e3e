"""Profiles of sessions, in the format that Chrome and Perfetto read and onnxruntime writes."""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from onnxplan.compiler.plan import ExecutionPlan, HostFunction, Operand, Step
from onnxplan.compiler.plan_text import kernel_name
from onnxplan.onnxruntime.types import type_name
from onnxplan.runtime.bound_stage import BoundStage
from onnxplan.runtime.cancellation import CancelFlag
from onnxplan.runtime.cpu.timed_plan import clock_nanoseconds, has_step_clock
from onnxplan.step_timers import Timer, timer_of

if TYPE_CHECKING:
    from onnxplan.onnxruntime.core import Core

logger = logging.getLogger("onnxplan.profile")

MOST_EVENTS = 1_000_000
"""As in onnxruntime, a profile takes no more."""


class Profile:
    """Events of a session, from when this was made; :meth:`write` puts them into a file, once.

    The file's name is ``prefix`` and the time, as onnxruntime makes it. Source of the format:
    https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.start_ns = time.time_ns()
        self._begin = time.perf_counter_ns()
        self._events: list[dict[str, Any]] = []
        self._file = ""
        self._full = False
        self._steps = StepTimers()

    def add(
        self, name: str, begin: int, category: str = "Session", *, end: int | None = None, **arguments: Any
    ) -> None:
        """An event from ``begin`` until ``end`` (default: now), readings of ``time.perf_counter_ns``."""
        if len(self._events) >= MOST_EVENTS:
            if not self._full:
                self._full = True
                logger.warning("the profile has %d events; later ones are dropped", MOST_EVENTS)
            return
        last = time.perf_counter_ns() if end is None else end
        self._events.append(
            {
                "cat": category,
                "pid": os.getpid(),
                "tid": threading.get_native_id(),
                "dur": max(0, last - begin) // 1000,
                "ts": max(0, begin - self._begin) // 1000,
                "ph": "X",
                "name": name,
                "args": arguments,
            }
        )

    def write(self) -> str:
        """Writes the file; its name."""
        if not self._file:
            began = datetime.fromtimestamp(self.start_ns / 1e9, UTC).astimezone()
            milliseconds = self.start_ns // 1_000_000 % 1000
            self._file = f"{self._prefix}_{began:%Y-%m-%d_%H-%M-%S}_{milliseconds}.json"
            lines = ",\n".join(json.dumps(event) for event in self._events)
            with open(self._file, "w", encoding="utf-8") as file:
                file.write(f"[\n{lines}\n]\n")
            # Timers hold the memory of a run.
            self._steps = StepTimers()
        return self._file


class StepTimers(threading.local):
    """For each thread the timers of the stages that it ran, and what events say of their steps."""

    def __init__(self) -> None:
        self.stages: dict[BoundStage, tuple[Timer, list[tuple[str, dict[str, Any]]]]] = {}


def node_observer(profile: Profile | None, session: Core) -> NodeObserver | None:
    """What adds the events of a run of ``session`` to ``profile``, if there is one."""
    return None if profile is None else NodeObserver(profile, session)


class NodeObserver:
    """Runs stages and adds an event for each step to a profile, and one for each stage.

    An event stands for all ONNX nodes that became the step: it is named after the first, and ``op_name``
    has the types of all. Without POSIX clocks there are stages alone.
    """

    def __init__(self, profile: Profile, session: Core) -> None:
        self._profile = profile
        self._session = session

    def execute(self, stage: BoundStage, inputs: Any, outputs: Any, cancel: CancelFlag | None) -> None:
        begin = time.perf_counter_ns()
        executor = stage.executor
        if has_step_clock():
            self._time_steps(stage, inputs, outputs, cancel)
        else:
            executor.run(inputs, outputs, cancel)
        self._profile.add("SequentialExecutor::Execute", begin)

    def call_host(self, stage: BoundStage, function: HostFunction, answer: Any) -> Any:
        begin = time.perf_counter_ns()
        made = function(answer)
        asked_by = stage.facts.asked_by
        kind = self._session._engine.planner.operators().get(asked_by, "")
        self._profile.add(
            f"{asked_by}_kernel_time", begin, "Node", op_name=kind, provider="CPUExecutionProvider"
        )
        return made

    def _time_steps(self, stage: BoundStage, inputs: Any, outputs: Any, cancel: CancelFlag | None) -> None:
        stages = self._profile._steps.stages
        if stage not in stages:
            operators = self._session._engine.planner.operators()
            stages[stage] = timer_of(stage), step_facts(stage.executor.plan, operators)
        timer, facts = stages[stage]
        timer.run(inputs, outputs, cancel)
        shift = clock_nanoseconds() - time.perf_counter_ns()
        times = [reading - shift for reading in timer.readings().tolist()]
        for (name, arguments), begin, end in zip(facts, times[:-2], times[1:-1], strict=True):
            self._profile.add(name, begin, "Node", end=end, **arguments)


def step_facts(plan: ExecutionPlan, operators: Mapping[str, str]) -> list[tuple[str, dict[str, Any]]]:
    """Name and arguments of the event of each step; numbers are texts, as in onnxruntime."""
    return [
        (f"{_first(step)}_kernel_time", _arguments(plan, number, step, operators))
        for number, step in enumerate(plan.steps)
    ]


def _first(step: Step) -> str:
    return step.nodes[0] if step.nodes else step.kernel.family


def _arguments(plan: ExecutionPlan, number: int, step: Step, operators: Mapping[str, str]) -> dict[str, Any]:
    outputs = [step.operands[place] for place in step.outputs]
    reads = [each for place, each in enumerate(step.operands) if place not in step.outputs]
    constant = [each for each in reads if plan.buffers[each.buffer].space == "constant"]
    kinds = dict.fromkeys(operators[node] for node in step.nodes if node in operators)
    return {
        "op_name": "+".join(kinds) or step.kernel.family,
        "provider": f"{plan.target.device.upper()}ExecutionProvider",
        "node_index": str(number),
        "input_type_shape": _types(reads),
        "output_type_shape": _types(outputs),
        "activation_size": str(_bytes(each for each in reads if each not in constant)),
        "parameter_size": str(_bytes(constant)),
        "output_size": str(_bytes(outputs)),
        "kernel": kernel_name(step.kernel),
        "nodes": list(step.nodes),
    }


def _types(operands: Iterable[Operand]) -> list[dict[str, list[int]]]:
    return [{type_name(each.dtype)[len("tensor(") : -1]: list(each.shape)} for each in operands]


def _bytes(operands: Iterable[Operand]) -> int:
    return sum(math.prod(each.shape) * each.dtype.itemsize for each in operands)
