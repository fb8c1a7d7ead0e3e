"""What a session tells about itself: where its time goes, and its memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from onnxplan.runtime.cancellation import CancelFlag

if TYPE_CHECKING:
    from onnxplan.profiling import Profile
    from onnxplan.runtime.budget import SessionMemory
    from onnxplan.runtime.engine import Engine
    from onnxplan.session import InferenceSession


class Profiled:
    """The part of :class:`onnxplan.InferenceSession` that measures itself."""

    _engine: Engine

    def memory(self) -> SessionMemory:
        """The bytes of the device's memory that the session's plans hold now, by kind."""
        return self._engine.budget.memory()

    def trim(self) -> int:
        """Gives up the memory of temporaries that no run in flight needs; the number of bytes.

        Later runs take it again. Constants stay.
        """
        return self._engine.budget.trim()

    def profile(
        self,
        feeds: Mapping[str, Any],
        seconds: float = 2.0,
        *,
        timeline: bool = False,
        remeasure: bool = False,
    ) -> Profile:
        """Where the time of runs with ``feeds`` goes, step by step; measured for about ``seconds``.

        Five runs are timed at least. With ``timeline`` the profile also tells which worker computed what
        when (:meth:`onnxplan.Profile.trace`). The machine's ceilings are measured once (a second
        or two) and kept in the kernel store; ``remeasure`` does so again. Raises what :meth:`run_sync`
        raises, and ``ValueError`` for ``seconds`` that are not positive.

        On CUDA steps are launched one by one with events in between: times are the device's, but no step
        takes less than launching it does, which runs with a graph do not pay. Ceilings are what the device's
        properties say.
        """
        from onnxplan.profiler import profile_runs

        return profile_runs(
            cast("InferenceSession", self), feeds, seconds, timeline=timeline, remeasure=remeasure
        )

    async def profile_async(
        self,
        feeds: Mapping[str, Any],
        seconds: float = 2.0,
        *,
        timeline: bool = False,
        remeasure: bool = False,
    ) -> Profile:
        """:meth:`profile` on a worker thread: the event loop stays free. Cancelling the task ends it."""
        from onnxplan.profiler import profile_runs

        session = cast("InferenceSession", self)

        def work(cancel: CancelFlag) -> Profile:
            return profile_runs(
                cast("InferenceSession", self),
                feeds,
                seconds,
                timeline=timeline,
                remeasure=remeasure,
                cancel=cancel,
            )

        return await session._workers.submit(work)
