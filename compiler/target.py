"""What a plan is made for."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from onnxplan.compiler.records import dataclass

CACHE_SPEEDS = (8.0, 8.0, 2.0)
"""Bytes per second of a core's first, second and last cache over those of memory, about."""
CACHE_SHARE = 0.75
"""The part of a cache that a step's data may take and be found there."""


@dataclass(frozen=True, slots=True)
class Target:
    """A device as the compiler sees it.

    ``isa`` is the instruction set (``avx512``, ``avx2``, ``neon``, ``generic``) or the compute capability
    (``sm_90``). ``vector_bytes`` and ``vector_registers`` describe the register file that kernels tile
    for; ``cache_bytes`` are the capacities of the caches a core sees, nearest first. ``dot_products`` says
    whether vectors have sums of four products of bytes (VNNI), ``byte_tiles`` whether there are registers
    of tiles that multiply bytes (AMX), ``bfloat16_tiles`` whether they multiply bfloat16, ``float32_tiles``
    whether kernels may multiply float32 by them in parts, ``cudnn`` the version of cuDNN that plans use, 0
    for none. ``flops`` (float32, per second and thread), ``bandwidth``
    (bytes per second) and ``launch`` (seconds that a step takes beside its work) feed the plan's time
    estimates only. Of a CUDA device ``threads`` are multiprocessors, ``flops`` and ``bandwidth`` those of
    all of it.
    """

    device: str
    isa: str
    vector_bytes: int
    vector_registers: int
    cache_bytes: tuple[int, ...]
    threads: int
    math: str = "strict"
    alignment: int = 64
    dot_products: bool = False
    byte_tiles: bool = False
    bfloat16_tiles: bool = False
    float32_tiles: bool = False
    flops: float = 5e10
    bandwidth: float = 1e10
    launch: float = 0.0
    cudnn: int = 0

    @property
    def private_cache_bytes(self) -> int:
        """Bytes that all threads together have in second caches of their own; 0 where that is not known."""
        has_second = self.device == "cpu" and len(self.cache_bytes) > 1
        return self.threads * self.cache_bytes[1] if has_second else 0

    def seconds(self, flops: float, nbytes: float) -> float:
        """Estimated time of a step on one thread: arithmetic, or moving bytes, whichever takes longer.

        What fits into a cache of the CPU is there from the step before, and moves at the cache's speed.
        """
        return self.launch + max(flops / self.flops, nbytes / (self.bandwidth * self._cache_speed(nbytes)))

    def _cache_speed(self, nbytes: float) -> float:
        """How many times as fast as memory the nearest cache is that holds ``nbytes``, and some more."""
        if self.device != "cpu":
            return 1.0
        levels = zip(self.cache_bytes, CACHE_SPEEDS, strict=False)
        return next((speed for size, speed in levels if nbytes <= CACHE_SHARE * size), 1.0)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Target:
        return Target(**{**data, "cache_bytes": tuple(data["cache_bytes"])})

    def __str__(self) -> str:
        units = "multiprocessors" if self.device == "cuda" else "threads"
        return f"{self.device} {self.isa}, {self.threads} {units}, math={self.math}"
