"""Text in images by rapidocr: detection, direction and recognition of rendered lines."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rapidocr_onnxruntime import RapidOCR
from reporting import report

LINES = ("Static execution plans", "for ONNX models: 12345", "await session.run(feeds)")


def page() -> np.ndarray:
    image = Image.new("RGB", (640, 240), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=36)
    for number, line in enumerate(LINES):
        draw.text((20, 20 + 70 * number), line, fill="black", font=font)
    return np.asarray(image)


found, _ = RapidOCR()(page())
texts = [text for _, text, _ in found]
assert "12345" in " ".join(texts), texts
report([[score for _, _, score in found], [box for box, _, _ in found]], texts)
