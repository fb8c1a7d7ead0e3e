"""What each run in flight of a slot has for itself: pinned memory and events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from onnxplan.compiler.plan import ExecutionPlan
from onnxplan.runtime.cuda.context import CudaContext
from onnxplan.runtime.cuda.memory import Layout
from onnxplan.runtime.cuda.transfers import Array, Transfers

LANES = 2
LANE_BYTES = 4 << 20
"""Most inputs and outputs of plans whose slots take a second run while the first one computes: those of
others take the device so long that the host is back in time, and pinned memory is dear."""


def lane_count(layout: Layout) -> int:
    """How many runs may be in flight in a slot of this layout, one behind the other."""
    return LANES if layout.staged_bytes <= LANE_BYTES else 1


class Lane:
    """Pinned copies of the inputs and outputs of a slot, and the event after its last copy.

    The lanes of a slot share its device memory, stream and graph: the stream runs one after the other.
    ``event(flags)`` makes an event of the slot; what must be freed is added to ``free``.
    """

    __slots__ = ("_kept", "done", "number", "pending", "taken", "transfers")

    def __init__(
        self,
        context: CudaContext,
        plan: ExecutionPlan,
        layout: Layout,
        block: int,
        stream: int,
        event: Callable[[int], int],
        free: list[Callable[[], None]],
    ) -> None:
        runtime = context.api.runtime
        awaited = runtime.eventDisableTiming | runtime.eventBlockingSync
        self.done = event(awaited)
        self.transfers = Transfers(context, plan, layout, block, stream, lambda: event(awaited), free)
        self.number = 0
        self.taken = False
        """Whether a run has it."""
        self.pending = False
        """Whether work was queued of which nobody has seen the end."""
        self._kept: Any = None

    def begin(self, number: int, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """Run ``number`` of the slot is about to be queued, which needs these arrays until it is over."""
        self.number = number
        self.pending = True
        self._kept = inputs, outputs

    def finish(self, outputs: Sequence[Array]) -> None:
        """After the run: fills the outputs on the host that :meth:`Transfers.take` has not filled."""
        self.settle()
        self.transfers.finish(outputs)

    def settle(self) -> None:
        """The run is over."""
        self.pending = False
        self._kept = None
