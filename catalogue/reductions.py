"""Specimens of reductions, normalisations, products, recurrent networks, control flow and signals."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, helper

from catalogue.nodes import body, tensor
from catalogue.specimen import Array, Draw, Given, Specimen, Types, code, draw, generator, of
from onnxplan.compiler.dtypes import DType


def _reduce(name: str) -> list[Specimen]:
    x = Draw((2, 3), 1, 4) if name == "LogSum" else Draw((2, 3))
    return [of(x, axes=[1]), of(x, [1], since=13 if name == "Sum" else 18)]


_IMAGE = (2, 2, 3, 3)
_CHANNELS = (2,)
_STATISTICS = (_IMAGE, _CHANNELS, _CHANNELS, _CHANNELS, Draw(_CHANNELS, 1, 4))


def _trained(x: Array, scale: Array, bias: Array, mean: Array, var: Array) -> tuple[Array, ...]:
    """BatchNormalization on the statistics of the batch, with running ones, as versions below 14 have it."""
    found, spread = x.mean((0, 2, 3)), x.var((0, 2, 3))
    scale, bias, center, width = (v[:, None, None] for v in (scale, bias, found, spread))
    y = (x - center) / np.sqrt(width + 1e-5) * scale + bias
    return y, mean * 0.9 + found * 0.1, var * 0.9 + spread * 0.1, found, spread


def _flattened(function: Any) -> Any:
    """``function`` of rows as versions below 13 flatten their input, at axis 1."""

    def reference(x: Array) -> Array:
        return np.asarray(function(x.reshape(len(x), -1)).reshape(x.shape))

    return reference


def _softmax(rows: Array) -> Array:
    powers = np.exp(rows)
    return np.asarray(powers / powers.sum(1, keepdims=True))


def _hardmax(rows: Array) -> Array:
    return np.asarray(np.eye(rows.shape[1])[rows.argmax(1)])


def _by_rows(function: Any) -> list[Specimen]:
    x = (2, 3, 2)
    return [of(x, reference=_flattened(function)), of(x, since=13, axis=1)]


def _drawn(dtype: DType, shape: tuple[int, ...], name: str) -> NodeProto:
    array = draw(Given(np.ones(shape)), dtype, generator(name))
    return helper.make_node("Constant", [], [name], value=tensor(array))


def _branch(name: str, types: Types) -> GraphProto:
    return body([_drawn(types["V"], (2, 3), name)], [], [(name, types["V"], (2, 3))])


def _loop(types: Types) -> GraphProto:
    """Passes its state on, and collects it."""
    dtype = types["V"]
    nodes = [
        helper.make_node("Identity", ["before"], ["going"]),
        helper.make_node("Identity", ["state"], ["after"]),
        helper.make_node("Identity", ["state"], ["seen"]),
    ]
    inputs = [("number", DType.INT64, ()), ("before", DType.BOOL, ()), ("state", dtype, None)]
    return body(nodes, inputs, [("going", DType.BOOL, ()), ("after", dtype, None), ("seen", dtype, None)])


def _scan(types: Types) -> GraphProto:
    dtype = types["V"]
    nodes = [
        helper.make_node("Identity", ["element"], ["after"]),
        helper.make_node("Identity", ["state"], ["seen"]),
    ]
    inputs = [("state", dtype, (2,)), ("element", dtype, (2,))]
    return body(nodes, inputs, [("after", dtype, (2,)), ("seen", dtype, (2,))])


def _scanned(state: Array, elements: Array) -> tuple[Array, Array]:
    """Version 8 has a batch axis in front."""
    return elements[:, -1], np.concatenate([state[:, None], elements[:, :-1]], 1)


def _recurrent(gates: int) -> list[Specimen]:
    shapes = ((3, 2, 2), (1, 2 * gates, 2), (1, 2 * gates, 2), (1, 4 * gates), [3, 2])
    draws = [Draw(shape, -2, 2) if isinstance(shape, tuple) else shape for shape in shapes]
    count = 3 if gates == 4 else 2
    # Until version 7 a missing output_sequence leaves the first output out, in the standard's text.
    return [
        of(*draws, hidden_size=2, outputs=count, output_sequence=1),
        of(*draws, since=7, hidden_size=2, outputs=count),
    ]


_CACHE = ((2, 2), (2, 2))


def _attention(query: Array, key: Array, value: Array) -> Array:
    """Softmax of scaled products of queries and keys, times the values."""
    scores = query @ key.swapaxes(-1, -2) / query.shape[-1] ** 0.5
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    result: Array = powers / powers.sum(-1, keepdims=True) @ value
    return result


SPECIMENS: dict[str, list[Specimen]] = {
    **{
        f"Reduce{name}": _reduce(name)
        for name in "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare".split()
    },
    "Softmax": _by_rows(_softmax),
    "LogSoftmax": _by_rows(lambda rows: np.log(_softmax(rows))),
    "Hardmax": _by_rows(_hardmax),
    # Normalisations
    "BatchNormalization": [
        of(*_STATISTICS, consumed_inputs=[0, 0, 0, 1, 1], outputs=5, reference=_trained),
        of(*_STATISTICS, since=6, outputs=5, reference=_trained),
        of(*_STATISTICS, since=7, outputs=1),
        of(*_STATISTICS, since=14, outputs=3, training_mode=1, tolerance=(2e-2, 2e-2)),
    ],
    "InstanceNormalization": [of(_IMAGE, _CHANNELS, _CHANNELS)],
    "GroupNormalization": [
        of((2, 4, 3), (2,), (2,), num_groups=2),
        of((2, 4, 3), (4,), (4,), since=21, num_groups=2),
    ],
    "LayerNormalization": [of((2, 4), (4,), (4,), outputs=3, stash_type=code("U"))],
    "RMSNormalization": [of((2, 4), (4,))],
    "LpNormalization": [of(Draw((2, 3), 1, 4))],
    "MeanVarianceNormalization": [of((2, 2, 2, 3))],
    "LRN": [of(_IMAGE, size=3)],
    # Products
    "MatMul": [of((2, 3), (3, 2))],
    "Gemm": [
        of((2, 3), (3, 2), (2,), broadcast=1),
        of((2, 3), (3, 2), (2,), since=7),
    ],
    "Einsum": [of((2, 3), (3, 2), equation="ij,jk->ik")],
    "Det": [of((2, 3, 3))],
    "Attention": [of((1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4), linked={"U": "T1"})],
    "FlexAttention": [of((1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4), reference=_attention)],
    "LinearAttention": [
        of(
            (1, 2, 4),
            (1, 2, 4),
            (1, 2, 4),
            (1, 2, 2, 2),
            update_rule="linear",
            q_num_heads=2,
            kv_num_heads=2,
            outputs=2,
        )
    ],
    "CausalConvWithState": [of((1, 2, 4), (2, 1, 3), (2,), (1, 2, 2), outputs=2)],
    "RotaryEmbedding": [of((1, 2, 2, 4), *_CACHE, [[0, 1]])],
    # Recurrent networks
    "RNN": _recurrent(1),
    "GRU": _recurrent(3),
    "LSTM": _recurrent(4),
    # Control flow
    "If": [
        of(True, then_branch=functools.partial(_branch, "a"), else_branch=functools.partial(_branch, "b"))
    ],
    "Loop": [of(2, True, (2,), body=_loop, outputs=2)],
    "Scan": [
        of(None, (1, 2), (1, 3, 2), since=8, body=_scan, num_scan_inputs=1, outputs=2, reference=_scanned),
        of((2,), (3, 2), since=9, body=_scan, num_scan_inputs=1, outputs=2),
    ],
    # Losses
    "NegativeLogLikelihoodLoss": [of((2, 3), [0, 2], (3,))],
    "SoftmaxCrossEntropyLoss": [of((2, 3), [0, 2], Draw((3,), 1, 4), outputs=2)],
    # Signals
    "BlackmanWindow": [of(4, output_datatype=code("T2"))],
    "HammingWindow": [of(4, output_datatype=code("T2"))],
    "HannWindow": [of(4, output_datatype=code("T2"))],
    "MelWeightMatrix": [of(4, 8, 8000, 0, 4000, output_datatype=code("T3"))],
    "DFT": [of((1, 4, 1), axis=1), of((1, 4, 1), 4, 1, since=20)],
    "STFT": [of((1, 8, 1), 2, None, 4)],
}
