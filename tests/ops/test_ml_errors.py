"""Operators of ai.onnx.ml with attributes that break the standard, or that are not supported."""

import ml_reference
import numpy as np
import pytest
from cases import case

from onnxplan.compiler.errors import InvalidModelError
from onnxplan.compiler.importer import load_model
from onnxplan.compiler.lowering import lower

DOMAIN = "ai.onnx.ml"
X = np.zeros((2, 3), np.float32)
LEAF = {
    "nodes_treeids": [0],
    "nodes_nodeids": [0],
    "nodes_featureids": [0],
    "nodes_values": [0.0],
    "nodes_modes": ["BRANCH_LEQ"],
    "nodes_truenodeids": [0],
    "nodes_falsenodeids": [0],
}
TREES = ml_reference.random_trees("target", trees=3, features=4, targets=1, seed=1)
LABELS = {"keys_int64s": [1, 2], "values_int64s": [1]}
SVM = {"coefficients": [1.0] * 6, "rho": [0.0]}


@pytest.mark.parametrize(
    ("op_type", "outputs", "attributes", "part"),
    [
        ("TreeEnsembleRegressor", 1, LEAF, "its own descendant"),
        ("TreeEnsembleRegressor", 1, LEAF | {"nodes_truenodeids": [4]}, "no node 4"),
        ("TreeEnsembleRegressor", 1, LEAF | {"nodes_modes": ["BRANCH_NE"]}, "'BRANCH_NE'"),
        ("TreeEnsembleRegressor", 1, LEAF | {"nodes_values": [0.0, 1.0]}, "1 nodes"),
        ("TreeEnsembleRegressor", 1, {}, "no trees"),
        ("TreeEnsembleRegressor", 1, TREES, "a feature that 3 features do not have"),
        ("TreeEnsembleClassifier", 2, LEAF, "no labels"),
        ("Scaler", 1, {"offset": [1.0, 2.0], "scale": [1.0]}, "offset has 2 elements for 3 features"),
        ("Normalizer", 1, {"norm": "L3"}, "'L3'"),
        ("Imputer", 1, {"imputed_value_floats": [1.0, 2.0]}, "2 elements for 3 features"),
        ("LinearClassifier", 2, {"coefficients": [1.0] * 9, "classlabels_ints": [1]}, "1 labels for 3"),
        ("LabelEncoder", 1, LABELS, "2 keys for 1 values"),
        ("OneHotEncoder", 1, {"cats_int64s": [1, 2], "zeros": 0}, "none of the categories"),
        (
            "SVMClassifier",
            2,
            SVM | {"classlabels_ints": [1, 2]},
            "2 classes are not supported without support vectors",
        ),
        ("SVMClassifier", 2, SVM | {"classlabels_ints": [1, 2, 3], "prob_a": [1.0]}, "probabilities"),
    ],
)
def test_refused(op_type, outputs, attributes, part):
    broken = case(
        "",
        op_type,
        {"x": X},
        outputs=outputs,
        domain=DOMAIN,
        opsets={DOMAIN: 4 if op_type == "LabelEncoder" else 3},
        attributes=attributes,
        constants=("x",),
    )
    with pytest.raises(InvalidModelError) as caught:
        lower(load_model(broken.model()), {})
    assert part in str(caught.value)
    assert op_type in str(caught.value)
