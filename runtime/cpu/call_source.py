"""The executor's entrance from Python: reads tuples and NumPy arrays without converting anything."""

from __future__ import annotations

from typing import Any

from onnxplan.runtime.cpu.layout import ArrayWord, PlanWord, SlotWord, Status, TeamWord
from onnxplan.runtime.cpu.native_builder import NativeFunction, Word
from onnxplan.runtime.cpu.object_layout import DTYPE_WORDS

LOW = 0xFFFFFFFF
PLAIN_FLAGS = 0x0101
"""NumPy's flags of an array that is C-contiguous and aligned."""


def build_call_run(module: Any, walk: NativeFunction) -> None:
    """``call_run(self, arguments, count)``: the run as a Python function (``METH_FASTCALL``).

    ``self`` is an int, the address of the slot; the arguments are the tuples of input and output arrays and
    optionally the address of a cancellation word. Without it the arrays are checked: element type, shape and
    layout must be the plan's. Gives an int, the status. Holds the interpreter's lock where the plan is so
    short that letting go of it would cost more.
    """
    address_of = NativeFunction(module, "PyLong_AsVoidPtr", 1, body=False)
    int_of = NativeFunction(module, "PyLong_FromLong", 1, body=False)
    release = NativeFunction(module, "PyEval_SaveThread", 0, body=False)
    acquire = NativeFunction(module, "PyEval_RestoreThread", 1, body=False)
    f = NativeFunction(module, "call_run", 3, exported=True)
    own, arguments, count = f.arguments
    bad_arguments = f.call(int_of, Status.BAD_ARGUMENTS)
    f.give_if((count < 2) | (count > 3), bad_arguments)
    slot = f.call(address_of, own)
    plan = f.load(slot, SlotWord.PLAN)
    team = f.load(plan, PlanWord.TEAM)
    addresses = f.variable(f.load(slot, SlotWord.ADDRESSES))
    expected = f.variable(f.load(plan, PlanWord.ARRAYS))
    checked = count.equals(2)
    for position, length in enumerate((PlanWord.INPUT_COUNT, PlanWord.OUTPUT_COUNT)):
        arrays = f.load(arguments, position)
        f.give_if(_type(f, team, arrays).differs(f.load(team, TeamWord.TUPLE_TYPE)), bad_arguments)
        size = f.load(arrays + f.load(team, TeamWord.SIZE_OFFSET))
        f.give_if(size.differs(f.load(plan, length)), bad_arguments)
        items = arrays + f.load(team, TeamWord.ITEMS_OFFSET)
        with f.count(size) as number:
            array = f.load(items + number * 8)
            f.give_if(_type(f, team, array).differs(f.load(team, TeamWord.ARRAY_TYPE)), bad_arguments)
            with f.when(checked):
                _check_array(f, team, array, expected.get(), bad_arguments)
            f.store(addresses.get(), 0, f.load(array + f.load(team, TeamWord.DATA_OFFSET)))
            addresses.add(8)
            expected.add(8 * ArrayWord.WORDS)
    cancel = f.variable(team + 8 * TeamWord.ZERO)
    with f.when(count.equals(3)):
        cancel.set(f.call(address_of, f.load(arguments, 2)))
    status = f.variable(0)
    with f.either(f.load(plan, PlanWord.RELEASE).differs(0)) as (released, held):
        with released:
            state = f.call(release)
            status.set(f.call(walk, slot, cancel.get()))
            f.call(acquire, state)
        with held:
            status.set(f.call(walk, slot, cancel.get()))
    f.give(f.call(int_of, status.get()))


def _check_array(f: NativeFunction, team: Word, array: Word, expected: Word, bad_arguments: Word) -> None:
    """Leaves the function with ``bad_arguments`` unless an array is what the plan expects."""
    dtype = f.load(array + f.load(team, TeamWord.DTYPE_OFFSET))
    flags = f.load(array + f.load(team, TeamWord.FLAGS_OFFSET)) & PLAIN_FLAGS
    rank = f.load(array + f.load(team, TeamWord.RANK_OFFSET)) & LOW
    wrong = flags.differs(PLAIN_FLAGS) | rank.differs(f.load(expected, ArrayWord.RANK))
    f.give_if(wrong, bad_arguments)
    wanted_dtype = f.load(expected, ArrayWord.DTYPE)
    with f.when(dtype.differs(wanted_dtype)):
        for offset in DTYPE_WORDS:
            f.give_if(f.load(dtype + offset).differs(f.load(wanted_dtype + offset)), bad_arguments)
    shape, wanted = f.load(array + f.load(team, TeamWord.SHAPE_OFFSET)), f.load(expected, ArrayWord.SHAPE)
    with f.count(rank) as axis:
        f.give_if(f.load(shape + axis * 8).differs(f.load(wanted + axis * 8)), bad_arguments)


def _type(f: NativeFunction, team: Word, value: Word) -> Word:
    return f.load(value + f.load(team, TeamWord.TYPE_OFFSET))
