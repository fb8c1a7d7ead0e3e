"""What lowering makes: one stretch of a model without open questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from onnxplan.compiler.plan import HostFunction
from onnxplan.compiler.program import Program
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.structures import Structure


@dataclass(frozen=True, slots=True)
class Stage:
    """One stretch of the model without open questions.

    ``program`` reads graph inputs by their names and results of earlier stages by the names under which
    those returned them. ``final`` tells the last stage, whose outputs are the graph's; those of the others
    are ``DEMAND`` and whatever later stages may read. ``run_key`` names the input that holds a random uint64,
    the same in all stages of a run and another in each run; it is empty where nothing is random.
    ``structures`` are the graph's outputs that are no tensors, with the program's names for their tensors.

    Where there is a ``function``, what it makes of ``DEMAND`` on the host is an input of later stages, called
    ``host_input``, and its shape is the answer. ``asked_by`` is the label of the node that needs the answer.
    """

    program: Program
    final: bool
    run_key: str = ""
    structures: Mapping[str, Structure[str]] = field(default_factory=dict)
    function: HostFunction | None = None
    host_input: str = ""
    asked_by: str = ""
