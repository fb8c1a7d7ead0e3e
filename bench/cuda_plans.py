"""What scripts that time parts of a plan on a GPU take of a session: its executor, and a slot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import onnxplan
from bench import models
from onnxplan.runtime.cuda.bound_plan import CudnnLaunch
from onnxplan.runtime.planner import Request

Shapes = Mapping[str, tuple[int, ...]]


@contextmanager
def planned_model(name: str, device: str) -> Iterator[tuple[onnxplan.InferenceSession, Shapes]]:
    """A session that has run, and the shapes that it ran on; ``name`` is a model and a batch."""
    model, batch = name.split(" ")
    feeds = models.feeds(model, batch=int(batch))
    with onnxplan.InferenceSession(models.path(model, dynamic=True), device=device) as session:
        session.run_sync(feeds)
        yield session, {key: array.shape for key, array in feeds.items()}


def executor_of(session: onnxplan.InferenceSession, shapes: Shapes) -> Any:
    """The CUDA executor of the first plan for inputs of ``shapes``."""
    request = Request(session.input_names, tuple(shapes[name] for name in session.input_names))
    return session._engine.first_stage(request).executor


def calls_cudnn(executor: Any) -> bool:
    """Does cuDNN compute a step of its plan?"""
    return any(isinstance(launch, CudnnLaunch) for launch in executor._shared.bound.launches)


def steps_launch(slot: Any) -> Callable[[int], None]:
    """What queues all steps of a slot's plan on a stream, one by one, without copies or a graph."""

    def launch(stream: int) -> None:
        for queue in slot._steps:
            queue(stream)

    return launch


@contextmanager
def borrowed_slot(executor: Any, purpose: str) -> Iterator[Any]:
    """A slot without work in flight, the device current; ``purpose`` is what errors say is being done."""
    shared = executor._shared
    slot, lane = shared.turns.take(None)
    try:
        with executor.context.active(purpose):
            slot.drain()
            yield slot
    finally:
        shared.turns.queued(slot)
        shared.give(slot, lane)
