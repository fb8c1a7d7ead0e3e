"""The native executor: walks a plan's step table, and the loop of the helper threads that join it.

A run claims tiles together with the helpers that are awake. The caller publishes one step at a time, and
whoever has a place at its seat takes pieces of it (``claim_source``). A claim is valid whichever step it
hits. The caller never waits for a helper that has claimed nothing, except to leave the seat after the last
shared step.
"""

from __future__ import annotations

from typing import Any

from onnxplan.runtime.cpu.call_source import build_call_run
from onnxplan.runtime.cpu.claim_source import (
    build_take,
    call_kernel,
    compute_first,
    has_tiles,
    publish,
    range_at,
    step_row,
)
from onnxplan.runtime.cpu.layout import (
    CLOSED,
    BindingWord,
    PlanWord,
    SeatWord,
    SlotWord,
    Status,
    StepMode,
    StepWord,
    TeamWord,
)
from onnxplan.runtime.cpu.native_builder import Condition, NativeFunction, Variable, Word, compile_module
from onnxplan.runtime.cpu.processor_source import build_move_away, note_processor

LOW = 0xFFFFFFFF
SPINS_BEFORE_YIELD = 64
"""A waiting thread offers its processor to others after so many polls: whom it waits for may need it."""


def compile_executor() -> bytes:
    """Object code with the functions ``call_run``, ``run``, ``help_runs``, ``stop`` and ``spin``."""
    return compile_module("onnxplan.executor", _build)


def _build(module: Any) -> None:
    _build_spin(module)
    wake = _build_wake(module)
    find = _build_find(module)
    take = build_take(module)
    shared = _build_shared_step(module, wake, take)
    walk = _build_walk(module, wake, find, shared)
    _build_run(module, walk)
    build_call_run(module, walk)
    move_away = build_move_away(module)
    join = _build_join(module)
    work = _build_work(module, take)
    _build_help_runs(module, wake, find, move_away, join, work)
    _build_stop(module)


def _seat(team: Word, number: Word) -> Word:
    return team + 8 * TeamWord.SEATS + number * (8 * SeatWord.WORDS)


def _build_spin(module: Any) -> NativeFunction:
    """``spin(team, count)``: polls ``count`` times, to measure how long that takes."""
    f = NativeFunction(module, "spin", 2, exported=True)
    team, count = f.arguments
    with f.count(count):
        f.atomic_load(team, TeamWord.OPEN)
        f.pause()
    f.give(0)
    return f


def _is_crowded(f: NativeFunction, team: Word) -> Condition:
    """Whether callers alone are going to fill the cores, though some are between two runs."""
    return f.atomic_load(team, TeamWord.EXPECTED) >= f.load(team, TeamWord.CORES)


def _build_wake(module: Any) -> NativeFunction:
    """``wake(team, seat)``: wakes up to two sleepers, if the seat has places and the machine idle cores.

    Those who are woken wake the next, so the caller pays for two at most. Taking a sleeper off the count
    before posting keeps posts and waits equal in number.
    """
    f = NativeFunction(module, "wake", 2)
    team, seat = f.arguments
    with f.count(2), f.loop() as attempt:
        sleepers = f.atomic_load(team, TeamWord.SLEEPERS, "seq_cst")
        f.give_if(sleepers.equals(0) | _is_crowded(f, team), 0)
        idle = f.load(team, TeamWord.CORES) - f.atomic_load(team, TeamWord.BUSY, "seq_cst")
        free = (~(f.atomic_load(seat, SeatWord.PLACES) | CLOSED)).count_ones()
        waking = f.atomic_load(team, TeamWord.WAKING)
        f.give_if((waking >= idle) | (waking >= free), 0)
        with f.when(f.compare_and_swap(team, TeamWord.SLEEPERS, sleepers, sleepers - 1)):
            f.atomic("add", team, TeamWord.WAKING, 1)
            f.atomic("add", team, TeamWord.WAKES, 1)
            f.call(f.load(team, TeamWord.POST), f.load(team, TeamWord.SEMAPHORE), 1, 0)
            attempt.leave()
    f.give(0)
    return f


def _build_find(module: Any) -> NativeFunction:
    """``find(team)``: a seat with tiles to claim and a free place, while a core is idle; else 0."""
    f = NativeFunction(module, "find", 1)
    (team,) = f.arguments
    is_full = f.atomic_load(team, TeamWord.BUSY, "seq_cst") >= f.load(team, TeamWord.CORES)
    f.give_if(is_full | _is_crowded(f, team), 0)
    seats = f.variable(f.atomic_load(team, TeamWord.OPEN, "seq_cst"))
    with f.loop() as loop:
        loop.leave_if(seats.get().equals(0))
        seat = _seat(team, seats.get().trailing_zeros())
        seats.set(seats.get() & (seats.get() - 1))
        places = f.atomic_load(seat, SeatWord.PLACES)
        f.give_if(has_tiles(f, seat) & (places >= 0) & (places | CLOSED).differs(-1), seat)
    f.give(0)
    return f


def _build_shared_step(module: Any, wake: NativeFunction, take: NativeFunction) -> NativeFunction:
    """``shared_step(team, seat, slot, step, done)``: the caller's part of a step that helpers share.

    ``done`` is the number of tiles that helpers have computed in the run so far; gives the number after it.
    """
    f = NativeFunction(module, "shared_step", 5)
    team, seat, slot, step, done = f.arguments
    plan = f.load(slot, SlotWord.PLAN)
    row, scratch = step_row(f, plan, step), f.load(slot, SlotWord.SCRATCH)
    publish(f, seat, plan, row, step)
    with f.when(f.load(row, StepWord.MODE).equals(StepMode.WAKE)):
        # A helper that has signed in as a sleeper before this sees the tiles, or else is seen.
        f.fence()
        f.call(wake, team, seat)
    others = f.variable(done + f.load(row, StepWord.TILES) - compute_first(f, slot, row, scratch))
    with f.loop() as loop:
        computed = f.call(take, seat, 0, scratch)
        loop.leave_if(computed.equals(0))
        others.set(others.get() - computed)
    spins = f.variable(0)
    with f.loop() as loop:
        loop.leave_if(f.atomic_load(seat, SeatWord.DONE).equals(others.get()))
        _wait(f, team, spins)
    f.give(others.get())
    return f


def _wait(f: NativeFunction, team: Word, polls: Variable) -> None:
    """A pause in a loop that polls; ``polls`` counts them."""
    f.pause()
    polls.add(1)
    with f.when((polls.get() % SPINS_BEFORE_YIELD).equals(0)):
        f.call(f.load(team, TeamWord.YIELD))


def _open_seat(f: NativeFunction, team: Word, plan: Word, slot: Word, seat: Variable) -> None:
    """Sets ``seat`` to an open seat for the run, or leaves it where all are taken."""
    with f.loop() as attempt:
        taken = f.atomic_load(team, TeamWord.OPEN)
        attempt.leave_if(taken.equals(-1))
        found = team + 8 * TeamWord.SEATS + (~taken).trailing_zeros() * (8 * SeatWord.WORDS)
        with f.when(f.compare_and_swap(team, TeamWord.OPEN, taken, taken | f.load(found, SeatWord.BIT))):
            f.store(found, SeatWord.SLOT, slot)
            f.atomic_store(found, SeatWord.DONE, 0)
            note_processor(f, team, found)
            f.atomic_store(found, SeatWord.PLACES, f.load(plan, PlanWord.PLACES))
            seat.set(found)
            attempt.leave()


def _close_seat(f: NativeFunction, team: Word, plan: Word, seat: Word) -> None:
    f.atomic("or", seat, SeatWord.PLACES, CLOSED)
    empty = f.load(plan, PlanWord.PLACES) | CLOSED
    spins = f.variable(0)
    with f.loop() as loop:
        loop.leave_if(f.atomic_load(seat, SeatWord.PLACES).equals(empty))
        _wait(f, team, spins)
    f.atomic("and", team, TeamWord.OPEN, ~f.load(seat, SeatWord.BIT))


def _build_walk(
    module: Any, wake: NativeFunction, find: NativeFunction, shared_step: NativeFunction
) -> NativeFunction:
    """``walk(slot, cancel)``: runs the plan on the addresses in the slot; the run's status.

    ``cancel`` is the address of a word that stops the run before the next step once it is not 0. So does
    the team's ``STOP``.
    """
    f = NativeFunction(module, "walk", 2)
    slot, cancel = f.arguments
    plan = f.load(slot, SlotWord.PLAN)
    team = f.load(plan, PlanWord.TEAM)
    _bind_arrays(f, plan, slot)
    counted = f.load(plan, PlanWord.RELEASE).differs(0)
    with f.when(counted):
        f.atomic("add", team, TeamWord.BUSY, 1)
    status, seat, step, done = (f.variable(value) for value in (Status.DONE, 0, 0, 0))
    with f.loop() as loop:
        loop.leave_if(step.get() >= f.load(plan, PlanWord.STEP_COUNT))
        stopped = f.atomic_load(team, TeamWord.STOP).differs(0)
        with f.when(f.atomic_load(cancel).differs(0) | stopped):
            status.set(Status.CANCELLED)
            loop.leave()
        row = step_row(f, plan, step.get())
        wants_help = f.load(row, StepWord.MODE).differs(StepMode.ALONE)
        with f.when(wants_help & seat.get().equals(0)):
            _open_seat(f, team, plan, slot, seat)
        with f.either(wants_help & seat.get().differs(0)) as (shared, alone):
            with shared:
                done.set(f.call(shared_step, team, seat.get(), slot, step.get(), done.get()))
                with f.when(step.get().equals(f.load(plan, PlanWord.LAST_SHARED))):
                    _close_seat(f, team, plan, seat.get())
                    seat.set(0)
            with alone:
                call_kernel(f, slot, row, 0, f.load(row, StepWord.TILES), f.load(slot, SlotWord.SCRATCH))
        step.add(1)
    with f.when(seat.get().differs(0)):
        _close_seat(f, team, plan, seat.get())
    with f.when(counted):
        f.atomic("sub", team, TeamWord.BUSY, 1)
        with f.when(f.atomic_load(team, TeamWord.OPEN, "seq_cst").differs(0)):
            waiting = f.call(find, team)
            with f.when(waiting.differs(0)):
                f.call(wake, team, waiting)
    f.give(status.get())
    return f


def _bind_arrays(f: NativeFunction, plan: Word, slot: Word) -> None:
    bindings = f.load(plan, PlanWord.BINDINGS)
    operands, addresses = f.load(slot, SlotWord.OPERANDS), f.load(slot, SlotWord.ADDRESSES)
    with f.count(f.load(plan, PlanWord.BINDING_COUNT)) as number:
        binding = bindings + number * (8 * BindingWord.WORDS)
        array = f.load(addresses + f.load(binding, BindingWord.ARRAY) * 8)
        operand = operands + f.load(binding, BindingWord.OPERAND)
        f.store(operand, 0, array + f.load(binding, BindingWord.OFFSET))


def _build_run(module: Any, walk: NativeFunction) -> None:
    """``run(slot, cancel)``: a run whose array addresses Python has written into the slot."""
    f = NativeFunction(module, "run", 2, exported=True)
    slot, cancel = f.arguments
    f.give(f.call(walk, slot, cancel))


def _build_join(module: Any) -> NativeFunction:
    """``join(team, seat)``: takes a place at the seat; its number from 1, or 0 where there is none."""
    f = NativeFunction(module, "join", 2)
    team, seat = f.arguments
    busy = f.atomic_load(team, TeamWord.BUSY)
    f.give_if(busy >= f.load(team, TeamWord.CORES), 0)
    f.give_if(f.compare_and_swap(team, TeamWord.BUSY, busy, busy + 1).negated(), 0)
    places = f.atomic_load(seat, SeatWord.PLACES)
    with f.when((places >= 0) & (places | CLOSED).differs(-1)):
        place = (~places).trailing_zeros()
        f.give_if(f.compare_and_swap(seat, SeatWord.PLACES, places, places | (f.word(1) << place)), place + 1)
    f.atomic("sub", team, TeamWord.BUSY, 1)
    f.give(0)
    return f


def _build_work(module: Any, take: NativeFunction) -> NativeFunction:
    """``work(team, seat, place)``: computes tiles of the run until it needs no more help, or has had no tiles
    for a while, or callers fill the cores; leaves the seat and gives the number of polls since the last tile.
    """
    f = NativeFunction(module, "work", 3)
    team, seat, place = f.arguments
    slot = f.load(seat, SeatWord.SLOT)
    plan = f.load(slot, SlotWord.PLAN)
    scratch = f.load(slot, SlotWord.SCRATCH) + place * f.load(plan, PlanWord.SCRATCH_STRIDE)
    own = place % f.load(plan, PlanWord.RANGES)
    idle, counted, seen = (f.variable(value) for value in (0, 1, -1))
    with f.loop() as loop:
        loop.leave_if(f.atomic_load(team, TeamWord.STOP).differs(0) | _is_crowded(f, team))
        busy = f.atomic_load(team, TeamWord.BUSY)
        with (
            f.when(busy > f.load(team, TeamWord.CORES)),
            f.when(f.compare_and_swap(team, TeamWord.BUSY, busy, busy - 1)),
        ):
            counted.set(0)
            loop.leave()
        # Its own range changes with every step: only then are the words of the others worth their transfer.
        found = f.atomic_load(range_at(seat, own))
        with f.when(found.equals(seen.get())):
            loop.leave_if(f.atomic_load(seat, SeatWord.PLACES) < 0)
            loop.leave_if(idle.get() >= f.load(team, TeamWord.RUN_SPIN_LIMIT))
            _wait(f, team, idle)
            loop.repeat()
        computed = f.call(take, seat, own, scratch)
        with f.when(computed.equals(0)):
            seen.set(found)
            loop.repeat()
        f.atomic("add", seat, SeatWord.DONE, computed)
        idle.set(0)
    f.atomic("and", seat, SeatWord.PLACES, ~(f.word(1) << (place - 1)))
    f.atomic("sub", team, TeamWord.BUSY, counted.get())
    f.give(idle.get())
    return f


def _build_help_runs(
    module: Any,
    wake: NativeFunction,
    find: NativeFunction,
    move_away: NativeFunction,
    join: NativeFunction,
    work: NativeFunction,
) -> None:
    """``help_runs(team)``: a helper's life: looks for runs for a while, then sleeps; gives 0 on stop."""
    f = NativeFunction(module, "help_runs", 1, exported=True)
    (team,) = f.arguments
    spins, woken = f.variable(0), f.variable(0)
    with f.loop() as life:
        life.leave_if(f.atomic_load(team, TeamWord.STOP).differs(0))
        seat = f.call(find, team)
        with f.when(seat.differs(0)):
            f.call(move_away, team, seat)
            place = f.call(join, team, seat)
            with f.when(place.differs(0)):
                with f.when(woken.get().differs(0)):
                    f.call(wake, team, seat)
                    woken.set(0)
                spins.set(f.call(work, team, seat, place))
                life.repeat()
        _wait(f, team, spins)
        with f.when(spins.get() >= f.load(team, TeamWord.SPIN_LIMIT)):
            woken.set(_sleep(f, team, find))
            spins.set(0)
    f.give(0)


def _sleep(f: NativeFunction, team: Word, find: NativeFunction) -> Word:
    """Waits to be woken; 1 if it did, 0 if there was work after all.

    Whoever publishes work looks for sleepers afterwards, and a sleeper looks for work after it has signed
    in, so that one of them sees the other. A sleeper that somebody has signed off must take the post.
    """
    f.atomic("add", team, TeamWord.SLEEPERS, 1)
    waits = f.variable(1)
    stopped = f.atomic_load(team, TeamWord.STOP, "seq_cst")
    with f.when(stopped.differs(0) | f.call(find, team).differs(0)), f.loop() as attempt:
        sleepers = f.atomic_load(team, TeamWord.SLEEPERS, "seq_cst")
        attempt.leave_if(sleepers.equals(0))
        with f.when(f.compare_and_swap(team, TeamWord.SLEEPERS, sleepers, sleepers - 1)):
            waits.set(0)
            attempt.leave()
    with f.when(waits.get().differs(0)):
        with f.loop() as interrupted:
            outcome = f.call(f.load(team, TeamWord.WAIT), f.load(team, TeamWord.SEMAPHORE), -1)
            interrupted.leave_if((outcome & LOW).equals(0))
        f.atomic("sub", team, TeamWord.WAKING, 1)
    return waits.get()


def _build_stop(module: Any) -> None:
    """``stop(team)``: ends runs in flight before their next step, and ``help_runs`` after its tile."""
    f = NativeFunction(module, "stop", 1, exported=True)
    (team,) = f.arguments
    f.atomic("xchg", team, TeamWord.STOP, 1)
    with f.loop() as loop:
        sleepers = f.atomic_load(team, TeamWord.SLEEPERS, "seq_cst")
        loop.leave_if(sleepers.equals(0))
        with f.when(f.compare_and_swap(team, TeamWord.SLEEPERS, sleepers, sleepers - 1)):
            f.atomic("add", team, TeamWord.WAKING, 1)
            f.call(f.load(team, TeamWord.POST), f.load(team, TeamWord.SEMAPHORE), 1, 0)
    f.give(0)
