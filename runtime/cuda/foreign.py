"""What the wrappers of CUDA's libraries share: functions bound by their prototypes, objects to be destroyed.

Calls pass plain integers: handles, sizes, and addresses also where C has a typed pointer.
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

POINTER = ctypes.c_void_p
Prototypes = Mapping[str, tuple[type[Any], ...]]


def bound_functions(library: Any, prototypes: Prototypes) -> dict[str, Any]:
    """The functions of a library, all of which return a status; a stand-in takes any integers."""
    functions: dict[str, Any] = {}
    for name, types in prototypes.items():
        function = getattr(library, name)
        if isinstance(library, ctypes.CDLL):
            function.argtypes = types
            function.restype = ctypes.c_int
        functions[name] = function
    return functions


class ForeignObject(ABC):
    """An object of a library; destroyed with :meth:`close`, or as a context manager."""

    handle: int

    @abstractmethod
    def _destroy(self, handle: int) -> None: ...

    def close(self) -> None:
        handle, self.handle = self.handle, 0
        if handle:
            self._destroy(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
