"""How the tiles of a shared step come to the workers: the words of a seat's ranges.

A step's tiles are cut into pieces of ``GRAIN`` tiles, and the pieces into one range for each worker (the
caller is worker 0). A worker takes the pieces of its own range in order, so that it walks straight through
memory, and in every step through the same part of each tensor, which its cache then holds. After that it
takes from the far ends of the other ranges. Both are one atomic addition to the range's word
(``layout.RangeWord``), whose old value says which step it hit, whether there was a piece, and which.
"""

from __future__ import annotations

from typing import Any

from onnxplan.runtime.cpu.layout import LINE, MAX_RANGES, PlanWord, RangeWord, SeatWord, SlotWord, StepWord
from onnxplan.runtime.cpu.native_builder import Condition, NativeFunction, Word


def step_row(f: NativeFunction, plan: Word, step: Word) -> Word:
    return f.load(plan, PlanWord.STEPS) + step * (8 * StepWord.WORDS)


def call_kernel(
    f: NativeFunction, slot: Word, row: Word, first: Word | int, last: Word, scratch: Word
) -> None:
    operands = f.load(slot, SlotWord.OPERANDS) + f.load(row, StepWord.OPERANDS)
    f.call(f.load(row, StepWord.KERNEL), operands, f.load(row, StepWord.PARAMETERS), first, last, scratch)


def range_at(seat: Word, number: Word | int) -> Word:
    """The address of a range's word."""
    return seat + 8 * SeatWord.RANGES + number * (8 * LINE)


def has_tiles(f: NativeFunction, seat: Word) -> Condition:
    """Whether there are tiles to take at the seat; ranges that its run does not use never have any."""
    every = f.word(-1)
    for number in range(MAX_RANGES):
        every = every & f.atomic_load(seat, SeatWord.RANGES + number * LINE, "seq_cst")
    return (every & RangeWord.EMPTY).equals(0)


def _range_pieces(f: NativeFunction, row: Word, number: Word) -> Word:
    """How many pieces the range has: the first ``LONGER`` ranges have one more than the others."""
    return f.load(row, StepWord.PIECES) + (number < f.load(row, StepWord.LONGER)).choose(1, 0)


def _range_start(f: NativeFunction, row: Word, number: Word) -> Word:
    longer = f.load(row, StepWord.LONGER)
    return f.load(row, StepWord.PIECES) * number + (number < longer).choose(number, longer)


def _compute(f: NativeFunction, slot: Word, row: Word, piece: Word | int, scratch: Word) -> Word:
    """Computes a piece of the step; the number of its tiles."""
    grain, tiles = f.load(row, StepWord.GRAIN), f.load(row, StepWord.TILES)
    first = grain * piece
    last = (first + grain < tiles).choose(first + grain, tiles)
    call_kernel(f, slot, row, first, last, scratch)
    return last - first


def publish(f: NativeFunction, seat: Word, plan: Word, row: Word, step: Word) -> None:
    """Offers the tiles of the step, all but the first piece, which is the caller's.

    Ranges without pieces come last, so whoever sees its own range change finds those that have some.
    """
    word = (step << 32) + RangeWord.EMPTY
    f.atomic_store(range_at(seat, 0), 0, word + 1 - _range_pieces(f, row, f.word(0)))
    with f.count(f.load(plan, PlanWord.RANGES) - 1) as number:
        f.atomic_store(range_at(seat, number + 1), 0, word - _range_pieces(f, row, number + 1))


def compute_first(f: NativeFunction, slot: Word, row: Word, scratch: Word) -> Word:
    """Computes the piece that :func:`publish` kept back; the number of its tiles."""
    return _compute(f, slot, row, f.word(0), scratch)


def build_take(module: Any) -> NativeFunction:
    """``take(seat, own, scratch)``: computes a piece of the step; the number of its tiles, 0 if none is left.

    ``own`` is the range to take from first. The end of another worker's range is taken from, its beginning
    where that worker is not there.
    """
    f = NativeFunction(module, "take", 3)
    seat, own, scratch = f.arguments
    slot = f.load(seat, SeatWord.SLOT)
    plan = f.load(slot, SlotWord.PLAN)
    ranges = f.load(plan, PlanWord.RANGES)
    number = f.variable(own)
    with f.count(ranges) as attempt:
        place = range_at(seat, number.get())
        with f.when((f.atomic_load(place) & RangeWord.EMPTY).equals(0)):
            # The caller, worker 0, is always there; bit i of PLACES is worker i + 1.
            present = ((f.atomic_load(seat, SeatWord.PLACES) << 1) | 1) & (f.word(1) << number.get())
            steals = attempt.differs(0) & present.differs(0)
            word = f.atomic("add", place, 0, steals.choose(RangeWord.STOLEN + 1, 1))
            with f.when((word & RangeWord.EMPTY).equals(0)):
                row = step_row(f, plan, word >> 32)
                pieces = _range_pieces(f, row, number.get())
                stolen = (word >> RangeWord.STOLEN_SHIFT) & RangeWord.COUNT_MASK
                taken = (word & RangeWord.COUNT_MASK) - RangeWord.EMPTY + pieces
                piece = _range_start(f, row, number.get()) + steals.choose(pieces - 1, taken) - stolen
                f.give(_compute(f, slot, row, piece, scratch))
        following = number.get() + 1
        number.set((following < ranges).choose(following, 0))
    f.give(0)
    return f
