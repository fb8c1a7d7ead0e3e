"""Does a specimen plan, and what does it compute?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from catalogue.nodes import Bound
from catalogue.specimen import Array
from onnxplan.compiler.builder import ConstantPool
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.evaluate import evaluate_program
from onnxplan.compiler.importer import load_model
from onnxplan.compiler.ir import Model
from onnxplan.compiler.lowering import DEMAND, Stage, lower
from onnxplan.compiler.pipeline import compile_program
from onnxplan.compiler.selection import KernelSelector

KEY = 2**63 + 5
"""What random numbers are drawn from."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Results of a specimen, and of how many steps its plans consist."""

    results: dict[str, Array]
    steps: int


def probe(bound: Bound, selector: KernelSelector, *, constant: bool = False) -> Probe:
    """Plans ``bound`` for a device, stage by stage; the results are those of the primitives' meaning in NumPy.

    Kernels are selected but not compiled. Raises what lowering and selection raise:
    :class:`~onnxplan.compiler.errors.InvalidModelError`, ``UnsupportedOperatorError``.
    """
    model = load_model(bound.model(constant=constant))
    feeds = {} if constant else dict(bound.feeds)
    steps = 0
    results: dict[str, Array] = {}
    for stage, stage_results in _stages(model, feeds):
        results = stage_results
        pool = ConstantPool()
        program = stage.program
        texts = [name for name, view in program.outputs.items() if view.dtype is DType.STRING]
        for name in texts:
            del program.outputs[name]
        steps += len(compile_program(program, selector, pool).plan.steps)
    return Probe(results, steps)


def _stages(model: Model, feeds: dict[str, Array]) -> Iterator[tuple[Stage, dict[str, Array]]]:
    texts = {name: array.reshape(-1).tolist() for name, array in feeds.items() if array.dtype.hasobject}
    shapes = {name: array.shape for name, array in feeds.items()}
    values = dict(feeds)
    answers: list[Array] = []
    pool = ConstantPool()
    while True:
        stage = lower(model, shapes, answers, pool=pool, texts=texts)
        if stage.run_key:
            values[stage.run_key] = np.array([KEY], np.uint64)
        results = evaluate_program(stage.program, {name: values[name] for name in stage.program.inputs})
        if not stage.final:
            answers.append(results.pop(DEMAND))
            values |= results
        yield stage, results
        if stage.final:
            return
