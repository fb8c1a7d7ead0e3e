"""Compiling for a CUDA device that is not here: NVRTC needs no driver."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from onnxplan.compiler.errors import DeviceUnavailableError
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.selection import KernelSelector
from onnxplan.runtime.artifact_writer import TargetCode
from onnxplan.runtime.cuda.api import load_nvrtc
from onnxplan.runtime.cuda.compiler import KernelCompiler, choose_architecture
from onnxplan.runtime.cuda.device import MOST_COMPILERS, CudaKernelSet, own_kernels
from onnxplan.runtime.cuda.target import assumed_target
from onnxplan.runtime.library import KernelLibrary


class OfflineCompiler:
    """Plans and cubins for compute capability ``architecture``, such as ``sm_90``.

    Raises :class:`DeviceUnavailableError` where NVRTC is missing or does not compile for it, ``ValueError``
    for what is no compute capability.
    """

    def __init__(
        self,
        architecture: str,
        kernels: CudaKernelSet,
        *,
        math: str,
        cache: bool,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        number = architecture.removeprefix("sm_")
        if not (number.isascii() and number.isdecimal()):
            raise ValueError(f"{architecture!r} is no compute capability such as 'sm_90'")
        nvrtc: Any = load_nvrtc()
        chosen = choose_architecture(nvrtc, divmod(int(number), 10))
        if chosen != architecture:
            raise DeviceUnavailableError(f"NVRTC does not compile for {architecture}, only for {chosen}")
        self.target = assumed_target(architecture, math)
        self.selector: KernelSelector = kernels.selector(self.target)
        compiler = KernelCompiler(nvrtc, kernels.generate)
        self._library = KernelLibrary(
            compiler.build,
            self.target,
            kernels.sources,
            cache=cache,
            platform=compiler.platform_key,
            parallel=min(MOST_COMPILERS, os.cpu_count() or 1),
        )
        self._progress = progress

    def target_code(self, specs: Sequence[KernelSpec]) -> TargetCode:
        """The cubins of kernels for an artifact."""
        return TargetCode((), self._library.objects(own_kernels(specs), self._progress))
