"""What the stand-in's modules have in common: offered functions, and the constants of the real module."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from standin_errors import INSUFFICIENT_DRIVER, CudaStatus


def function(
    *, needs: str = "context", unsafe: bool = False, status_result: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes a method of a module a function of CUDA.

    It ``needs`` "nothing", a "driver" or a "context"; it is ``unsafe`` during captures; or it returns its
    status where others raise.
    """

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(self: Any, *arguments: Any, **named: Any) -> Any:
            standin = self.standin

            def body() -> Any:
                standin.counters.calls[method.__name__] += 1
                if needs != "nothing":
                    standin.faults.check_call(method.__name__)
                    (standin.admit_context if needs == "context" else standin.admit_driver)(self)
                if unsafe:
                    standin.check_unsafe(method.__name__)
                return method(self, *arguments, **named)

            if not status_result:
                return standin.guarded(self, body)
            try:
                return standin.guarded(self, body) or 0
            except self.error_class as error:
                return error.status

        call.offered = True
        return call

    return decorate


class Module:
    """A pretended module: offered functions, and the constants and classes of the real one."""

    real: Any
    error_class: type[Exception]
    error: Callable[..., Exception]

    def __init__(self, standin: Any) -> None:
        self.standin = standin

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.real, name)
        if callable(value) and not isinstance(value, type):
            raise AttributeError(f"the stand-in does not offer {self.real.__name__}.{name}")
        return value

    def no_driver(self) -> Exception:
        return CudaStatus(INSUFFICIENT_DRIVER, "there is no driver")
