"""Text in images by rapidocr 3, whose models are newer: detection, direction and recognition."""

import logging

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rapidocr import RapidOCR
from reporting import report

LINES = ("Memory is placed by the plan", "Total: 98.76 EUR", "ONNX")


def page() -> np.ndarray:
    image = Image.new("RGB", (700, 260), "ivory")
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(LINES):
        draw.text((30, 20 + 75 * number), line, fill="darkred", font=ImageFont.load_default(size=40))
    return np.asarray(image)


logging.disable(logging.INFO)
found = RapidOCR()(page())
assert "98.76" in " ".join(found.txts), found.txts
report([list(map(float, found.scores)), found.boxes.tolist()], list(found.txts))
