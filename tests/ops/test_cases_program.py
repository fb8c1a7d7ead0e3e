"""Every operator case through importer and lowering, evaluated by NumPy: dynamic, and folded at plan time."""

import numpy as np
import pytest
from cases import Case, discover, flatten

from onnxplan.compiler.constant_pool import ConstantPool
from onnxplan.compiler.evaluate import evaluate_program
from onnxplan.compiler.importer import load_model
from onnxplan.compiler.lowering import lower
from onnxplan.compiler.plan import DEMAND
from onnxplan.compiler.verify import verify_program

CASES = discover()


def run(case: Case, *, constant: bool) -> tuple[dict[str, np.ndarray], int]:
    """The results, and how many operations the programs of all stages hold."""
    model = load_model(case.model(constant=constant))
    values, structures = flatten({} if constant else case.feeds())
    shapes = {name: array.shape for name, array in values.items()}
    texts = {name: array.reshape(-1).tolist() for name, array in values.items() if array.dtype == object}
    pool = ConstantPool()
    answers: list[np.ndarray] = []
    count = 0
    while True:
        stage = lower(model, shapes, answers, pool=pool, structures=structures, texts=texts)
        verify_program(stage.program, "lowering")
        count += len(stage.program.operations)
        if stage.run_key:
            values[stage.run_key] = np.array([2**63 + 5], np.uint64)
        results = evaluate_program(stage.program, {name: values[name] for name in stage.program.inputs})
        if stage.final:
            for name, structure in stage.structures.items():
                results[name] = [results.pop(item) for item in structure.elements]
            return results, count
        answer = results.pop(DEMAND)
        values |= results
        if stage.function is not None:
            made = values[stage.host_input] = stage.function(answer)
            answer = np.array(made.shape)
        answers.append(answer)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_case(case):
    results, _ = run(case, constant=False)
    case.check(results)


@pytest.mark.parametrize("case", [case for case in CASES if case.folds], ids=lambda case: case.id)
def test_constant_inputs_leave_nothing_to_run(case):
    results, count = run(case, constant=True)
    assert count == 0
    case.check(results)
