"""Recipes for the benchmark models; `bench.models` is the public face."""
