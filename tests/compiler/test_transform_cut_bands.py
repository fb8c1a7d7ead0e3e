import numpy as np
import onnx
import pytest
from transforming import Sketch, operations_text, random_feeds, transform

import onnxplan
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.evaluate import evaluate_program
from onnxplan.compiler.passes.cut_bands import cut_bands
from onnxplan.compiler.passes.fuse_epilogues import fuse_epilogues
from onnxplan.compiler.primitives import Conv
from onnxplan.compiler.target import Target
from onnxplan.compiler.verify import verify_program


def target(second_cache, threads=1, device="cpu"):
    return Target(device, "generic", 32, 16, (256, second_cache), threads)


def conv(b, x, w, groups=1, stride=1, pad=0, dilation=1):
    reach = (w.shape[0] - 1) * dilation + 1
    rows, columns = ((extent + 2 * pad - reach) // stride + 1 for extent in x.shape[1:3])
    primitive = Conv((stride,) * 2, (dilation,) * 2, (pad,) * 2, groups, DType.FLOAT32)
    result = b.new(DType.FLOAT32, (x.shape[0], rows, columns, w.shape[-1]))
    return b.emit(primitive, [x, w], [result])[0]


def block(b, x, wide=4, narrow=2, kernel=3, **filtering):
    """Widens, filters and narrows, with a bias each."""
    x = b.scalar("add", conv(b, x, b.weights("wide", 1, 1, x.shape[-1], wide)), b.weights("a", wide))
    filters = b.weights("filter", kernel, kernel, 1, wide)
    x = b.scalar("add", conv(b, x, filters, groups=wide, **filtering), b.weights("b", wide))
    return b.scalar("add", conv(b, x, b.weights("narrow", 1, 1, wide, narrow)), b.weights("c", narrow))


def test_blocks_that_no_cache_holds_are_cut():
    b = Sketch()
    x = b.input("x", 1, 16, 2, 2)
    transform(
        fuse_epilogues(b.program(y=b.scalar("add", block(b, x, pad=1), x))),
        lambda program: cut_bands(program, target(1000)),
        """
        %3:float32[1, 16, 2, 4] = conv[strides=1x1, dilations=1x1, pads=0x0, groups=1, accumulator=float32, epilogue=add(x0, x1)](x:float32[1, 16, 2, 2], wide:float32[1, 1, 2, 4], a:float32[1, 16, 2, 4]@0[0, 0, 0, 1])
        %5:float32[1, 16, 2, 4] = conv[strides=1x1, dilations=1x1, pads=1x1, groups=4, accumulator=float32, epilogue=add(x0, x1)](%3:float32[1, 16, 2, 4], filter:float32[3, 3, 1, 4], b:float32[1, 16, 2, 4]@0[0, 0, 0, 1])
        %8:float32[1, 16, 2, 2] = conv[strides=1x1, dilations=1x1, pads=0x0, groups=1, accumulator=float32, epilogue=add(add(x0, x1), x2)](%5:float32[1, 16, 2, 4], narrow:float32[1, 1, 4, 2], c:float32[1, 16, 2, 2]@0[0, 0, 0, 1], x:float32[1, 16, 2, 2])
        """,  # noqa: E501
        """
        %3:0:float32[1, 6, 2, 4] = conv[strides=1x1, dilations=1x1, pads=0x0, groups=1, accumulator=float32, epilogue=add(x0, x1)](x:float32[1, 6, 2, 2], wide:float32[1, 1, 2, 4], a:float32[1, 6, 2, 4]@0[0, 0, 0, 1])
        %5:0:float32[1, 5, 2, 4] = conv[strides=1x1, dilations=1x1, pads=1x1, groups=4, accumulator=float32, epilogue=add(x0, x1)](%3:0:float32[1, 6, 2, 4], filter:float32[3, 3, 1, 4], b:float32[1, 5, 2, 4]@0[0, 0, 0, 1])
        %8:float32[1, 5, 2, 2] = conv[strides=1x1, dilations=1x1, pads=0x0, groups=1, accumulator=float32, epilogue=add(add(x0, x1), x2)](%5:0:float32[1, 5, 2, 4], narrow:float32[1, 1, 4, 2], c:float32[1, 5, 2, 2]@0[0, 0, 0, 1], x:float32[1, 5, 2, 2])
        %3:4:float32[1, 7, 2, 4] = conv[strides=1x1, dilations=1x1, pads=0x0, groups=1, accumulator=float32, epilogue=add(x0, x1)](x:float32[1, 7, 2, 2]@16[64, 4, 2, 1], wide:float32[1, 1, 2, 4], a:float32[1, 7, 2, 4]@0[0, 0, 0, 1])
        %5:5:float32[1, 5, 2, 4] = conv[strides=1x1, dilations=1x1, pads=0x1, groups=4, accumulator=float32, epilogue=add(x0, x1)](%3:4:float32[1, 7, 2, 4], filter:float32[3, 3, 1, 4], b:float32[1, 5, 2, 4]@0[0, 0, 0, 1])
        %8:float32[1, 5, 2, 2]@20[64, 4, 2, 1] = conv[strides=1x1, dilations=1x1, pads=0x0, groups=1, accumulator=float32, epilogue=add(add(x0, x1), x2)](%5:5:float32[1, 5, 2, 4], narrow:float32[1, 1, 4, 2], c:float32[1, 5, 2, 2]@0[0, 0, 0, 1], x:float32[1, 5, 2, 2]@20[64, 4, 2, 1])
        %3:9:float32[1, 7, 2, 4] = conv[strides=1x1, dilations=1x1, pads=0x0, groups=1, accumulator=float32, epilogue=add(x0, x1)](x:float32[1, 7, 2, 2]@36[64, 4, 2, 1], wide:float32[1, 1, 2, 4], a:float32[1, 7, 2, 4]@0[0, 0, 0, 1])
        %5:10:float32[1, 6, 2, 4] = conv[strides=1x1, dilations=1x1, pads=0x1, groups=4, accumulator=float32, epilogue=add(x0, x1)](%3:9:float32[1, 7, 2, 4], filter:float32[3, 3, 1, 4], b:float32[1, 6, 2, 4]@0[0, 0, 0, 1])
        %8:float32[1, 6, 2, 2]@40[64, 4, 2, 1] = conv[strides=1x1, dilations=1x1, pads=0x0, groups=1, accumulator=float32, epilogue=add(add(x0, x1), x2)](%5:10:float32[1, 6, 2, 4], narrow:float32[1, 1, 4, 2], c:float32[1, 6, 2, 2]@0[0, 0, 0, 1], x:float32[1, 6, 2, 2]@40[64, 4, 2, 1])
        """,  # noqa: E501
    )


FORMS = [
    {"pad": 1},
    {"stride": 2, "pad": 1},
    {"stride": 3},
    {"pad": 2, "dilation": 2},
    {"kernel": 5, "stride": 2, "pad": 2},
    {"kernel": 2, "pad": 1},
    {"pad": -1},
]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("rows", [37, 64])
def test_bands_compute_the_same(form, rows):
    b = Sketch()
    program = fuse_epilogues(b.program(y=block(b, b.input("x", 1, rows, 5, 3), **form)))
    feeds = random_feeds(program)
    expected = evaluate_program(program, feeds)["y"]
    between = sum(operation.outputs[0].storage.nbytes for operation in program.operations[:-1])
    program = cut_bands(program, target(between - 1))
    assert len(program.operations) == 9
    verify_program(program, "cut_bands")
    np.testing.assert_allclose(evaluate_program(program, feeds)["y"], expected, rtol=1e-5)


def unchanged(program, target):
    before = operations_text(program)
    return operations_text(cut_bands(program, target)) == before


def test_what_caches_hold_stays():
    b = Sketch()
    program = fuse_epilogues(b.program(y=block(b, b.input("x", 1, 16, 2, 2), pad=1)))
    assert unchanged(program, target(1024))
    assert unchanged(program, target(512, threads=2))
    assert unchanged(program, target(64, device="cuda"))
    assert not unchanged(program, target(1000))


def test_few_rows_are_not_computed_again_and_again():
    b = Sketch()
    assert unchanged(fuse_epilogues(b.program(y=block(b, b.input("x", 1, 16, 2, 2), pad=1))), target(256))


def test_several_images_stay():
    b = Sketch()
    assert unchanged(fuse_epilogues(b.program(y=block(b, b.input("x", 2, 16, 2, 2), pad=1))), target(1000))


def test_what_others_read_stays_whole():
    b = Sketch()
    x = b.input("x", 1, 32, 2, 2)
    wide = conv(b, x, b.weights("wide", 1, 1, 2, 4))
    filtered = conv(b, wide, b.weights("filter", 3, 3, 1, 4), groups=4, pad=1)
    y = conv(b, filtered, b.weights("narrow", 1, 1, 4, 2))
    assert unchanged(b.program(y=y, filtered=filtered), target(2000))
    assert not unchanged(b.program(y=y), target(2000))


def test_a_band_that_reads_padding_alone_is_none():
    b = Sketch()
    program = fuse_epilogues(b.program(y=block(b, b.input("x", 1, 4, 64, 2), pad=12)))
    assert unchanged(program, target(30000))


def residual_block(rows):
    """A model of a block around whose convolutions the input is added."""
    random = np.random.default_rng(0)
    shapes = {"stem": (8, 8, 1, 1), "wide": (48, 8, 1, 1), "filter": (48, 1, 3, 3), "narrow": (8, 48, 1, 1)}
    weights = [
        onnx.numpy_helper.from_array(random.standard_normal(shape, np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        onnx.helper.make_node("Conv", ["x", "stem"], ["s"]),
        onnx.helper.make_node("Conv", ["s", "wide"], ["w"]),
        onnx.helper.make_node("Relu", ["w"], ["r"]),
        onnx.helper.make_node("Conv", ["r", "filter"], ["f"], group=48, pads=[1] * 4),
        onnx.helper.make_node("HardSwish", ["f"], ["h"]),
        onnx.helper.make_node("Conv", ["h", "narrow"], ["n"]),
        onnx.helper.make_node("Add", ["n", "s"], ["y"]),
    ]
    infos = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, 8, rows, 19)) for name in "xy"
    ]
    graph = onnx.helper.make_graph(nodes, "block", infos[:1], infos[1:], weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("threads", [1, 2])
def test_results_of_bands_are_the_same_to_the_bit(monkeypatch, threads):
    model, x = residual_block(41), np.random.default_rng(1).standard_normal((1, 8, 41, 19), np.float32)
    x[0, 3, 20, 4] = np.nan
    whole = onnxplan.InferenceSession(model, threads=threads)
    monkeypatch.setattr(Target, "private_cache_bytes", property(lambda target: 200_000))
    bands = onnxplan.InferenceSession(model, threads=threads)
    assert len(bands.plan().steps) >= len(whole.plan().steps) + 6
    results = [session.run_sync({"x": x})["y"].numpy() for session in (whole, bands)]
    np.testing.assert_array_equal(*results)
    for session in (whole, bands):
        session.close()
