"""Examples of onnxplan at work; run one with `python -m examples.<name>`."""
