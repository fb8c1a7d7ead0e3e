"""Reading ONNX models. The only part of onnxplan that knows protobuf."""

# First: it decides how much of the onnx package the others import.
from onnxplan.compiler.importer import onnx_package  # isort: skip
from onnxplan.compiler.importer.models import load_model, unsupported_operators

__all__ = ["load_model", "onnx_package", "unsupported_operators"]
