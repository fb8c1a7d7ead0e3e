"""TfIdfVectorizer, against n-grams that are looked for one by one."""

import itertools

import numpy as np
from cases import FLOAT32, Case, case, uniform

POOL = {
    1: [(2,), (3,), (5,), (-9,)],
    2: [(5, 6), (3, 3), (6, 7), (2, -9)],
    3: [(3, 3, 3), (5, 6, 7), (6, 7, 2)],
}
WORDS = {2: "ash", 3: "oak", 5: "ülm", 6: "", 7: "日本", -9: "fir"}
GRAMS = [gram for grams in POOL.values() for gram in grams]
WEIGHTS = [0.5, 2.0, -3.0, 1.5, 4.0, 7.0, 0.25, 1.0, 3.0, 6.0, 10.0]


def counted(x, attributes, coordinates):
    """Rows of counts, each n-gram looked for at all distances between its tokens."""
    sizes = range(attributes["min_gram_length"], attributes["max_gram_length"] + 1)
    weights = attributes.get("weights", [1.0] * len(GRAMS))
    rows = np.zeros((*x.shape[:-1], max(coordinates) + 1))
    for row, tokens in zip(np.atleast_2d(rows), np.atleast_2d(x).tolist(), strict=True):
        for gram, weight, coordinate in zip(GRAMS, weights, coordinates, strict=True):
            if len(gram) not in sizes:
                continue
            steps = range(1, 2 if len(gram) == 1 else attributes["max_skip_count"] + 2)
            count = sum(
                tokens[start : start + step * (len(gram) - 1) + 1 : step] == list(gram)
                for step, start in itertools.product(steps, range(len(tokens)))
            )
            if attributes["mode"] == "IDF":
                count = min(count, 1)
            row[coordinate] += count if attributes["mode"] == "TF" else count * weight
    return rows


def vectorizer(name, x, coordinates=None, *, words=False, **settings) -> Case:
    coordinates = list(range(len(GRAMS))) if coordinates is None else coordinates
    attributes = {"mode": "TF", "min_gram_length": 1, "max_gram_length": 3, "max_skip_count": 0, **settings}
    numbers = {word: number for number, word in WORDS.items()}

    def reference(array):
        if words:
            array = np.array([numbers.get(word, 0) for word in array.reshape(-1)]).reshape(array.shape)
        return counted(array, attributes, coordinates)

    tokens = list(itertools.chain(*GRAMS))
    pool = {"pool_strings": [WORDS[token] for token in tokens]} if words else {"pool_int64s": tokens}
    return case(
        name,
        "TfIdfVectorizer",
        {"x": x},
        attributes={**attributes, **pool, "ngram_counts": [0, 4, 12], "ngram_indexes": coordinates},
        reference=reference,
        dtypes=(FLOAT32,),
    )


def drawn(dtype, *shape):
    """Tokens of the pool and others, with runs of n-grams among them."""

    def make(random):
        array = random.choice([2, 3, 5, 6, 7, -9, 0, 2**31 - 1], shape).astype(dtype)
        array[..., 3:6] = [5, 6, 7]
        array[..., 8:13] = 3
        return array

    return make


def drawn_words(*shape):
    def make(random):
        tokens = drawn(np.int64, *shape)(random).reshape(-1).tolist()
        array = np.empty(len(tokens), object)
        array[:] = [WORDS.get(token, "elm") for token in tokens]
        return array.reshape(shape)

    return make


def cases() -> list[Case]:
    found = []
    for mode, weighted, skips in itertools.product(("TF", "IDF", "TFIDF"), (False, True), (0, 2)):
        settings = {"mode": mode, "max_skip_count": skips, **({"weights": WEIGHTS} if weighted else {})}
        label = f"{mode} {'weighted ' if weighted else ''}skip {skips}"
        found.append(vectorizer(label, drawn(np.int64, 3, 19), **settings))
    mixed = [6, 5, 12, 3, 2, 1, 0, 9, 10, 8, 7]
    shared = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4]
    weighted = {"mode": "TFIDF", "weights": WEIGHTS, "max_skip_count": 1}
    return [
        *found,
        vectorizer("words", drawn_words(2, 17), words=True, **weighted),
        vectorizer("row of words", drawn_words(17), words=True),
        vectorizer("row", drawn(np.int64, 17), max_skip_count=9),
        vectorizer("int32", drawn(np.int32, 2, 17)),
        vectorizer("mixed coordinates", drawn(np.int64, 2, 17), mixed, **weighted),
        vectorizer("shared coordinates", drawn(np.int64, 2, 17), shared, **weighted),
        vectorizer("unigrams", drawn(np.int64, 2, 17), max_gram_length=1, max_skip_count=3),
        vectorizer("trigrams", drawn(np.int64, 2, 17), min_gram_length=3, max_skip_count=3),
        vectorizer("too short", uniform(np.int64, 2, 2, low=2, high=3), min_gram_length=2),
        vectorizer("nothing known", np.full((2, 5), 99), max_skip_count=1),
        vectorizer("no tokens", np.empty((2, 0), np.int64)),
        vectorizer("no rows", np.empty((0, 4), np.int64)),
        vectorizer("no token", np.empty(0, np.int64), mode="IDF"),
        vectorizer("no words", np.empty((2, 0), object), words=True),
    ]


CASES = cases()
