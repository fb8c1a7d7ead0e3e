# ruff: noqa: E501
from transforming import Sketch, transform

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.passes.fold_padding import fold_padding
from onnxplan.compiler.primitives import Conv


def pad(b, x, before, after, value=0.0):
    """``x (N, H, W, C)`` framed by ``value``, the frame written in four pieces as lowering does."""
    n, h, w, c = x.shape
    height, width = before[0] + h + after[0], before[1] + w + after[1]
    result = b.new(DType.FLOAT32, (n, height, width, c))
    b.fill_into(value, result.slice(1, 0, before[0]))
    b.fill_into(value, result.slice(1, before[0] + h, after[0]))
    middle = result.slice(1, before[0], h)
    b.fill_into(value, middle.slice(2, 0, before[1]))
    b.fill_into(value, middle.slice(2, before[1] + w, after[1]))
    b.copy_into(x, middle.slice(2, before[1], w))
    return result


def conv(b, x, name="w"):
    primitive = Conv((2, 2), (1, 1), (0, 1), 1, DType.FLOAT32)
    n, h, w, c = x.shape
    result = b.new(DType.FLOAT32, (n, (h - 3) // 2 + 1, (w + 1 - 3) // 2 + 1, 2))
    return b.emit(primitive, [x, b.weights(name, 3, 3, c, 2)], [result])[0]


def test_convolutions_read_what_was_padded():
    b = Sketch()
    y = b.scalar("exp", b.input("x", 1, 5, 5, 2))
    transform(
        b.program(y=conv(b, pad(b, y, (1, 2), (2, 1)))),
        fold_padding,
        """
        %2:float32[1, 5, 5, 2] = map[exp(x0)](x:float32[1, 5, 5, 2])
        %3:float32[1, 1, 8, 2] = map[0]()
        %3:float32[1, 2, 8, 2]@96[128, 16, 2, 1] = map[0]()
        %3:float32[1, 5, 2, 2]@16[128, 16, 2, 1] = map[0]()
        %3:float32[1, 5, 1, 2]@30[128, 16, 2, 1] = map[0]()
        %3:float32[1, 5, 5, 2]@20[128, 16, 2, 1] = copy[x0](%2:float32[1, 5, 5, 2])
        %4:float32[1, 3, 4, 2] = conv[strides=2x2, dilations=1x1, pads=0x1, groups=1, accumulator=float32](%3:float32[1, 8, 8, 2], w:float32[3, 3, 2, 2])
        """,
        """
        %2:float32[1, 5, 5, 2] = map[exp(x0)](x:float32[1, 5, 5, 2])
        %4:float32[1, 3, 4, 2] = conv[strides=2x2, dilations=1x1, pads=1x3, groups=1, accumulator=float32](%2:float32[1, 5, 5, 2], w:float32[3, 3, 2, 2])
        """,
    )


def test_a_source_in_another_order_of_axes():
    b = Sketch()
    x = b.input("x", 1, 2, 5, 5).transpose((0, 2, 3, 1))
    padded = b.new(DType.FLOAT32, (1, 7, 7, 2))
    b.fill_into(0.0, padded)
    b.copy_into(x.transpose((0, 3, 1, 2)), padded.slice(1, 1, 5).slice(2, 1, 5).transpose((0, 3, 1, 2)))
    transform(
        b.program(y=conv(b, padded)),
        fold_padding,
        """
        %2:float32[1, 7, 7, 2] = map[0]()
        %2:float32[1, 2, 5, 5]@16[98, 1, 14, 2] = copy[x0](x:float32[1, 2, 5, 5])
        %3:float32[1, 3, 3, 2] = conv[strides=2x2, dilations=1x1, pads=0x1, groups=1, accumulator=float32](%2:float32[1, 7, 7, 2], w:float32[3, 3, 2, 2])
        """,
        """
        %3:float32[1, 3, 3, 2] = conv[strides=2x2, dilations=1x1, pads=1x2, groups=1, accumulator=float32](x:float32[1, 5, 5, 2]@0[0, 5, 1, 25], w:float32[3, 3, 2, 2])
        """,
    )


def test_the_inside_is_written_to_a_storage_of_its_own():
    """As after the elision of the copy; two convolutions read it."""
    b = Sketch()
    x = b.input("x", 1, 5, 5, 2)
    padded = pad(b, x, (1, 1), (1, 1))
    copy = b.operations.pop()
    b.scalar("exp", x)
    b.operations[-1].outputs = copy.outputs
    transform(
        b.program(y=conv(b, padded), z=conv(b, padded, "v")),
        fold_padding,
        """
        %2:float32[1, 1, 7, 2] = map[0]()
        %2:float32[1, 1, 7, 2]@84[98, 14, 2, 1] = map[0]()
        %2:float32[1, 5, 1, 2]@14[98, 14, 2, 1] = map[0]()
        %2:float32[1, 5, 1, 2]@26[98, 14, 2, 1] = map[0]()
        %2:float32[1, 5, 5, 2]@16[98, 14, 2, 1] = map[exp(x0)](x:float32[1, 5, 5, 2])
        %4:float32[1, 3, 3, 2] = conv[strides=2x2, dilations=1x1, pads=0x1, groups=1, accumulator=float32](%2:float32[1, 7, 7, 2], w:float32[3, 3, 2, 2])
        %5:float32[1, 3, 3, 2] = conv[strides=2x2, dilations=1x1, pads=0x1, groups=1, accumulator=float32](%2:float32[1, 7, 7, 2], v:float32[3, 3, 2, 2])
        """,
        """
        %2:float32[1, 5, 5, 2] = map[exp(x0)](x:float32[1, 5, 5, 2])
        %4:float32[1, 3, 3, 2] = conv[strides=2x2, dilations=1x1, pads=1x2, groups=1, accumulator=float32](%2:float32[1, 5, 5, 2], w:float32[3, 3, 2, 2])
        %5:float32[1, 3, 3, 2] = conv[strides=2x2, dilations=1x1, pads=1x2, groups=1, accumulator=float32](%2:float32[1, 5, 5, 2], v:float32[3, 3, 2, 2])
        """,
    )


def test_frames_that_must_stay():
    """Another number than zero; readers that are no convolutions; an output of the program."""
    b = Sketch()
    x = b.input("x", 1, 5, 5, 2)
    ones, read, shown = pad(b, x, (1, 1), (1, 1), 1.0), pad(b, x, (1, 1), (1, 1)), pad(b, x, (1, 1), (1, 1))
    program = b.program(a=conv(b, ones), b=conv(b, read), c=b.scalar("exp", read), d=conv(b, shown), e=shown)
    before = str(program)
    assert str(fold_padding(program)) == before


def test_channels_are_not_padded():
    b = Sketch()
    x = b.input("x", 1, 5, 5, 2)
    padded = b.new(DType.FLOAT32, (1, 5, 5, 3))
    b.fill_into(0.0, padded.slice(3, 2, 1))
    b.copy_into(x, padded.slice(3, 0, 2))
    program = b.program(y=conv(b, padded))
    before = str(program)
    assert str(fold_padding(program)) == before


def test_zeros_that_come_last_win():
    b = Sketch()
    x = b.input("x", 1, 5, 5, 2)
    padded = b.new(DType.FLOAT32, (1, 5, 5, 2))
    b.copy_into(x, padded)
    b.fill_into(0.0, padded.slice(1, 0, 2))
    program = b.program(y=conv(b, padded))
    before = str(program)
    assert str(fold_padding(program)) == before
