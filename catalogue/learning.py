"""Specimens of ai.onnx.ml and of the training operators."""

from __future__ import annotations

from typing import Any

import numpy as np

from catalogue.nodes import tensor
from catalogue.specimen import Draw, Specimen, Types, of
from onnxplan.compiler.dtypes import DType

_X = (2, 3)


def _labels(parameter: str, names: tuple[str, str], texts: tuple[str, ...]) -> dict[str, Any]:
    """Class labels of the output's type: int64 by the first attribute, strings by the second."""

    def numbers(types: Types) -> list[int] | None:
        return list(range(len(texts))) if types[parameter] is not DType.STRING else None

    def strings(types: Types) -> list[str] | None:
        return list(texts) if types[parameter] is DType.STRING else None

    return {names[0]: numbers, names[1]: strings}


_LINEAR = {"coefficients": [1.0, 0.5, -1.0, 2.0, 0.0, 1.0], "intercepts": [0.5, -0.5]}
_TREE = {
    "nodes_treeids": [0, 0, 0],
    "nodes_nodeids": [0, 1, 2],
    "nodes_featureids": [1, 0, 0],
    "nodes_values": [0.25, 0.0, 0.0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
    "nodes_truenodeids": [1, 0, 0],
    "nodes_falsenodeids": [2, 0, 0],
}
_VOTES = {"class_treeids": [0, 0], "class_nodeids": [1, 2], "class_ids": [0, 1], "class_weights": [1.0, 0.5]}
_TARGETS = {
    "target_treeids": [0, 0],
    "target_nodeids": [1, 2],
    "target_ids": [0, 0],
    "target_weights": [1.0, 0.5],
}
_VECTORS = {
    "support_vectors": [1.0, 0.0, 1.0, 0.0, 1.0, 1.0],
    "kernel_type": "LINEAR",
    "kernel_params": [0.5, 0.0, 3.0],
}
_INT64_OR_STRING = {"T1": DType.FLOAT32, "T2": DType.INT64}


def _of_type(parameter: str, elements: list[float]) -> Any:
    return lambda types: tensor(np.array(elements).astype(types[parameter].numpy))


def _keyed(parameter: str, kind: str, elements: list[Any]) -> Any:
    """The elements of an attribute of LabelEncoder, where ``parameter`` is of that kind."""
    return lambda types: elements if types[parameter].kind == kind else None


_ENCODED = {
    "keys_int64s": _keyed("T1", "i", [0, 1, 2]),
    "keys_floats": _keyed("T1", "f", [0.0, 0.5, 1.0]),
    "keys_strings": _keyed("T1", "s", ["a", "b", "ab"]),
    "values_int64s": _keyed("T2", "i", [3, 4, 5]),
    "values_floats": _keyed("T2", "f", [3.0, 4.0, 5.0]),
    "values_strings": _keyed("T2", "s", ["x", "y", "z"]),
}


def _same_or_text(types: Types) -> bool:
    """Version 1 maps between strings and int64."""
    return types["T1"] is not types["T2"]


def _by_tensors(types: Types) -> bool:
    # Other types than those of the three attributes come as keys_tensor and values_tensor.
    return all(types[name] in (DType.INT64, DType.FLOAT32, DType.STRING) for name in ("T1", "T2"))


SPECIMENS: dict[str, list[Specimen]] = {
    "ArrayFeatureExtractor": [of(_X, [2, 0])],
    "Binarizer": [of(_X, threshold=0.5)],
    "CategoryMapper": [
        of(
            Draw(_X, 0, 2, texts=("a", "b", "c")),
            cats_int64s=[0, 1, 2],
            cats_strings=["a", "b", "c"],
            allows=_same_or_text,
            defaults={"T1": DType.INT64, "T2": DType.STRING},
        )
    ],
    "FeatureVectorizer": [of(_X, (2, 2), inputdimensions=[3, 2])],
    "Imputer": [
        of(
            _X,
            imputed_value_floats=lambda types: [7.0] if types["T"].is_float else None,
            imputed_value_int64s=lambda types: None if types["T"].is_float else [7],
            replaced_value_float=lambda types: 1.0 if types["T"].is_float else None,
            replaced_value_int64=lambda types: None if types["T"].is_float else 1,
        )
    ],
    "LabelEncoder": [
        of(
            Draw(_X, 0, 2, texts=("a", "b", "c")),
            classes_strings=["a", "b", "c"],
            allows=_same_or_text,
            defaults={"T1": DType.INT64, "T2": DType.STRING},
        ),
        of(Draw(_X, 0, 2, texts=("a", "b", "c")), since=2, **_ENCODED, allows=_by_tensors),
    ],
    "LinearClassifier": [
        of(
            _X,
            outputs=2,
            **_LINEAR,
            **_labels("T2", ("classlabels_ints", "classlabels_strings"), ("a", "b")),
            defaults=_INT64_OR_STRING,
        )
    ],
    "LinearRegressor": [of(_X, **_LINEAR, targets=2)],
    "Normalizer": [of(Draw(_X, 1, 4), norm="L2")],
    "OneHotEncoder": [
        of(
            Draw(_X, 0, 2),
            cats_int64s=lambda t: None if t["T"].kind == "s" else [0, 1, 2],
            cats_strings=lambda t: ["a", "b"] if t["T"].kind == "s" else None,
        )
    ],
    "SVMClassifier": [
        of(
            _X,
            outputs=2,
            **_VECTORS,
            coefficients=[1.0, -1.0],
            rho=[0.25],
            vectors_per_class=[1, 1],
            **_labels("T2", ("classlabels_ints", "classlabels_strings"), ("a", "b")),
            defaults=_INT64_OR_STRING,
        )
    ],
    "SVMRegressor": [of(_X, **_VECTORS, coefficients=[1.0, -1.0], rho=[0.25], n_supports=2)],
    "Scaler": [of(_X, offset=[1.0], scale=[0.5])],
    "TreeEnsemble": [
        of(
            _X,
            n_targets=1,
            tree_roots=[0],
            nodes_featureids=[1],
            nodes_modes=tensor(np.array([0], np.uint8)),
            nodes_splits=_of_type("T", [0.25]),
            nodes_truenodeids=[0],
            nodes_falsenodeids=[1],
            nodes_trueleafs=[1],
            nodes_falseleafs=[1],
            leaf_targetids=[0, 0],
            leaf_weights=_of_type("T", [1.0, 0.5]),
        )
    ],
    "TreeEnsembleClassifier": [
        of(
            _X,
            outputs=2,
            **_TREE,
            **_VOTES,
            **_labels("T2", ("classlabels_int64s", "classlabels_strings"), ("a", "b")),
            defaults=_INT64_OR_STRING,
        )
    ],
    "TreeEnsembleRegressor": [of(_X, **_TREE, **_TARGETS, n_targets=1)],
    "Adagrad": [of(0.1, 1, (2,), (2,), Draw((2,), 1, 4), outputs=2)],
    "Adam": [of(0.1, 1, (2,), (2,), (2,), Draw((2,), 1, 4), outputs=3)],
    "Momentum": [
        of(0.1, 1, (2,), (2,), (2,), outputs=2, alpha=0.5, beta=0.5, mode="standard", norm_coefficient=0.0)
    ],
}
