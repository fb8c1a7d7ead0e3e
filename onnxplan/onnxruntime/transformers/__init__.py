"""The part of onnxruntime's tools for transformers that programs use to run models."""
