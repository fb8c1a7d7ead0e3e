"""Passes on programs, one in each file; :mod:`onnxplan.compiler.pipeline` lists them in order."""
