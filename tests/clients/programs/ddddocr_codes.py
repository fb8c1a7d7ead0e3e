"""Characters in small images by ddddocr: recognition and detection in rendered codes."""

import io

import ddddocr
from PIL import Image, ImageDraw, ImageFont
from reporting import report


def code(text: str) -> bytes:
    image = Image.new("RGB", (40 + 24 * len(text), 60), "white")
    ImageDraw.Draw(image).text((20, 10), text, fill="navy", font=ImageFont.load_default(size=36))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


CODES = ("8A3K", "hello", "20261", "xy7")
reader = ddddocr.DdddOcr(show_ad=False)
texts = [reader.classification(code(text)) for text in CODES]
assert texts[2] == "20261", texts
finder = ddddocr.DdddOcr(det=True, show_ad=False)
boxes = [finder.detection(code(text)) for text in CODES]
report(boxes, texts)
