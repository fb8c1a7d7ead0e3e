"""A plan bound to a device: kernels, constants and the table of argument words that all slots begin from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.plan import ExecutionPlan, KernelSpec, Step
from onnxplan.compiler.records import dataclass
from onnxplan.runtime.cuda.branches import Work, schedule
from onnxplan.runtime.cuda.cublaslt import CublasLt
from onnxplan.runtime.cuda.cudnn_library import close_all, own_kernel
from onnxplan.runtime.cuda.matmul import FAMILY, BoundProduct, Product, workspace_limit
from onnxplan.runtime.cuda.memory import Layout
from onnxplan.runtime.cuda.operation_graph import CudnnGraph
from onnxplan.runtime.cuda.tuning import Tuner

WORD_MASK = (1 << 64) - 1
MOST_BLOCKS = (1 << 31) - 1
"""Of a one-dimensional grid. Source: CUDA C++ programming guide, technical specifications."""


@dataclass(frozen=True, slots=True)
class KernelLaunch:
    """A generated kernel of a plan: its argument words begin at ``first_word`` of the table."""

    function: int
    blocks: int
    threads: int
    shared_bytes: int
    first_word: int


@dataclass(frozen=True, slots=True)
class ProductLaunch:
    """A library call of a plan: the addresses of its operands begin at ``first_word`` of the table."""

    product: BoundProduct
    first_word: int
    operands: int


@dataclass(frozen=True, slots=True)
class CudnnLaunch:
    """A call of cuDNN: the addresses of its operands, as the step has them, begin at ``first_word``."""

    graph: CudnnGraph
    first_word: int
    order: tuple[int, ...]
    """Which operand each address of the call is."""


Launch = KernelLaunch | ProductLaunch | CudnnLaunch


class BoundPlan:
    """What all slots of an executor share.

    ``functions`` gives the handle of each generated kernel, ``constants`` the device addresses of the plan's
    constants; ``library`` and ``handle`` serve matrix products, whose algorithms ``tuner`` chooses, if it is
    given; ``cudnn_graphs`` are, by number, the steps that cuDNN computes. Raises ``ValueError`` where a plan
    does not fit together, ``UnsupportedOperatorError`` where a library has no algorithm for a step.
    """

    def __init__(
        self,
        plan: ExecutionPlan,
        functions: Mapping[KernelSpec, int],
        constants: Sequence[int],
        library: CublasLt | None,
        handle: int,
        tuner: Tuner | None = None,
        cudnn_graphs: Mapping[int, CudnnGraph] = MappingProxyType({}),
    ) -> None:
        self.plan = plan
        self._cudnn_graphs = cudnn_graphs
        self._tuner = tuner
        self._library = library
        self._handle = handle
        self._products: dict[Product, BoundProduct] = {}
        try:
            self._lay_out(functions, constants)
        except BaseException:
            self.close()
            raise

    def _lay_out(self, functions: Mapping[KernelSpec, int], constants: Sequence[int]) -> None:
        plan = self.plan
        words: list[int] = []
        relative: list[bool] = []
        launches: list[Launch] = []
        work: list[Work] = []
        workspace = 0
        # The workspace lies behind all else, so that its size does not move what addresses point to.
        layout = Layout.of(plan, 0)
        for number, step in enumerate(plan.steps):
            first = len(words)
            for operand in step.operands:
                address, in_slot = _address(plan, layout, operand.buffer, constants)
                words.append(address + operand.offset)
                relative.append(in_slot)
            if step.kernel.family == FAMILY:
                product = self._product(number, step)
                if product is not None:
                    launches.append(ProductLaunch(product, first, len(step.operands)))
                    work.append(Work(number, step.seconds, self._fills(product.product.blocks)))
                    workspace = max(workspace, product.workspace_bytes)
            elif number in self._cudnn_graphs:
                bound = self._cudnn_graphs[number]
                launches.append(CudnnLaunch(bound, first, bound.operand_order(step)))
                work.append(Work(number, step.seconds, self._fills(step.tiles)))
                workspace = max(workspace, bound.workspace_bytes)
            elif step.tiles:
                words += step.parameters
                relative += [False] * len(step.parameters)
                launches.append(_kernel(number, step, functions[own_kernel(step.kernel)], first))
                work.append(Work(number, step.seconds, self._fills(step.tiles)))
        self.launches = tuple(launches)
        self.launched_steps = tuple(item.step for item in work)
        """The number of each launch's step: steps without elements launch nothing."""
        self.branches = schedule(plan, work)
        """Which launches a graph runs beside each other."""
        self.layout = Layout.of(plan, workspace, self.branches.count)
        self.words = np.array([word & WORD_MASK for word in words], np.uint64).view(np.int64)
        """Argument words; where ``relative``, to the block of a slot."""
        self.relative = np.array(relative, np.bool_)

    def _fills(self, blocks: int) -> bool:
        """Do so many blocks take all multiprocessors?"""
        return blocks >= self.plan.target.threads

    def _product(self, number: int, step: Step) -> BoundProduct | None:
        product = Product.of(step, self.plan)
        if product.is_empty:
            return None
        found = self._products.get(product)
        if found is None:
            assert self._library is not None
            target = self.plan.target
            found = self._products[product] = BoundProduct(
                self._library,
                self._handle,
                product,
                step_text(number, step),
                fast=target.math == "fast",
                workspace=workspace_limit(target.isa),
                tuner=self._tuner,
            )
        return found

    def table(self, block: int) -> npt.NDArray[np.int64]:
        """The argument words for a slot whose memory begins at address ``block``."""
        return self.words + np.where(self.relative, block, 0)

    @property
    def table_bytes(self) -> int:
        return self.words.nbytes + self.relative.nbytes

    def close(self) -> None:
        """Destroys the library's objects; no slot may use them any more."""
        for product in self._products.values():
            product.close()
        self._products.clear()
        close_all(self._cudnn_graphs)


def step_text(number: int, step: Step) -> str:
    """A step as errors name it."""
    nodes = f" ({', '.join(step.nodes)})" if step.nodes else ""
    return f"step {number}{nodes}"


def _address(plan: ExecutionPlan, layout: Layout, number: int, constants: Sequence[int]) -> tuple[int, bool]:
    """Where a buffer begins, and whether that is relative to a slot's block."""
    buffer = plan.buffers[number]
    if buffer.space == "constant":
        return constants[buffer.index] + buffer.offset, False
    if buffer.space == "arena":
        return layout.arena + buffer.offset, True
    starts = layout.inputs if buffer.space == "input" else layout.outputs
    return starts[buffer.index] + buffer.offset, True


def _kernel(number: int, step: Step, function: int, first_word: int) -> KernelLaunch:
    threads: Any = own_kernel(step.kernel).variant[0]
    if not 0 < step.tiles <= MOST_BLOCKS:
        raise ValueError(f"{step_text(number, step)} has {step.tiles} blocks, at most {MOST_BLOCKS} can be")
    return KernelLaunch(function, step.tiles, int(threads), step.scratch, first_word)
