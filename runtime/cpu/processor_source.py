"""Getting a helper off its caller's processor. Threads are never pinned.

A virtual machine takes a halted processor for one that its host has taken away, so that the system wakes a
helper on the processor of its waker and leaves it there for milliseconds, while another idles. A helper that
finds itself there excludes that processor from its affinity, which moves it, and takes the exclusion back.
"""

from __future__ import annotations

from typing import Any

from onnxplan.runtime.cpu.layout import SeatWord, TeamWord
from onnxplan.runtime.cpu.native_builder import NativeFunction, Word

MASK_WORDS = 128
"""Words of an affinity mask: 8192 processors, the most that Linux is built for."""
LOW = 0xFFFFFFFF


def note_processor(f: NativeFunction, team: Word, seat: Word) -> None:
    """Writes to the seat which processor its caller is on."""
    with f.when(f.load(team, TeamWord.PROCESSOR).differs(0)):
        processor = f.call(f.load(team, TeamWord.PROCESSOR))
        f.atomic_store(seat, SeatWord.PROCESSOR, processor & LOW)


def build_move_away(module: Any) -> NativeFunction:
    """``move_away(team, seat)``: if the thread is on the processor of the seat's caller, moves it to another.

    Nothing happens where the thread may use no other: the system refuses an empty mask.
    """
    f = NativeFunction(module, "move_away", 2)
    team, seat = f.arguments
    f.give_if(f.load(team, TeamWord.PROCESSOR).equals(0), 0)
    processor = f.call(f.load(team, TeamWord.PROCESSOR)) & LOW
    f.give_if(processor.differs(f.atomic_load(seat, SeatWord.PROCESSOR)), 0)
    mask, size = f.buffer(MASK_WORDS), 8 * MASK_WORDS
    failure = f.call(f.load(team, TeamWord.GET_AFFINITY), 0, size, mask) & LOW
    f.give_if(failure.differs(0), 0)
    word = mask + (processor >> 6) * 8
    allowed = f.load(word)
    f.store(word, 0, allowed & ~(f.word(1) << (processor & 63)))
    f.call(f.load(team, TeamWord.SET_AFFINITY), 0, size, mask)
    f.store(word, 0, allowed)
    f.call(f.load(team, TeamWord.SET_AFFINITY), 0, size, mask)
    f.give(0)
    return f
