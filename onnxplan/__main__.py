"""``python -m onnxplan``: the command line."""

from onnxplan.cli import main

main()
