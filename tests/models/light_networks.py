"""The light networks of the onnx package, given random weights.

Their files carry no weights but ``ConstantOfShape`` nodes, with which every channel is the same.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NAMES = sorted(path.stem.removeprefix("light_") for path in FOLDER.glob("light_*.onnx"))


def with_random_weights(name: str, seed: int = 0) -> onnx.ModelProto:
    """A light network whose weights are initializers of sensible scale, different in every element."""
    model = onnx.load(FOLDER / f"light_{name}.onnx")
    graph = model.graph
    generator = np.random.default_rng(seed)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    readers = {value: (node.op_type, place) for node in graph.node for place, value in enumerate(node.input)}
    kept = []
    for node in graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in shapes:
            kept.append(node)
            continue
        shape = tuple(int(extent) for extent in shapes[node.input[0]])
        values = _weights(generator, shape, *readers[node.output[0]])
        graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)
    return model


def _weights(generator: np.random.Generator, shape: tuple[int, ...], op_type: str, place: int) -> np.ndarray:
    if op_type in ("BatchNormalization", "Unsqueeze") and place in (0, 1, 4):
        return generator.random(shape, np.float32) + np.float32(0.5)
    is_matrix = op_type in ("Conv", "Gemm") and len(shape) > 1
    values = generator.standard_normal(shape, np.float32)
    values *= np.float32(np.sqrt(2.0 / np.prod(shape[1:])) if is_matrix else 0.1)
    return values


def softened(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without a Softmax at its end, which random logits would drive to zeros and a one."""
    last = model.graph.node[-1]
    if last.op_type == "Softmax":
        model.graph.output[0].name = last.input[0]
        del model.graph.node[-1]
    return model
