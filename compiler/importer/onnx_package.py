"""The onnx package, of which only what reads models is imported until more of it is asked for.

``import onnx`` imports its helpers and all that these need, which takes four times as long as the messages
and the schemas. So where nobody has imported it, it stands in ``sys.modules`` as a module that completes
itself at the first use of anything else. ``importlib.util.LazyLoader`` would do that as soon as a submodule
is imported.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from types import ModuleType
from typing import Any

NAME = "onnx"
LOCK_SECONDS = 30.0
"""How long a thread waits for another one that completes the package, before it takes it as it is."""

_lock = threading.RLock()


class _Package(ModuleType):
    """The package before its ``__init__`` ran."""

    def __getattr__(self, name: str) -> Any:
        complete(self)
        try:
            return self.__dict__[name]
        except KeyError:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name) from None

    def __dir__(self) -> list[str]:
        complete(self)
        return sorted(self.__dict__)


def complete(package: ModuleType) -> None:
    """Runs ``__init__`` where that has not been done; what it imports may ask for the package meanwhile."""
    held = _lock.acquire(timeout=LOCK_SECONDS)
    try:
        if package.__dict__.pop("_onnxplan_incomplete", False):
            assert package.__spec__ is not None
            assert package.__spec__.loader is not None
            try:
                package.__spec__.loader.exec_module(package)
            except BaseException:
                package.__dict__["_onnxplan_incomplete"] = True
                raise
            package.__class__ = ModuleType
    finally:
        if held:
            _lock.release()


def prepare() -> None:
    """Makes submodules importable without the rest, if the package was not imported before."""
    if NAME in sys.modules:
        return
    spec = importlib.util.find_spec(NAME)
    if spec is None or spec.loader is None or spec.submodule_search_locations is None:
        # Importing it says what is wrong.
        return
    package = importlib.util.module_from_spec(spec)
    package.__class__ = _Package
    package.__dict__["_onnxplan_incomplete"] = True
    # Another thread may have begun to import it.
    sys.modules.setdefault(NAME, package)


prepare()
