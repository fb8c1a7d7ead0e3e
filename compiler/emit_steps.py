"""Has a device's kernel selector emit the steps of a program."""

from __future__ import annotations

from onnxplan.compiler.constant_pool import ConstantPool
from onnxplan.compiler.emission import Emission, EmittedStep
from onnxplan.compiler.errors import UnsupportedOperatorError
from onnxplan.compiler.program import Operation, Program
from onnxplan.compiler.repeated_steps import RepeatedSteps
from onnxplan.compiler.selection import KernelSelector
from onnxplan.compiler.view import READS


def emit_steps(program: Program, selector: KernelSelector, pool: ConstantPool) -> list[EmittedStep]:
    """The steps that ``selector`` chooses for the operations, in order.

    Raises :class:`UnsupportedOperatorError` where it has no kernel.
    """
    emission, repeated = Emission(selector.target, pool), RepeatedSteps(program.operations)
    for number, operation in enumerate(program.operations):
        emission.begin(operation.nodes)
        if repeated.replay(number, emission, operation):
            continue
        start, reads = len(emission.steps), next(READS)
        try:
            selector.select(operation, emission)
        except UnsupportedOperatorError:
            raise
        except NotImplementedError as error:
            raise UnsupportedOperatorError(
                f"{error} (operation {operation}, of {_node_list(operation)})"
            ) from error
        repeated.record(number, emission, operation, emission.steps[start:], reads)
    return emission.steps


def _node_list(operation: Operation) -> str:
    return "nodes " + ", ".join(map(repr, operation.nodes)) if operation.nodes else "no node"
