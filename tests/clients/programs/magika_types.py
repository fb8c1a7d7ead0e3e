"""Types of files by magika: labels and scores of texts, code and binary formats."""

import base64
import json
import zlib

from magika import Magika
from reporting import report

TEXTS = {
    "python": b"import os\n\n\ndef main(path):\n    for name in os.listdir(path):\n        print(name)\n\n\nmain('.')\n"
    * 3,
    "c": b'#include <stdio.h>\n\nint main(int argc, char **argv) {\n    printf("%d\\n", argc);\n    return 0;\n}\n'
    * 3,
    "json": json.dumps({"name": "x", "values": list(range(50)), "nested": {"a": None, "b": True}}).encode(),
    "html": b"<!DOCTYPE html>\n<html><head><title>t</title></head><body><p>hello</p></body></html>\n" * 2,
    "markdown": b"# Title\n\nSome *text* with a [link](https://example.org).\n\n* one\n* two\n\n```python\nx = 1\n```\n"
    * 2,
    "zlib": zlib.compress(b"hello world" * 100),
    "base64": base64.b64encode(bytes(range(256)) * 3),
    "prose": b"The quick brown fox jumps over the lazy dog. It was a sunny day, and nobody was there to see it.\n"
    * 4,
    "empty": b"",
    "short": b"a",
}
magika = Magika()
results = [magika.identify_bytes(content) for content in TEXTS.values()]
report(
    [result.prediction.score for result in results],
    [[result.output.label, result.dl.label] for result in results],
)
