"""A device without kernels: one step for each operation, and an interpreter for the plans made with it."""

import numpy as np

from onnxplan.compiler.evaluate import evaluate
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.target import Target

TARGET = Target("fake", "generic", 32, 16, (32 << 10, 1 << 20), 1, alignment=64)


class FakeSelector:
    """Emits ``outputs + inputs`` as the operands of one step; maps may run in place.

    ``operations`` holds the operation behind each kernel, so that :func:`run_plan` can compute it.
    """

    def __init__(self, target=TARGET):
        self.target = target
        self.operations = {}

    def prefers(self, operation):
        return False

    def select(self, operation, emit):
        operands = (*operation.outputs, *operation.inputs)
        outputs = tuple(range(len(operation.outputs)))
        kernel = KernelSpec(operation.primitive.name, (len(self.operations),))
        self.operations[kernel] = operation
        in_place = ()
        if operation.primitive.name in ("map", "copy"):
            in_place = tuple((o, i) for o in outputs for i in range(len(outputs), len(operands)))
        work = sum(view.size for view in operation.outputs)
        moved = sum(view.size * view.dtype.itemsize for view in operands)
        emit.step(
            kernel, operands, outputs, (work,), tiles=max(work, 1), flops=work, bytes_moved=moved,
            scratch=64, in_place=in_place,
        )  # fmt: skip


def run_plan(compiled, selector, feeds):
    """Runs a compiled plan in an arena of poisoned bytes, through its buffers alone."""
    plan = compiled.plan
    arena = np.full(plan.arena_bytes, 0xAA, np.uint8)
    inputs = [np.ascontiguousarray(feeds[b.name], b.dtype.numpy) for b in plan.inputs]
    outputs = [np.full(int(np.prod(b.shape)) * b.dtype.itemsize, 0xAA, np.uint8) for b in plan.outputs]
    blocks = {
        "arena": [arena],
        "input": [array.reshape(-1).view(np.uint8) for array in inputs],
        "output": outputs,
        "constant": [array.reshape(-1).view(np.uint8) for array in compiled.constants],
    }

    def window(operand):
        buffer = plan.buffers[operand.buffer]
        dtype = operand.dtype.numpy
        if 0 in operand.shape:
            return np.empty(operand.shape, dtype)
        block = blocks[buffer.space][buffer.index][buffer.offset : buffer.offset + buffer.size]
        flat = np.frombuffer(block, np.uint8)
        flat.flags.writeable = buffer.space in ("arena", "output")
        return np.ndarray(
            operand.shape, dtype, flat.data, operand.offset, [s * dtype.itemsize for s in operand.strides]
        )

    for step in plan.steps:
        operation = selector.operations[step.kernel]
        count = len(step.outputs)
        targets = [window(operand) for operand in step.operands[:count]]
        sources = [window(operand) for operand in step.operands[count:]]
        results = evaluate(
            operation.primitive, sources, [t.shape for t in targets], [v.dtype for v in operation.outputs]
        )
        for target, result in zip(targets, [np.array(result) for result in results], strict=True):
            target[...] = result
    return {
        b.name: block.view(b.dtype.numpy).reshape(b.shape)
        for b, block in zip(plan.outputs, outputs, strict=True)
    }
