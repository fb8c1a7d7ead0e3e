"""How a device's kernels are found: by names in tables, so that only what is needed is imported."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from onnxplan.compiler.primitives import Primitive
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target


class DeviceKernels:
    """A :class:`~onnxplan.compiler.selection.KernelSelector` by a table.

    ``selectors`` gives for each primitive the ``"module:function"`` of ``package`` that serves it, called as
    ``select(operation, emit, target)``; ``device`` is the device's name in messages.
    """

    device: ClassVar[str]
    package: ClassVar[str]
    selectors: ClassVar[Mapping[type[Primitive], str]]

    def __init__(self, target: Target) -> None:
        self.target = target

    def select(self, operation: Operation, emit: StepEmitter) -> None:
        """Emits the steps of ``operation``; raises ``NotImplementedError`` if there is no kernel for it."""
        name = self.selectors.get(type(operation.primitive))
        if name is None:
            types = ", ".join(view.dtype.label for view in operation.views)
            raise NotImplementedError(f"no {self.device} kernel for {operation.primitive.name} of {types}")
        resolve(self.package, name)(operation, emit, self.target)


@functools.cache
def resolve(package: str, name: str) -> Callable[..., Any]:
    """The function that ``"module:function"`` names in ``package``."""
    module, function = name.split(":")
    resolved: Callable[..., Any] = getattr(importlib.import_module(f"{package}.{module}"), function)
    return resolved
