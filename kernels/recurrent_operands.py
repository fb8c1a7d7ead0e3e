"""The operands of recurrent kernels."""

from __future__ import annotations


def operand_names(kind: str, linear_before_reset: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The kernel's operands: those it reads, and those it writes (some of which it reads as well)."""
    reads = ("gates", "r", "initial_h", "lengths")
    if kind == "lstm":
        return (*reads, "initial_c", "peepholes"), ("y", "y_h", "y_c", "state", "cell")
    if kind == "gru":
        work = () if linear_before_reset else ("update", "reset")
        return (*reads, "recurrent_bias"), ("y", "y_h", "state", *work)
    return reads, ("y", "y_h", "state")
