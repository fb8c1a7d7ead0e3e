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
    """Raises ``AssertionError`` where an output differs, planned node by node or with all passes."""
    for optimize in (0, 1):
        with onnxplan.InferenceSession(program.model, optimize=optimize) as session:
            results = session.run_sync(program.feeds)
        for name, right in program.expected.items():
            found, error = results[name].numpy(), program.errors[name]
            problem = disagreement(found, right, error)
            if problem and not is_the_references_fault(program, name, found):
                raise AssertionError(f"optimize={optimize}: output {name!r}: {problem}")


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
