"""Convolutions that the scripts for a GPU run on the stand-in."""

from bench.cuda_convolutions import Layer

SMALL_LAYERS = [
    Layer(3, 8, 7, 2, 11),
    Layer(16, 24, 3, 1, 6),
    Layer(16, 24, 3, 2, 9),
    Layer(16, 24, 1, 2, 7),
    Layer(16, 24, 1, 1, 5, residual=True),
]
