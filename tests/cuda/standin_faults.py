"""Failures that tests ask the stand-in for, and counts of what was done."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from standin_errors import ILLEGAL_ADDRESS, CudaStatus


@dataclass
class Counters:
    """What was done since the stand-in was made, or since :meth:`clear`."""

    allocations: int = 0
    """Device memory, from ``malloc`` and from the allocator."""
    frees: int = 0
    pinned_allocations: int = 0
    launches: int = 0
    """Calls of ``launchKernel``, those that were captured included."""
    executions: int = 0
    """Kernels that ran, those of graphs included."""
    products: int = 0
    """Calls of ``cublasLtMatmul``, those that were captured included."""
    convolutions: int = 0
    """Calls of ``cudnnBackendExecute`` for convolutions, those that were captured included."""
    attentions: int = 0
    """The same for attention."""
    heuristics: int = 0
    graph_launches: int = 0
    captures: int = 0
    instantiations: int = 0
    synchronisations: int = 0
    """Of streams, events and devices; queries are not counted."""
    compilations: int = 0
    module_loads: int = 0
    copies: Counter[str] = field(default_factory=Counter)
    """Calls by kind, such as "host to device"; captured ones count at the capture."""
    copied_bytes: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    """Calls of each function of runtime and driver, those that failed included."""

    def clear(self) -> None:
        self.__init__()


class Faults:
    """Failures to come. ``nth`` counts from the next one, which is 1."""

    def __init__(self) -> None:
        self._calls: dict[str, dict[int, int]] = {}
        self._executions: dict[int, int | None] = {}
        self._compilations: dict[int, str] = {}

    def fail_call(self, name: str, status: int, nth: int = 1) -> None:
        """The nth call of a function of runtime or driver raises ``status`` and does nothing."""
        self._calls.setdefault(name, {})[nth] = status

    def fail_kernel(self, status: int = ILLEGAL_ADDRESS, nth: int = 1) -> None:
        """The nth kernel that runs ends with ``status``; the error comes up in a later call."""
        self._executions[nth] = status

    def corrupt_kernel(self, nth: int = 1) -> None:
        """The nth kernel that runs leaves wrong values in what it writes."""
        self._executions[nth] = None

    def fail_compilation(self, log: str, nth: int = 1) -> None:
        """The nth program does not compile; ``log`` is what the compiler says."""
        self._compilations[nth] = log

    def check_call(self, name: str) -> None:
        status = _next(self._calls.get(name, {}))
        if status is not None:
            raise CudaStatus(status[0], "as the test asked")

    def execution(self) -> bool:
        """To be asked before a kernel runs: whether its results are to be wrong."""
        fault = _next(self._executions)
        if fault is None:
            return False
        if fault[0] is not None:
            raise CudaStatus(fault[0], "as the test asked")
        return True

    def compilation(self) -> str | None:
        fault = _next(self._compilations)
        return None if fault is None else fault[0]


def _next(faults: dict[int, object]) -> tuple | None:
    """Counts one; the fault due now in a tuple, or None."""
    due = faults.pop(1, _NOTHING)
    for nth in sorted(faults):
        faults[nth - 1] = faults.pop(nth)
    return None if due is _NOTHING else (due,)


_NOTHING = object()
