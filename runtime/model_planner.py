"""Plans made of a model's graph, by the compiler."""

from __future__ import annotations

import numpy as np

from onnxplan.compiler.constant_pool import RELEASE_BYTES, ConstantPool
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Model, TensorType, Value
from onnxplan.compiler.lowering import lower
from onnxplan.compiler.pipeline import compile_program
from onnxplan.compiler.program import Program
from onnxplan.compiler.provenance import NodeOrigin, trace_nodes
from onnxplan.compiler.rewrites.integer_operators import integer_operators
from onnxplan.compiler.rewrites.normalized_convolutions import normalized_convolutions
from onnxplan.compiler.selection import KernelSelector
from onnxplan.runtime.device import Array
from onnxplan.runtime.heap import release_heap
from onnxplan.runtime.planner import PlannedStage, Request, StageFacts


class ModelPlanner:
    """Lowers and compiles ``model`` for the device of ``selector``."""

    def __init__(self, model: Model, selector: KernelSelector, *, optimize: int = 1) -> None:
        self.model = model
        self.pool = ConstantPool(model.release_pages)
        self._rewritten = integer_operators(model) if optimize else model
        self._lowered = normalized_convolutions(self._rewritten) if optimize else model
        self._selector = selector
        self._optimize = optimize
        self._has_one_plan = all(_is_fixed(value) for value in model.graph.inputs)

    def plan(self, request: Request, answers: tuple[Array, ...]) -> PlannedStage:
        stage = lower(
            self._lowered,
            dict(zip(request.names, request.shapes, strict=True)),
            answers,
            fetches=request.fetches,
            pool=self.pool,
            texts=dict(request.texts),
            structures=dict(request.structures),
        )
        texts = _take_texts(stage.program)
        compiled = compile_program(stage.program, self._selector, self.pool, optimize=self._optimize)
        # Weights were packed, or copied to where they are aligned; tables alone are read from the file.
        self.model.release_pages()
        if self._has_one_plan and stage.final and not answers and request.fetches is None:
            self.pool.keep_only(compiled.constants)
        if self.pool.take_made_bytes() >= RELEASE_BYTES:
            release_heap()
        facts = StageFacts(
            stage.final,
            texts,
            stage.run_key,
            stage.structures,
            stage.function,
            stage.host_input,
            stage.asked_by,
        )
        return PlannedStage(compiled, facts)

    def settle(self, *, wait: bool = False) -> None:
        """Nothing is left to do."""

    def operators(self) -> dict[str, str]:
        return {
            node.label: node.op_type for model in (self._rewritten, self.model) for node in model.graph.walk()
        }

    def origins(self, request: Request, answers: tuple[Array, ...]) -> tuple[NodeOrigin, ...]:
        # What lowering evaluates once more goes to a pool of its own, and with it.
        return trace_nodes(
            self._rewritten,
            dict(zip(request.names, request.shapes, strict=True)),
            answers,
            fetches=request.fetches,
            pool=ConstantPool(self.model.release_pages),
            texts=dict(request.texts),
            structures=dict(request.structures),
        )

    def close(self) -> None:
        self.pool = ConstantPool(self.model.release_pages)


def _is_fixed(value: Value) -> bool:
    """Is a graph input a tensor of the same shape in every run?"""
    shape = value.type.shape if isinstance(value.type, TensorType) else None
    return value.default is None and shape is not None and all(isinstance(extent, int) for extent in shape)


def _take_texts(program: Program) -> dict[str, Array]:
    """Takes the outputs of strings, which are constants, out of ``program``; their elements."""
    names = [name for name, view in program.outputs.items() if view.dtype is DType.STRING]
    return {name: np.array(program.outputs.pop(name).numpy()) for name in names}
