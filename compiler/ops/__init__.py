"""The operators: one entry each, in a file for each family of alike ones."""

from __future__ import annotations

import functools
import importlib

FAMILIES = (
    "elementwise",
    "activation",
    "conversion",
    "bit_cast",
    "strings",
    "tfidf",
    "images",
    "movement",
    "padding",
    "generation",
    "random",
    "dropout",
    "reduction",
    "normalization",
    "batch_normalization",
    "products",
    "einsum",
    "determinant",
    "quantization",
    "quantized_products",
    "quantized_functions",
    "block_weights",
    "convolution",
    "normalized_convolution",
    "fused_products",
    "pooling",
    "max_unpool",
    "col2im",
    "deformable",
    "resize",
    "indexing",
    "gather_nd",
    "elements",
    "scatter_nd",
    "sorting",
    "selection",
    "unique",
    "grid_sample",
    "roi_align",
    "max_roi_pool",
    "boxes",
    "attention",
    "flex_attention",
    "rotary",
    "tensor_scatter",
    "attention_contrib",
    "attention_projected",
    "losses",
    "signal",
    "skip_normalization",
    "arrangement",
    "stateful",
    "recurrent",
    "quantized_recurrent",
    "optimizers",
    "gradient",
    "features",
    "ml_features",
    "ml_encoders",
    "ml_linear",
    "ml_svm",
    "ml_trees",
    "ml_maps",
    "control",
    "sequences",
)


@functools.cache
def load() -> None:
    """Registers all operators (imports their files)."""
    for family in FAMILIES:
        importlib.import_module(f"onnxplan.compiler.ops.{family}")
