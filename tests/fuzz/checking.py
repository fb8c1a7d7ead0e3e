"""Runs drawn models and compares the outputs with what is expected."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime

import onnxplan
from tests.fuzz.control import reads
from tests.fuzz.graphs import Program
from tests.fuzz.maker import difference


def check(program: Program) -> None:
    """Raises ``AssertionError`` where an output differs, planned in any of the ways that there are.

    Node by node; with all passes, where a second run and one on a single thread must give the same bits; and
    with all inputs constant, so that most is evaluated while planning.
    """
    plain = run(program.model, program.feeds, optimize=0)
    judge(program, plain, "node by node")
    results = run(program.model, program.feeds, repeated=True)
    judge(program, results, "with all passes")
    single = run(program.model, program.feeds, threads=1)
    for name, array in results.items():
        assert same_bits(single[name], array), f"output {name!r} depends on the number of threads"
    judge(program, run(folded(program), {}), "with constant inputs")


def run(
    model: onnx.ModelProto, feeds: dict[str, np.ndarray], *, repeated: bool = False, **options: int
) -> dict[str, np.ndarray]:
    """The outputs of a model; with ``repeated`` they must be the same in a second run."""
    with onnxplan.InferenceSession(model, **options) as session:
        results = {name: tensor.numpy() for name, tensor in session.run_sync(feeds).items()}
        if repeated:
            for name, tensor in session.run_sync(feeds).items():
                assert same_bits(tensor.numpy(), results[name]), f"a second run changes output {name!r}"
    return results


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def folded(program: Program) -> onnx.ModelProto:
    """The model with its inputs as initializers."""
    model = onnx.ModelProto()
    model.CopyFrom(program.model)
    for name, array in program.feeds.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    del model.graph.input[:]
    return model


def judge(program: Program, results: dict[str, np.ndarray], how: str) -> None:
    """Raises ``AssertionError`` where results are not what is expected."""
    for name, right in program.expected.items():
        found, error = results[name], program.errors[name]
        problem = disagreement(found, right, error)
        if problem and not is_the_references_fault(program, name, found):
            raise AssertionError(f"{how}, output {name!r}: {problem}")


def disagreement(found: np.ndarray, right: np.ndarray, error: float) -> str:
    """What is wrong with ``found``, or nothing."""
    if found.dtype != right.dtype or found.shape != right.shape:
        return f"{found.dtype}{list(found.shape)}, expected {right.dtype}{list(right.shape)}"
    distance = difference(found, right)
    if distance is None or distance > error:
        return f"{found}, expected {right}, distance {distance}, at most {error} expected"
    return ""


def is_the_references_fault(program: Program, name: str, found: np.ndarray) -> bool:
    """Does onnxruntime compute the output ``name``, and does it agree with ``found``?"""
    model = cut_out(program.model, name)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    known = {info.name for info in model.graph.input}
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        (result,) = session.run(None, {key: array for key, array in program.feeds.items() if key in known})
    except Exception:
        # Its errors have no base class of their own.
        return False
    return not disagreement(found, result, program.errors[name])


def cut_out(model: onnx.ModelProto, output: str) -> onnx.ModelProto:
    """The model of one output, with the nodes and inputs that it needs."""
    needed, nodes = {output}, []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            nodes.insert(0, node)
            needed.update(reads(node))
    graph = onnx.helper.make_graph(
        nodes,
        model.graph.name,
        [info for info in model.graph.input if info.name in needed],
        [info for info in model.graph.output if info.name == output],
        model.graph.initializer,
    )
    return onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def save(program: Program, path: str) -> None:
    """The model as ``path``.onnx, feeds and expected outputs as ``path``.npz."""
    onnx.save(program.model, f"{path}.onnx")
    arrays = {f"feed:{name}": array for name, array in program.feeds.items()}
    arrays |= {f"expected:{name}": array for name, array in program.expected.items()}
    np.savez(f"{path}.npz", **arrays)
