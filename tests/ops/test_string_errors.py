"""Operators on strings and n-grams with inputs or attributes that break the standard."""

import numpy as np
import pytest
from cases import case, texts

from onnxplan.compiler.errors import InvalidModelError
from onnxplan.compiler.importer import load_model
from onnxplan.compiler.lowering import lower

WORDS = texts("a", "b")
NUMBERS = np.array([1, 2], np.int64)
GRAMS = {
    "mode": "TF",
    "min_gram_length": 1,
    "max_gram_length": 2,
    "max_skip_count": 0,
    "ngram_counts": [0, 2],
    "ngram_indexes": [0, 1, 2],
    "pool_int64s": [5, 6, 6, 5],
}


@pytest.mark.parametrize(
    ("op_type", "x", "attributes", "reason"),
    [
        ("Cast", texts("1", "one"), {"to": 1}, "the text 'one' is no number"),
        ("Cast", texts("1_0"), {"to": 11}, "the text '1_0' is no number"),
        ("Cast", texts("٣"), {"to": 1}, "is no number"),
        ("Cast", texts("NaN"), {"to": 7}, "the text 'NaN' is no integer"),
        ("Cast", texts("1e999"), {"to": 7}, "out of the range of integers"),
        ("Cast", texts(""), {"to": 9}, "the text '' is no number"),
        ("StringNormalizer", texts("a", "b", shape=(2, 1)), {}, r"\[1, C\] are expected, not \[2, 1\]"),
        ("StringNormalizer", WORDS, {"case_change_action": "TITLE"}, "'TITLE'"),
        ("RegexFullMatch", WORDS, {"pattern": "(a"}, "a parenthesis is not closed"),
        ("RegexFullMatch", WORDS, {"pattern": "(?=a)"}, r"the pattern '\(\?=a\)' cannot be used"),
        ("TfIdfVectorizer", WORDS, GRAMS, "the n-grams are not of string"),
        ("TfIdfVectorizer", NUMBERS, GRAMS | {"mode": "DF"}, "'DF'"),
        ("TfIdfVectorizer", NUMBERS.reshape(1, 1, 2), GRAMS, r"\[C\] or \[N, C\]"),
        ("TfIdfVectorizer", NUMBERS, GRAMS | {"weights": [1.0]}, "1 weights for 3"),
        ("TfIdfVectorizer", NUMBERS, GRAMS | {"ngram_indexes": [0, 1]}, "each of 3 n-grams"),
        ("TfIdfVectorizer", NUMBERS, GRAMS | {"ngram_indexes": [0, 1, -1]}, "each of 3 n-grams"),
        ("TfIdfVectorizer", NUMBERS, GRAMS | {"ngram_counts": [0, 1]}, "3 tokens are no 2-grams"),
        ("TfIdfVectorizer", NUMBERS, GRAMS | {"ngram_counts": [0, 9]}, "rising starts"),
        ("TfIdfVectorizer", NUMBERS, GRAMS | {"max_gram_length": 3}, "a pool of 2 lengths"),
        ("TfIdfVectorizer", NUMBERS, GRAMS | {"pool_int64s": [5, 5, 6, 5]}, "1-grams twice"),
        ("TfIdfVectorizer", NUMBERS, GRAMS | {"pool_strings": ["a"]}, "both pool_int64s and pool_strings"),
    ],
)
def test_reason(op_type, x, attributes, reason):
    broken = case("", op_type, {"x": x}, attributes=attributes)
    model = load_model(broken.model(constant=True))
    with pytest.raises(InvalidModelError, match=f"'y0' .{op_type} of .*{reason}"):
        lower(model, {})
