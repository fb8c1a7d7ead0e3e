"""Rewrites of the graph before lowering: each takes and returns a model, in a file of its own."""
