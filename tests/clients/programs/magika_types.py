"""Types of files by magika: labels and scores of texts, code and binary formats."""

import base64
import json
import zlib

from magika import Magika
from reporting import report

PYTHON = """
import os


def main(path):
    for name in os.listdir(path):
        print(name)


main('.')
"""
C = r"""
#include <stdio.h>

int main(int argc, char **argv) {
    printf("%d\n", argc);
    return 0;
}
"""
HTML = """
<!DOCTYPE html>
<html><head><title>t</title></head><body><p>hello</p></body></html>
"""
MARKDOWN = """
# Title

Some *text* with a [link](https://example.org).

* one
* two
"""
PROSE = "The quick brown fox jumps over the lazy dog. It was a sunny day, and nobody was there.\n"
TEXTS = {
    "python": 3 * PYTHON.encode(),
    "c": 3 * C.encode(),
    "json": json.dumps({"name": "x", "values": list(range(50)), "nested": {"a": None}}).encode(),
    "html": 2 * HTML.encode(),
    "markdown": 2 * MARKDOWN.encode(),
    "zlib": zlib.compress(b"hello world" * 100),
    "base64": base64.b64encode(bytes(range(256)) * 3),
    "prose": 4 * PROSE.encode(),
    "empty": b"",
    "short": b"a",
}
magika = Magika()
results = [magika.identify_bytes(content) for content in TEXTS.values()]
report(
    [result.prediction.score for result in results],
    [[result.output.label, result.dl.label] for result in results],
)
