"""What a device can do at most, as it was measured: operations and bytes per second."""

from __future__ import annotations

import math
from dataclasses import astuple, replace

from onnxplan.compiler.records import dataclass


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Operations and bytes per second with some number of threads (a copied byte is read and written: two).

    ``flops`` are of float32, ``byte_operations`` of products of bytes that are summed in int32. Memory's
    ceiling is no limit for what stays in caches: there a rate may lie above it.
    """

    flops: float
    bandwidth: float
    byte_operations: float = math.inf

    def seconds(self, flops: float, nbytes: float) -> float:
        """The time that work takes at least where it comes from memory."""
        return max(flops / self.flops, nbytes / self.bandwidth)

    def for_bytes(self) -> Ceilings:
        """The ceilings of work whose operations are products of bytes."""
        return replace(self, flops=self.byte_operations)

    def for_bfloat16(self) -> Ceilings:
        """Those of products of bfloat16 by the tiles that multiply bytes: half as many at a time."""
        return replace(self, flops=self.byte_operations / 2)

    def for_parts(self) -> Ceilings:
        """Those of products of float32 in three parts: six products of bfloat16 each."""
        return replace(self, flops=self.byte_operations / 2 / 6)

    def best(self, other: Ceilings) -> Ceilings:
        """The higher of each."""
        return Ceilings(*map(max, astuple(self), astuple(other)))
