"""The modules that onnxruntime keeps its extension in."""
