"""Reading ONNX models. The only part of onnxplan that knows protobuf."""

from onnxplan.compiler.importer.models import load_model, unsupported_operators
from onnxplan.compiler.importer.sources import portable

__all__ = ["load_model", "portable", "unsupported_operators"]
