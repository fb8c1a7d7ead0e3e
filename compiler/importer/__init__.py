"""Reading ONNX models. The only part of onnxplan that knows protobuf."""

from onnxplan.compiler.importer.models import load_model, unsupported_operators

__all__ = ["load_model", "unsupported_operators"]
