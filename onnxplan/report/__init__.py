"""A page that shows what a plan does: ``onnxplan report``."""

from onnxplan.report.collecting import collect
from onnxplan.report.page import render

__all__ = ["collect", "render"]
