"""The emulated CUDA device for tests that are about models, not about CUDA."""

from __future__ import annotations

import contextlib
from typing import Self

from standin import StandIn

from onnxplan.runtime.cuda.api import use_api


class EmulatedCuda(contextlib.ExitStack):
    """Inside the context ``device="cuda"`` is the stand-in ``standin``."""

    def __init__(self) -> None:
        super().__init__()
        self.standin = StandIn(private_arenas=True)
        self._seen = 0

    def __enter__(self) -> Self:
        super().__enter__()
        self.enter_context(use_api(self.standin.api()))
        return self

    def check(self) -> None:
        """Raises for what a GPU would have got wrong silently since the last call."""
        found = self.standin.violations[self._seen :]
        self._seen += len(found)
        assert not found, found
