"""How a device's kernels are found: by names in tables, so that only what is needed is imported."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from onnxplan.compiler.primitives import (
    ArgReduce,
    Conv,
    Gather,
    GatherElements,
    GatherReduce,
    MapReduce,
    MatMul,
    Pool,
    Primitive,
    Recurrent,
    Reinterpret,
    Resample,
    Scan,
    Scatter,
    Sort,
    SuppressNonMaximum,
)
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target

# ``select(operation, emit, target)`` for each primitive, as ``"module:function"`` of a device's package.
SELECTORS: dict[type[Primitive], str] = {
    MapReduce: "mapreduce:select_mapreduce",
    Reinterpret: "mapreduce:select_reinterpret",
    MatMul: "matmul:select_matmul",
    Conv: "conv:select_conv",
    Pool: "pool:select_pool",
    Gather: "gather:select_gather",
    GatherElements: "gather:select_gather",
    GatherReduce: "gather_reduce:select_gather_reduce",
    Scatter: "scatter:select_scatter",
    Sort: "sort:select_sort",
    ArgReduce: "arg_reduce:select_arg_reduce",
    Scan: "scan:select_scan",
    Resample: "resample:select_resample",
    Recurrent: "recurrent:select_recurrent",
    SuppressNonMaximum: "non_maximum:select_non_maximum",
}


class DeviceKernels:
    """A :class:`~onnxplan.compiler.selection.KernelSelector` of the functions that ``SELECTORS`` names.

    ``package`` holds their modules, which are called alike on all devices; ``device`` is the device's name in
    messages. ``fused`` names ``prefers(operation, target)`` and ``select`` for primitives that stand for
    several others and that only some devices have kernels for, or for all others in some of their forms.
    """

    device: ClassVar[str]
    package: ClassVar[str]
    fused: ClassVar[Mapping[type[Primitive], tuple[str, str]]] = {}

    def __init__(self, target: Target) -> None:
        self.target = target

    def select(self, operation: Operation, emit: StepEmitter) -> None:
        """Emits the steps of ``operation``; raises ``NotImplementedError`` if there is no kernel for it."""
        kind = type(operation.primitive)
        name = self.fused[kind][1] if kind in self.fused else SELECTORS.get(kind)
        if name is None:
            types = ", ".join(view.dtype.label for view in operation.views)
            raise NotImplementedError(f"no {self.device} kernel for {operation.primitive.name} of {types}")
        resolve(self.package, name)(operation, emit, self.target)

    def prefers(self, operation: Operation) -> bool:
        """Is ``operation`` better computed at once than by the operations that it stands for?"""
        names = self.fused.get(type(operation.primitive))
        return names is not None and bool(resolve(self.package, names[0])(operation, self.target))


@functools.cache
def resolve(package: str, name: str) -> Callable[..., Any]:
    """The function that ``"module:function"`` names in ``package``."""
    module, function = name.split(":")
    resolved: Callable[..., Any] = getattr(importlib.import_module(f"{package}.{module}"), function)
    return resolved
