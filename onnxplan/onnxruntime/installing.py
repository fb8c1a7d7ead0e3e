"""Has programs that import ``onnxruntime`` get this package."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

NAME = "onnxruntime"
HOME = "onnxplan.onnxruntime"
PARTS = (
    "capi",
    "capi._pybind_state",
    "capi.onnxruntime_inference_collection",
    "capi.onnxruntime_pybind11_state",
    "transformers",
    "transformers.io_binding_helper",
)
"""The modules inside of onnxruntime that there are here too."""


class _Refusal(MetaPathFinder):
    """Says of the other modules of onnxruntime that they are not there."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.startswith(f"{NAME}."):
            raise ModuleNotFoundError(
                f"{HOME} stands in for onnxruntime and has no {fullname!r}", name=fullname
            )
        return None


def install() -> None:
    """Has ``import onnxruntime`` give ``onnxplan.onnxruntime`` from now on, in this process.

    Raises ``RuntimeError`` where the real one was imported already.
    """
    package = importlib.import_module(HOME)
    found = sys.modules.get(NAME)
    if found is package:
        return
    if found is not None:
        raise RuntimeError(
            f"onnxruntime was imported already (from {getattr(found, '__file__', 'nowhere')}); call "
            f"{HOME}.install() before anything imports it"
        )
    sys.modules[NAME] = package
    for part in PARTS:
        sys.modules[f"{NAME}.{part}"] = importlib.import_module(f"{HOME}.{part}")
    sys.meta_path.insert(0, _Refusal())
