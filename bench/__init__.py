"""Benchmarks of onnxplan beside its peers, and the models they run."""
