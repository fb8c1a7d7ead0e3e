"""The options of a session."""

from __future__ import annotations

import os

from onnxplan.compiler.records import dataclass


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """The options of a session; see :class:`~onnxplan.InferenceSession`.

    Raises ``TypeError`` and ``ValueError`` for values that no option may have; device names are checked
    where devices are opened.
    """

    device: str = "cpu"
    threads: int | None = None
    math: str = "strict"
    cache: bool = True
    max_concurrency: int | None = None
    max_plans: int = 32
    optimize: int = 1
    memory_limit: int | None = None
    recompile: bool = False
    verify_key: str | os.PathLike[str] | bytes | None = None
    name: str | None = None
    autotune: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.device, str):
            raise TypeError(f"device must be a string such as 'cpu', not {self.device!r}")
        if self.math not in ("strict", "fast"):
            raise ValueError(f"math must be 'strict' or 'fast', not {self.math!r}")
        for name in ("threads", "max_concurrency", "max_plans", "memory_limit"):
            value = getattr(self, name)
            if value is None and name != "max_plans":
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an integer, not {value!r}")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        for name in ("recompile", "autotune"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, not {getattr(self, name)!r}")
        if not isinstance(self.verify_key, str | os.PathLike | bytes | None):
            raise TypeError(f"verify_key must be a path or bytes, not {self.verify_key!r}")
        if not isinstance(self.name, str | None):
            raise TypeError(f"name must be a string, not {self.name!r}")
        if self.optimize not in (0, 1):
            raise ValueError(f"optimize must be 0 or 1, not {self.optimize!r}")


def check_outputs(outputs: str) -> bool:
    """Are outputs to stay on the device? ``ValueError`` for what is neither ``"cpu"`` nor ``"device"``."""
    if outputs not in ("cpu", "device"):
        raise ValueError(f"outputs must be 'cpu' or 'device', not {outputs!r}")
    return outputs == "device"
