"""Stand-ins for what onnxruntime has and this module has not: using them says so, by name.

The table of the documents knows them by the beginning of their docstrings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from onnxplan.onnxruntime.errors import UnsupportedFeatureError


def refuse(feature: str) -> NoReturn:
    """Raises :class:`UnsupportedFeatureError`, which names ``feature``."""
    raise UnsupportedFeatureError(f"onnxplan.onnxruntime does not support {feature}")


def unsupported_function(name: str) -> Callable[..., Any]:
    """A function or method called ``name`` that refuses to be called."""

    def function(*_: Any, **__: Any) -> NoReturn:
        refuse(name)

    function.__name__ = function.__qualname__ = name.rpartition(".")[2]
    function.__doc__ = "Not supported: it raises ``NotImplementedError``."
    return function


def unsupported_class(name: str) -> type:
    """A class called ``name`` of which there are no instances, and whose members refuse to be used."""

    class Meta(type):
        def __getattr__(cls, member: str) -> Any:
            if member.startswith("_"):
                raise AttributeError(f"type object {name!r} has no attribute {member!r}")
            refuse(f"{name}.{member}")

    def make(_: type, *args: Any, **options: Any) -> NoReturn:
        refuse(name)

    members = {
        "__new__": make,
        "__doc__": "Not supported: making one raises ``NotImplementedError``.",
    }
    return Meta(name, (), members)
