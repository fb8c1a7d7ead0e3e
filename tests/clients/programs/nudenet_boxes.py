"""Objects in images by nudenet: the boxes that its detector finds in a picture, and its raw output."""

import numpy as np
from nudenet import NudeDetector
from reporting import report

generator = np.random.default_rng(0)
y, x = np.mgrid[:480, :640]
skin = np.stack([150 + 0 * x, 170 + 0 * x, 220 + 0 * x], -1).astype(np.float64)
body = ((x - 320) / 120) ** 2 + ((y - 300) / 220) ** 2 < 1
head = ((x - 320) / 60) ** 2 + ((y - 90) / 75) ** 2 < 1
image = np.where((body | head)[..., None], skin, 40.0) + generator.normal(0, 6, (480, 640, 1))
image = image.clip(0, 255).astype(np.uint8)
detector = NudeDetector()
boxes = detector.detect(image)
(session,) = [value for value in vars(detector).values() if hasattr(value, "get_inputs")]
(meta,) = session.get_inputs()
tensor = generator.random((1, 3, 320, 320), np.float32)
(raw,) = session.run(None, {meta.name: tensor})
report(
    [raw[0, :, ::50].tolist(), [[box["score"], *box["box"]] for box in boxes]],
    [box["class"] for box in boxes],
)
