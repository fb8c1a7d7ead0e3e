import numpy as np
import pytest
from transforming import Sketch, operations_text, transform

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.passes.fuse_resamples import NOT_PREFERRED, fuse_resamples
from onnxplan.compiler.passes.refusals import recorded_refusals
from onnxplan.compiler.primitives import Resample


def fuse(program):
    return fuse_resamples(program, lambda operation: True)


def resample(b, x, axis, outputs, taps=2):
    positions = b.constant(np.arange(outputs * taps, dtype=np.int32).reshape(outputs, taps) % x.shape[axis])
    positions.storage.name = f"positions{axis}"
    tables = [x, positions, b.weights(f"weights{axis}", outputs, taps)]
    result = b.new(DType.FLOAT32, (*x.shape[:axis], outputs, *x.shape[axis + 1 :]))
    return b.emit(Resample(axis), tables, [result])[0]


AFTER = """
        %3:float32[2, 5, 7] = resampleplane[axis=1](x:float32[2, 3, 4], positions1:int32[5, 2], weights1:float32[5, 2], positions2:int32[7, 2], weights2:float32[7, 2])
        """  # noqa: E501


def test_two_axes_become_one_operation():
    b = Sketch()
    transform(
        b.program(y=resample(b, resample(b, b.input("x", 2, 3, 4), 1, 5), 2, 7)),
        fuse,
        """
        %2:float32[2, 5, 4] = resample[axis=1](x:float32[2, 3, 4], positions1:int32[5, 2], weights1:float32[5, 2])
        %3:float32[2, 5, 7] = resample[axis=2](%2:float32[2, 5, 4], positions2:int32[7, 2], weights2:float32[7, 2])
        """,  # noqa: E501
        AFTER,
    )


def test_the_last_axis_may_come_first():
    b = Sketch()
    transform(
        b.program(y=resample(b, resample(b, b.input("x", 2, 3, 4), 2, 7), 1, 5)),
        fuse,
        """
        %2:float32[2, 3, 7] = resample[axis=2](x:float32[2, 3, 4], positions2:int32[7, 2], weights2:float32[7, 2])
        %3:float32[2, 5, 7] = resample[axis=1](%2:float32[2, 3, 7], positions1:int32[5, 2], weights1:float32[5, 2])
        """,  # noqa: E501
        AFTER,
    )


def test_of_three_axes_two_become_one_operation():
    b = Sketch()
    x = b.input("x", 2, 3, 4)
    for axis in range(3):
        x = resample(b, x, axis, 5)
    program = fuse(b.program(y=x))
    assert [str(operation.primitive) for operation in program.operations] == [
        "resample[axis=0]",
        "resampleplane[axis=1]",
    ]


def test_what_others_read_is_kept():
    b = Sketch()
    between = resample(b, b.input("x", 3, 4), 0, 5)
    program = b.program(y=resample(b, between, 1, 7), z=between)
    before = operations_text(program)
    assert operations_text(fuse(program)) == before


@pytest.mark.parametrize("axes", [(0, 1), (1, 0), (2, 2)])
def test_other_axes_are_left_alone(axes):
    b = Sketch()
    x = b.input("x", 3, 4, 5)
    for axis in axes:
        x = resample(b, x, axis, 7)
    program = b.program(y=x)
    before = operations_text(program)
    assert operations_text(fuse(program)) == before


def test_the_device_decides():
    b = Sketch()
    program = b.program(y=resample(b, resample(b, b.input("x", 3, 4), 0, 5), 1, 7))
    before = operations_text(program)
    with recorded_refusals() as refusals:
        assert operations_text(fuse_resamples(program, lambda operation: False)) == before
    assert list(refusals.values()) == [NOT_PREFERRED]
