"""ImageDecoder."""

import io

import numpy as np
import PIL.Image
from cases import UINT8, Case, case, known
from onnx import helper

PATTERN = np.random.default_rng(3).integers(0, 256, (5, 7, 3), np.uint8)
GRAY = PATTERN[:, :, 0]


def encoded(array, form, mode=None, **options):
    image = PIL.Image.fromarray(array)
    with io.BytesIO() as file:
        (image if mode is None else image.convert(mode)).save(file, format=form, **options)
        return np.frombuffer(file.getvalue(), np.uint8).copy()


def luma(array):
    """Pillow's conversion to grey levels, of ITU-R 601-2."""
    return (array.astype(np.int64) @ [19595, 38470, 7471] + 0x8000 >> 16).astype(np.uint8)[:, :, None]


def decoder(name, stream, result, pixels="RGB") -> Case:
    return known(name, "ImageDecoder", {"x": stream}, result, attributes={"pixel_format": pixels})


def lossless_cases() -> list[Case]:
    cases = []
    for form, options in {
        "PNG": {},
        "BMP": {},
        "TIFF": {},
        "WEBP": {"lossless": True},
        "JPEG2000": {},
        "PPM": {},
    }.items():
        stream = encoded(PATTERN, form, **options)
        cases.append(decoder(form, stream, PATTERN))
        cases.append(decoder(f"{form} BGR", stream, PATTERN[:, :, ::-1], "BGR"))
        cases.append(decoder(f"{form} Grayscale", stream, luma(PATTERN), "Grayscale"))
    return cases


def other_cases() -> list[Case]:
    spread = np.repeat(GRAY[:, :, None], 3, 2)
    transparent = np.concatenate([PATTERN, GRAY[:, :, None]], 2)
    deep = GRAY.astype(np.uint16) * 257
    palette = np.array([[0, 255], [255, 0]], np.uint8)
    png = encoded(PATTERN, "PNG")
    gif = encoded(PATTERN, "GIF")
    nothing = np.empty((0, 0, 3), np.uint8)
    return [
        decoder("grey as RGB", encoded(GRAY, "PNG"), spread),
        decoder("grey", encoded(GRAY, "PNG"), GRAY[:, :, None], "Grayscale"),
        decoder("transparent", encoded(transparent, "PNG"), PATTERN),
        decoder("16 bits", encoded(deep, "PNG"), spread),
        decoder("palette", encoded(palette, "PNG", "P"), np.repeat(palette[:, :, None], 3, 2)),
        decoder("one bit", encoded(palette, "TIFF", "1"), palette[:, :, None], "Grayscale"),
        decoder("cut off", png[: len(png) // 2], nothing),
        decoder("damaged", np.concatenate([png[:40], png[:20], png[60:]]), nothing, "BGR"),
        decoder("noise", np.arange(200, dtype=np.uint8), np.empty((0, 0, 1), np.uint8), "Grayscale"),
        decoder("no bytes", np.empty(0, np.uint8), nothing),
        decoder("format of none", gif, nothing),
        case(
            "JPEG",
            "ImageDecoder",
            {"x": encoded(PATTERN, "JPEG")},
            reference=lambda stream: np.array(PIL.Image.open(io.BytesIO(stream.tobytes()))),
            dtypes=(UINT8,),
        ),
        Case(
            "ImageDecoder-between",
            (
                helper.make_node("Sub", ["x", "one"], ["stream"]),
                helper.make_node("ImageDecoder", ["stream"], ["colours"]),
                helper.make_node("ImageDecoder", ["stream"], ["greys"], pixel_format="Grayscale"),
                helper.make_node("Cast", ["colours"], ["values"], to=1),
                helper.make_node("ReduceMean", ["values", "axes"], ["mean"], keepdims=0),
            ),
            {"x": png + np.uint8(1), "one": np.uint8([1]), "axes": np.array([0, 1])},
            ("greys", "mean"),
            constants=("one", "axes"),
            reference=lambda *_: (luma(PATTERN), PATTERN.mean((0, 1))),
            dtypes=(UINT8, np.dtype(np.float32)),
        ),
    ]


CASES = [*lossless_cases(), *other_cases()]
