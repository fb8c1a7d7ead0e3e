"""Sessions of the interface of onnxruntime that report to observers; imported only where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from onnxplan import observed
from onnxplan.observed import ObservedSession
from onnxplan.onnxruntime.core import Core


class ObservedCore(ObservedSession, Core):
    """A core that reports to observers."""

    def try_run(self, feeds: Mapping[str, Any]) -> None:
        """Leaves all runs to :meth:`compute`, which reports them."""

    def compute(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        return self._observed_run(lambda: super(ObservedCore, self).compute(*arguments, **options))


observed_kind = partial(observed.observed_kind, base=ObservedCore)
