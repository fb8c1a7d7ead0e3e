"""Specimens of operators that make, move, choose or sort elements, and of sequences and optionals."""

from __future__ import annotations

import numpy as np
from onnx import helper

from catalogue.nodes import body, tensor
from catalogue.specimen import Draw, Given, Many, Specimen, Types, code, draw, generator, of
from onnxplan.compiler.dtypes import DType


def _stored(parameter: str, elements: object) -> object:
    """A tensor as an attribute, of the type of ``parameter``."""
    return lambda types: tensor(draw(Given(elements), types[parameter], generator("Constant")))


def _doubled(types: Types) -> object:
    dtype = types["S"]
    node = helper.make_node("Identity", ["a"], ["b"])
    return body([node], [("a", dtype, None)], [("b", dtype, None)])


_BLOCKS = (1, 4, 2, 2)
_PAIR = Many((Draw((2, 3)), Draw((2, 3), -3, 3)))
_CHOICES = [[0, 2], [1, -1]]

SPECIMENS: dict[str, list[Specimen]] = {
    "Constant": [
        of(value=_stored("T", [[1, 2], [2, 1]]), reference=lambda: np.array([[1.0, 2.0], [2.0, 1.0]])),
        of(value=_stored("T", [[1, 2], [2, 1]]), since=7),
    ],
    "ConstantOfShape": [of([2, 3], value=_stored("T2", [1]))],
    "Shape": [of((2, 3)), of((2, 3, 4), since=15, start=1)],
    "Size": [of((2, 3))],
    "EyeLike": [of((2, 3), dtype=code("T2"), k=1)],
    "Range": [of(1, 8, 2)],
    "Concat": [of((2, 1), (2, 2)), of((2, 1), (2, 2), axis=1, since=4)],
    "Split": [
        of((2, 4), [1, 3], axis=1, outputs=2, split=[1, 3], reference=lambda x, _: (x[:, :1], x[:, 1:])),
        of((2, 4), since=2, axis=1, outputs=2, split=[1, 3]),
        of((2, 4), [1, 3], since=13, axis=1, outputs=2),
    ],
    "Reshape": [
        of((2, 3, 2), shape=[0, -1], reference=lambda x: x.reshape(2, -1)),
        of((2, 3, 2), [0, -1], since=5),
        of((0, 3, 2), [3, 0, 2], since=14, allowzero=1),
    ],
    "Flatten": [of((2, 3, 2), axis=2)],
    "Squeeze": [of((1, 3, 1), axes=[0]), of((1, 3, 1), [0], since=13)],
    "Unsqueeze": [of((2, 3), axes=[0, 2]), of((2, 3), [0, 2], since=13)],
    "Transpose": [of((2, 3, 2), perm=[1, 0, 2])],
    "Expand": [of((3, 1), [2, 1, 4])],
    "Tile": [
        of((2, 3), 2, 1, reference=lambda x, tiles, axis: np.tile(x, (1, 2))),
        of((2, 3), [1, 2], since=6),
    ],
    "Slice": [
        of((3, 4), axes=[1], starts=[1], ends=[-1]),
        of((3, 4), [-1], [0], [1], [-2], since=10),
    ],
    "Pad": [
        of(
            (2, 3),
            paddings=[1, 0, 0, 2],
            value=1.5,
            reference=lambda x: np.pad(x, ((1, 0), (0, 2)), constant_values=1.5),
        ),
        of((2, 3), pads=[1, 0, 0, 2], value=1.5, since=2),
        of((2, 3), [1, 0, 0, 2], Draw((), 1, 1), since=11),
        of((2, 3), [1, 2], Draw((), 1, 1), [1], since=18),
    ],
    "Gather": [of((3, 2), _CHOICES), of((3, 2), _CHOICES, since=11)],
    "GatherElements": [of((3, 2), [[2, 0], [1, -1]])],
    "GatherND": [of((2, 3), [[1], [0]]), of((2, 3), [[[1]], [[0]]], since=12, batch_dims=0)],
    "Scatter": [of((3, 2), [[2, 0]], (1, 2))],
    "ScatterElements": [of((3, 2), [[2, 0]], (1, 2))],
    "ScatterND": [of((3, 2), [[2], [0]], (2, 2))],
    "Compress": [of((3, 2), [True, False, True], axis=0)],
    "NonZero": [of((2, 3))],
    "OneHot": [
        of([0, 2, 1], 3, [0, 1], reference=lambda _, __, values: values[np.eye(3, dtype=int)[[0, 2, 1]]])
    ],
    "TopK": [of((2, 4), k=2, outputs=2), of((2, 4), [2], since=10, outputs=2)],
    "Unique": [of((6,), outputs=4)],
    "Trilu": [of((3, 3), 1)],
    "ReverseSequence": [of((3, 2), [2, 3])],
    "DepthToSpace": [of(_BLOCKS, blocksize=2)],
    "SpaceToDepth": [of(_BLOCKS, blocksize=2)],
    "CenterCropPad": [of((4, 3), [2, 5])],
    "CumSum": [of((2, 3), 1)],
    "CumProd": [of((2, 3), 1)],
    "ArgMax": [of((2, 4), axis=1)],
    "ArgMin": [of((2, 4), axis=1)],
    "TensorScatter": [of((2, 1, 4, 2), (2, 1, 1, 2), [0, 2])],
    # Sequences and optionals
    "SequenceConstruct": [of((2, 3), (2, 3), linked={"S": "T"})],
    "SequenceEmpty": [of(dtype=code("S"), elements=0)],
    "SequenceInsert": [of(_PAIR, (2, 3), 1, linked={"T": "S"}, elements=3)],
    "SequenceErase": [of(_PAIR, 0, elements=1)],
    "SequenceAt": [of(_PAIR, -1, linked={"T": "S"})],
    "SequenceLength": [of(_PAIR)],
    "SplitToSequence": [of((4, 3), [1, 3], linked={"S": "T"})],
    "ConcatFromSequence": [of(_PAIR, axis=1, linked={"T": "S"})],
    "SequenceMap": [of(_PAIR, body=_doubled)],
    "Optional": [of((2, 3), linked={"O": "V"}, reference=lambda x: x)],
    "OptionalGetElement": [of((2, 3), linked={"V": "O"})],
    "OptionalHasElement": [of((2, 3))],
    # Strings
    "StringConcat": [of((2, 3), (3,))],
    "StringNormalizer": [of(["Ab", "c"], case_change_action="UPPER")],
    "StringSplit": [of(["a b", "c"], outputs=2)],
    "RegexFullMatch": [of(["ab", "c"], pattern="a.")],
    "TfIdfVectorizer": [
        of(
            [2, 3, 2, 5],
            mode="TF",
            min_gram_length=1,
            max_gram_length=1,
            max_skip_count=0,
            ngram_counts=[0],
            ngram_indexes=[0, 1],
            pool_int64s=[2, 5],
            allows=lambda types: types["T"] is not DType.STRING,
        )
    ],
}
