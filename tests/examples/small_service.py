"""The search service with an encoder of random weights: what it finds is arbitrary, but always the same."""

from __future__ import annotations

from functools import partial

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from examples import minilm
from examples.search_service import Assets, create_app

WORDS = "the a sea wind stone light runs sings under over deep cold old new river hill".split()
ENTRIES = [
    (WORDS[number % 16], " ".join(WORDS[(number * step) % 16] for step in range(2, 7)))
    for number in range(40)
]


def weights() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    width, inner = minilm.WIDTH, 4 * minilm.WIDTH
    shapes = {
        "embeddings.word_embeddings.weight": (len(WORDS) + 2, width),
        "embeddings.position_embeddings.weight": (512, width),
        "embeddings.token_type_embeddings.weight": (2, width),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(minilm.LAYERS):
        prefix = f"encoder.layer.{layer}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes[f"{prefix}.attention.{part}.weight"] = (width, width)
            shapes[f"{prefix}.attention.{part}.bias"] = (width,)
        for part, rows, columns in (("intermediate", inner, width), ("output", width, inner)):
            shapes[f"{prefix}.{part}.dense.weight"] = (rows, columns)
            shapes[f"{prefix}.{part}.dense.bias"] = (rows,)
        norms += [f"{prefix}.attention.output.LayerNorm", f"{prefix}.output.LayerNorm"]
    for norm in norms:
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    return {
        name: (generator.standard_normal(shape) * 0.1 + name.endswith("Norm.weight")).astype(np.float32)
        for name, shape in shapes.items()
    }


def assets() -> Assets:
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(minilm.MAX_TOKENS)
    return Assets(minilm.build_model(weights()), tokenizer, ENTRIES)


application = partial(create_app, assets)
