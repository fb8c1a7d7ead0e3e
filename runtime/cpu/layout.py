"""Where the native executor finds things: indices of 64-bit words in the records it shares with Python.

The team's block is one per process; a plan record and its step table one per executor; a slot record one per
run in flight. Words that several threads write stand on cache lines of their own, two lines apart because
processors prefetch lines in pairs.
"""

from __future__ import annotations

LINE = 16
"""Words from one contended word to the next (128 bytes)."""


class TeamWord:
    """The team's block; ``SEATS`` is where the seats begin.

    ``BUSY`` counts callers and helpers at work, ``SLEEPERS`` helpers that sleep and that nobody has woken,
    ``WAKING`` those on their way, ``WAKES`` all wake-ups so far; ``OPEN`` has a bit for each seat in use.
    ``EXPECTED`` is how many callers there are going to be, those in runs among them, as far as it is known.
    """

    CORES = 0
    SPIN_LIMIT = 1
    SEMAPHORE = 2
    WAIT = 3
    POST = 4
    YIELD = 5
    STOP = 6
    ZERO = 7
    TUPLE_TYPE = 8
    ARRAY_TYPE = 9
    TYPE_OFFSET = 10
    SIZE_OFFSET = 11
    ITEMS_OFFSET = 12
    DATA_OFFSET = 13
    RANK_OFFSET = 14
    SHAPE_OFFSET = 15
    DTYPE_OFFSET = 16
    FLAGS_OFFSET = 17
    RUN_SPIN_LIMIT = 18
    PROCESSOR = 19
    GET_AFFINITY = 20
    SET_AFFINITY = 21
    BUSY = 2 * LINE
    SLEEPERS = 3 * LINE
    WAKING = 3 * LINE + 1
    WAKES = 3 * LINE + 2
    OPEN = 4 * LINE
    EXPECTED = 5 * LINE
    SEATS = 6 * LINE


MAX_RANGES = 8
"""Ranges of a seat: publishing a step writes each, so there are fewer than a large machine has workers."""


class RangeWord:
    """A part of a step's tiles, in a word whose fields change together.

    The upper half is the number of the step. The lower 16 bits count up to ``EMPTY`` as pieces are taken, so
    that this bit is clear exactly while there are pieces to take; the 16 bits above are the number of those
    that were taken from the range's end (and of attempts that came too late).
    """

    COUNT_MASK = (1 << 16) - 1
    EMPTY = 1 << 15
    STOLEN_SHIFT = 16
    STOLEN = 1 << STOLEN_SHIFT
    MOST_PIECES = EMPTY - 1


class SeatWord:
    """A seat holds a run that helpers may join.

    ``PLACES`` has bit i set when the place of worker i + 1 is taken or does not exist, and the sign bit while
    the seat is closed. ``BIT`` is the seat's bit in ``TeamWord.OPEN``. ``PROCESSOR`` is where the caller was
    when it opened the seat. ``DONE`` counts the tiles of the run that helpers have finished. ``RANGES`` is
    the first of ``MAX_RANGES`` range words.
    """

    PLACES = 0
    SLOT = 1
    BIT = 2
    PROCESSOR = 3
    DONE = LINE
    RANGES = 2 * LINE
    WORDS = (2 + MAX_RANGES) * LINE


SEATS = 64
MAX_WORKERS = 63
CLOSED = -(1 << 63)

TEAM_WORDS = TeamWord.SEATS + SEATS * SeatWord.WORDS


class PlanWord:
    """What all runs of an executor share."""

    TEAM = 0
    STEPS = 1
    STEP_COUNT = 2
    BINDINGS = 3
    BINDING_COUNT = 4
    INPUT_COUNT = 5
    OUTPUT_COUNT = 6
    SCRATCH_STRIDE = 7
    PLACES = 8
    RELEASE = 9
    ARRAYS = 10
    RANGES = 11
    LAST_SHARED = 12
    WORDS = 13


class ArrayWord:
    """What an array of the caller's must be: the address of its element type, its rank, that of its shape."""

    DTYPE = 0
    RANK = 1
    SHAPE = 2
    WORDS = 3


class StepWord:
    """A row of the step table. ``OPERANDS`` is a byte offset into the slot's operand table.

    A piece is ``GRAIN`` tiles, the step's last one perhaps fewer. Each range has ``PIECES`` of them, and the
    first ``LONGER`` ranges one more.
    """

    KERNEL = 0
    OPERANDS = 1
    PARAMETERS = 2
    TILES = 3
    GRAIN = 4
    MODE = 5
    PIECES = 6
    LONGER = 7
    WORDS = 8


class StepMode:
    """``ALONE``: for the caller; ``SHARED``: helpers that are awake may join; ``WAKE``: worth waking one."""

    ALONE = 0
    SHARED = 1
    WAKE = 2


class BindingWord:
    """An operand in a caller's array: byte offset into the operand table, array number, byte offset there."""

    OPERAND = 0
    ARRAY = 1
    OFFSET = 2
    WORDS = 3


class SlotWord:
    """What one run in flight needs: addresses of the caller's arrays, operand table and scratch."""

    PLAN = 0
    ADDRESSES = 1
    OPERANDS = 2
    SCRATCH = 3
    WORDS = 4


class TraceWord:
    """What a traced kernel gets as its parameters: the kernel it stands for, and where to note its calls.

    ``LOG`` is the address of a log: the number of its events, and from ``EVENTS`` on the events.
    """

    KERNEL = 0
    PARAMETERS = 1
    STEP = 2
    LOG = 3
    WORDS = 4
    EVENTS = LINE


class EventWord:
    """An event of a log: the worker's scratch, step and tiles, and the clock's seconds and nanoseconds."""

    SCRATCH = 0
    STEP = 1
    FIRST = 2
    LAST = 3
    BEGIN = 4
    END = 6
    WORDS = 8


class Status:
    """What a run returns."""

    DONE = 0
    CANCELLED = 1
    BAD_ARGUMENTS = 2
