"""Sessions whose models decode images: work of the host between two stages."""

import io
import sys

import numpy as np
import PIL.Image
import pytest
from onnx import TensorProto, helper

import onnxplan


def model():
    nodes = [
        helper.make_node("ImageDecoder", ["stream"], ["pixels"], name="decoder"),
        helper.make_node("Cast", ["pixels"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["values", "factor"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info("stream", TensorProto.UINT8, ["n"]),
        helper.make_tensor_value_info("factor", TensorProto.FLOAT, []),
    ]
    graph = helper.make_graph(nodes, "images", inputs, [helper.make_empty_tensor_value_info("y")])
    return helper.make_model(graph)


def bitmap(height, width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    with io.BytesIO() as file:
        PIL.Image.fromarray(image).save(file, format="BMP")
        return image, np.frombuffer(file.getvalue(), np.uint8)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_images_of_one_size_share_a_plan(device, request):
    if device == "cuda":
        request.getfixturevalue("emulated_cuda")
    with onnxplan.InferenceSession(model(), device=device) as session:
        for seed in range(4):
            image, stream = bitmap(6, 5, seed)
            results = session.run_sync({"stream": stream, "factor": np.float32(0.5)})
            np.testing.assert_array_equal(results["y"].numpy(), image * np.float32(0.5))
        assert len(session._engine._later) == 1
        image, stream = bitmap(5, 6, 9)
        results = session.run_sync({"stream": stream, "factor": np.float32(2)})
        np.testing.assert_array_equal(results["y"].numpy(), image * np.float32(2))
        assert results["y"].dims == (5, 6, 3)


def test_an_image_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)
    with onnxplan.InferenceSession(model()) as session:
        _, stream = bitmap(6, 5, 0)
        with pytest.raises(onnxplan.OnnxPlanError, match="node 'decoder': the image is too large"):
            session.run_sync({"stream": stream, "factor": np.float32(1)})
        monkeypatch.undo()
        assert session.run_sync({"stream": stream, "factor": np.float32(1)})["y"].dims == (6, 5, 3)


def test_without_pillow_the_error_names_the_extra(monkeypatch):
    _, stream = bitmap(6, 5, 0)
    for name in [name for name in sys.modules if name.partition(".")[0] == "PIL"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "PIL", None)
    session = onnxplan.InferenceSession(model())
    with (
        session,
        pytest.raises(onnxplan.UnsupportedOperatorError, match=r"'decoder'.*Pillow.*onnxplan\[image\]"),
    ):
        session.run_sync({"stream": stream, "factor": np.float32(1)})
