"""Products of several neighbours along the depth at a time, which are four bytes of B."""

from __future__ import annotations

from typing import Protocol

from llvmlite import ir

from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.registers import Grid

GROUP_BYTES = 4


class GroupProduct(Protocol):
    """How groups are multiplied: by vectors, or by tiles that hold 16 of them in each of 16 rows.

    ``tile_instruction`` is LLVM's intrinsic for tiles, ``tile_feature`` what the processor needs for it.
    """

    @property
    def tile_instruction(self) -> str: ...

    @property
    def tile_feature(self) -> str: ...

    def multiply_row(
        self, inner: Emitter, rows: list[ir.Value], a_step: ir.Value, b: ir.Value, sums: Grid
    ) -> Grid:
        """``sums`` plus the products of a row of B's groups and the groups of A that stand at ``rows``.

        ``a_step`` is how many bytes groups of a row of A are apart.
        """
        ...
