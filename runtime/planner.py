"""Who makes the plans that an engine runs, and what they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Protocol

from onnxplan.compiler.plan import CompiledPlan, HostFunction
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.structures import Structure
from onnxplan.runtime.device import Array

if TYPE_CHECKING:
    from onnxplan.compiler.provenance import NodeOrigin

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """What decides which plan serves a run: the inputs fed, their shapes, and the outputs wanted.

    ``names`` are those of tensors: ``structures`` says which of them make up the inputs that are sequences
    or maps. ``texts`` holds the elements of tensors of strings, in row-major order: no kernel works on
    strings, so what depends on them alone is evaluated when a run is planned.
    """

    names: tuple[str, ...]
    shapes: tuple[Shape, ...]
    fetches: tuple[str, ...] | None = None
    texts: tuple[tuple[str, tuple[str, ...]], ...] = ()
    structures: tuple[tuple[str, Structure[str]], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class StageFacts:
    """What is known of a stage (:class:`onnxplan.compiler.stage.Stage`) beside its plan.

    ``final`` stages end the model; the output ``DEMAND`` of others is the answer to the question that ended
    them. ``texts`` are outputs of strings, known since planning. ``run_key`` names the input that each run
    draws at random, if there is one. ``structures`` are the model's outputs that are no tensors, by the names
    of the tensors in them. ``function``, ``host_input`` and ``asked_by`` are those of the ``Stage``.
    """

    final: bool
    texts: Mapping[str, Array]
    run_key: str = ""
    structures: Mapping[str, Structure[str]] = field(default_factory=dict)
    function: HostFunction | None = None
    host_input: str = ""
    asked_by: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class PlannedStage:
    """The plan of one stage of a model, and what else is known of it."""

    compiled: CompiledPlan
    facts: StageFacts


class Planner(Protocol):
    """Makes the plans of one model for one device. Only one thread at a time may use it."""

    def plan(self, request: Request, answers: tuple[Array, ...]) -> PlannedStage:
        """The stage after ``answers``, the elements that the stages before were asked for.

        Raises :class:`InvalidModelError` and :class:`UnsupportedOperatorError`.
        """
        ...

    def settle(self, *, wait: bool = False) -> None:
        """A run on plans that are new has ended: what nobody waits for may be done, on another thread.

        With ``wait`` it is done before this returns.
        """
        ...

    def operators(self) -> Mapping[str, str]:
        """The operator types of the model's nodes by their labels; nothing where the model is not at hand."""
        ...

    def origins(self, request: Request, answers: tuple[Array, ...]) -> tuple[NodeOrigin, ...] | None:
        """What became of each node up to the stage after ``answers``; ``None`` for plans made elsewhere."""
        ...

    def close(self) -> None:
        """Releases what plans were made of. What is planned later is made anew."""
        ...


class ForwardingPlanner:
    """What another planner does; for planners that add something to it."""

    def __init__(self, planner: Planner) -> None:
        self._own = planner

    def plan(self, request: Request, answers: tuple[Array, ...]) -> PlannedStage:
        return self._own.plan(request, answers)

    def settle(self, *, wait: bool = False) -> None:
        self._own.settle(wait=wait)

    def operators(self) -> Mapping[str, str]:
        return self._own.operators()

    def origins(self, request: Request, answers: tuple[Array, ...]) -> tuple[NodeOrigin, ...] | None:
        return self._own.origins(request, answers)

    def close(self) -> None:
        self._own.close()
