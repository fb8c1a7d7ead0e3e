"""ImageDecoder: work of the host, between two stages of a run."""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import UnsupportedOperatorError
from onnxplan.compiler.ir import Node
from onnxplan.compiler.registry import operator
from onnxplan.compiler.view import View

Array = npt.NDArray[Any]

FORMATS = ("BMP", "JPEG", "JPEG2000", "TIFF", "PNG", "WEBP", "PPM")
"""Pillow's names of the formats that the standard lists."""

_CHANNELS = {"RGB": 3, "BGR": 3, "Grayscale": 1}


@operator("ImageDecoder", since=20)
def image_decoder(b: Builder, node: Node, stream: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__ImageDecoder.html

    uint8 of shape ``(height, width, channels)``, decoded by Pillow; of extent 0 in height and width where the
    stream cannot be decoded. Of 16 bits a channel the upper eight count, and transparency is left out.
    """
    if stream.dtype is not DType.UINT8 or stream.rank != 1:
        raise TypeError(f"a vector of uint8 is expected, not {stream.dtype} of shape {list(stream.shape)}")
    pixels = node.string("pixel_format", "RGB")
    if pixels not in _CHANNELS:
        raise ValueError(f"pixel_format {pixels!r} is not one of {', '.join(_CHANNELS)}")
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise UnsupportedOperatorError(
            f"node {node.label!r}: ImageDecoder needs Pillow, which is not installed: "
            'pip install "onnxplan[image]"',
            ((node.domain, node.op_type, node.version, (node.label,)),),
        ) from error
    return b.host(stream, DType.UINT8, functools.partial(decode, pixels=pixels))


def decode(stream: Array, pixels: str) -> Array:
    """The image of an encoded ``stream``; raises ``ValueError`` for more than Pillow thinks safe."""
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(stream.tobytes()), formats=FORMATS) as image:
            return _elements(image, pixels)
    except PIL.Image.DecompressionBombError as error:
        raise ValueError(f"the image is too large: {error}") from error
    except MemoryError:
        raise
    except Exception:
        # "If it can't decode for any reason, it will return an empty matrix"; decoders raise whatever they
        # stumble over.
        return np.empty((0, 0, _CHANNELS[pixels]), np.uint8)


def _elements(image: Any, pixels: str) -> Array:
    if image.mode.startswith("I;16"):
        import PIL.Image

        image = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    array = np.asarray(image.convert("L" if pixels == "Grayscale" else "RGB"))
    if pixels == "Grayscale":
        array = array[:, :, None]
    return np.ascontiguousarray(array[:, :, ::-1] if pixels == "BGR" else array)
