"""Does a specimen plan, and what does the plan mean?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import onnxplan
from catalogue.nodes import Bound
from catalogue.specimen import Array
from onnxplan.compiler.constant_pool import ConstantPool
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.evaluate import evaluate_program
from onnxplan.compiler.importer import load_model
from onnxplan.compiler.lowering import lower
from onnxplan.compiler.pipeline import compile_program
from onnxplan.compiler.plan import DEMAND
from onnxplan.compiler.selection import KernelSelector

KEY = 2**63 + 5
"""What random numbers are drawn from."""


@dataclass(frozen=True, slots=True)
class Planned:
    """Outputs by name; ``reads_data`` tells whether the last plan computes with anything but constants."""

    results: dict[str, Array]
    reads_data: bool


def planned(bound: Bound, selector: KernelSelector, *, constant: bool = False) -> Planned:
    """Plans ``bound`` for a device, stage by stage; its outputs are by the NumPy meaning of the primitives.

    Kernels are selected but not compiled, which costs most. Raises what lowering and selection raise:
    :class:`~onnxplan.compiler.errors.InvalidModelError`, ``UnsupportedOperatorError``.
    """
    model = load_model(bound.model(constant=constant))
    values = {} if constant else dict(bound.feeds)
    shapes = {name: array.shape for name, array in values.items()}
    answers: list[Array] = []
    pool = ConstantPool()
    while True:
        stage = lower(model, shapes, answers, pool=pool)
        if stage.run_key:
            values[stage.run_key] = np.array([KEY], np.uint64)
        results = evaluate_program(stage.program, {name: values[name] for name in stage.program.inputs})
        plan = compile_program(stage.program, selector, pool).plan
        if stage.final:
            return Planned(results, bool(plan.inputs))
        answers.append(results.pop(DEMAND))
        values |= results


def run(bound: Bound, device: str = "cpu") -> dict[str, Array]:
    """The outputs of a session's second run, which on CUDA launches a graph. Raises what sessions raise."""
    with onnxplan.InferenceSession(bound.model(), device=device) as session:
        session.run_sync(dict(bound.feeds))
        return {name: tensor.numpy() for name, tensor in session.run_sync(dict(bound.feeds)).items()}


def has_strings(bound: Bound) -> bool:
    """Does it read or write strings, which sessions evaluate while planning?"""
    return DType.STRING in (*bound.dtypes.values(), *bound.outputs.values())
