"""The emulated CUDA device for tests that are about models, not about CUDA."""

from __future__ import annotations

from contextlib import AbstractContextManager

from standin import StandIn

from onnxplan.runtime.cuda.api import CudaApi, use_api


class EmulatedCuda:
    """``with device.used():`` makes the stand-in ``standin`` what ``device="cuda"`` means."""

    def __init__(self, *, cudnn: bool = False) -> None:
        self.standin = StandIn(private_arenas=True)
        self.standin.has_cudnn = cudnn
        self._api = self.standin.api()
        self._seen = 0

    def used(self) -> AbstractContextManager[CudaApi]:
        return use_api(self._api)

    def check(self) -> None:
        """Raises for what a GPU would have got wrong silently since the last call."""
        found = self.standin.violations[self._seen :]
        self._seen += len(found)
        assert not found, found
