"""cuDNN as a device has it, and the steps of a plan that it computes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

from onnxplan.compiler.environment import is_on
from onnxplan.compiler.errors import UnsupportedOperatorError
from onnxplan.compiler.plan import ExecutionPlan, KernelSpec
from onnxplan.runtime.cuda.attention import BoundAttention
from onnxplan.runtime.cuda.context import CudaContext
from onnxplan.runtime.cuda.convolution import BoundConvolution, BoundFloat32Convolution
from onnxplan.runtime.cuda.cudnn import Cudnn, CudnnError
from onnxplan.runtime.cuda.matmul import workspace_limit
from onnxplan.runtime.cuda.operation_graph import CudnnGraph
from onnxplan.runtime.cuda.tuning import Tuner

logger = logging.getLogger("onnxplan.cuda")

GRAPHS: dict[str, type[CudnnGraph]] = {
    "cudnn": BoundConvolution,
    "cudnn_float32": BoundFloat32Convolution,
    "cudnn_attention": BoundAttention,
}
"""What binds the steps of a family."""

OWN_FAMILIES = {"cudnn": "conv_matrix", "cudnn_float32": "conv", "cudnn_attention": "attention"}
"""The families of our own kernels, which take the place of what cuDNN refuses."""


def own_kernel(spec: KernelSpec) -> KernelSpec:
    """The kernel of ours for steps of ``spec``."""
    if spec.family not in OWN_FAMILIES:
        return spec
    variant: Any = spec.variant[-1]
    return KernelSpec(OWN_FAMILIES[spec.family], variant)


class CudnnLibrary:
    """cuDNN with its handle, made once for each device, which is current.

    ``ONNXPLAN_CUDNN=0`` does without cuDNN. So does a device for which it makes no handle.
    """

    def __init__(self, library: Cudnn, handle: int) -> None:
        self.library = library
        self.handle = handle
        self.lock = threading.Lock()

    @staticmethod
    def of(context: CudaContext) -> CudnnLibrary | None:
        if context.api.cudnn is None or not is_on("ONNXPLAN_CUDNN", default=True):
            return None
        made: list[CudnnLibrary] = context.part("cudnn", lambda: _open(context))
        return made[0] if made else None

    @staticmethod
    def version(context: CudaContext) -> int:
        """The version that plans use; 0 for none."""
        library = CudnnLibrary.of(context)
        return 0 if library is None else library.library.version

    def bind(self, plan: ExecutionPlan, workspace: int, tuner: Tuner | None = None) -> dict[int, CudnnGraph]:
        """The graphs of a plan by their steps' numbers, without those that cuDNN refuses.

        Steps that are alike share one; ``workspace`` is the most bytes that each may use, ``tuner`` chooses
        their engines if it is given.
        """
        bound: dict[Any, CudnnGraph | None] = {}
        steps: dict[int, CudnnGraph] = {}
        try:
            for number, step in enumerate(plan.steps):
                kind = GRAPHS.get(step.kernel.family)
                if kind is None:
                    continue
                problem = kind.describe(step, plan)
                if problem not in bound:
                    bound[problem] = self._bind(kind, problem, workspace, tuner)
                if (found := bound[problem]) is not None:
                    steps[number] = found
        except BaseException:
            close_all(steps)
            raise
        return steps

    def _bind(
        self, kind: type[CudnnGraph], problem: Any, workspace: int, tuner: Tuner | None
    ) -> CudnnGraph | None:
        try:
            return kind(self.library, self.handle, self.lock, problem, workspace=workspace, tuner=tuner)
        except UnsupportedOperatorError as error:
            logger.warning("%s; our own kernel computes it", error)
            return None


def bind_cudnn_graphs(
    context: CudaContext, plan: ExecutionPlan, tuner: Tuner | None
) -> dict[int, CudnnGraph]:
    """The steps of a plan that cuDNN computes on a device, which is current."""
    if all(spec.family not in GRAPHS for spec in plan.kernels):
        return {}
    library = CudnnLibrary.of(context)
    return {} if library is None else library.bind(plan, workspace_limit(plan.target.isa), tuner)


def close_all(graphs: Mapping[int, CudnnGraph]) -> None:
    """Destroys cuDNN's objects; no slot may use them any more."""
    for graph in graphs.values():
        graph.close()


def _open(context: CudaContext) -> list[CudnnLibrary]:
    try:
        library = Cudnn(context.api.cudnn)
        return [CudnnLibrary(library, library.create_handle())]
    except (AttributeError, CudnnError) as error:
        logger.warning("cuDNN is not used on %s: %s", context.name, error)
        return []
