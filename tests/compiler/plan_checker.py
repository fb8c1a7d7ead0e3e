"""Proves from a plan alone that its memory is safe: shares no logic with the planner."""

import math


def check_plan(plan, may_share=lambda step, output, source: False):
    """Raises ``AssertionError`` unless the plan's memory is sound.

    Lifetimes are derived from the steps. Two arena buffers may overlap only if their lifetimes do not, or if
    they meet at one step that writes the later over the earlier element by element, which
    ``may_share(step, output position, input position)`` must allow for each operand involved.
    """
    spans = {}
    for number, step in enumerate(plan.steps):
        for position, operand in enumerate(step.operands):
            check_operand(operand, plan.buffers[operand.buffer])
            if position in step.outputs:
                assert plan.buffers[operand.buffer].space in ("arena", "output")
            first, _ = spans.get(operand.buffer, (number, number))
            spans[operand.buffer] = (first, number)
        assert step.scratch <= plan.scratch_bytes
    for index, buffer in enumerate(plan.buffers):
        assert 0 <= buffer.first <= buffer.last
        if index in spans:
            assert spans[index] == (buffer.first, buffer.last)
        if buffer.space == "arena":
            assert buffer.offset % plan.target.alignment == 0
            assert buffer.offset >= 0
            assert buffer.offset + buffer.size <= plan.arena_bytes
    arena = [i for i, buffer in enumerate(plan.buffers) if buffer.space == "arena"]
    for a in arena:
        for b in arena:
            if a != b and _overlap(plan.buffers[a], plan.buffers[b]):
                _check_apart(plan, a, b, spans, may_share)
    for index in arena:
        if plan.buffers[index].size:
            assert_written_before_read(plan, index)
    bound = _live_bytes(plan, arena, spans)
    assert plan.arena_lower_bound == bound
    assert bound <= plan.arena_bytes


def check_operand(operand, buffer):
    """The operand's bytes lie inside of its buffer."""
    if 0 in operand.shape:
        return
    assert len(operand.shape) == len(operand.strides)
    reaches = [
        (n - 1) * s * operand.dtype.itemsize for n, s in zip(operand.shape, operand.strides, strict=True)
    ]
    low = operand.offset + sum(r for r in reaches if r < 0)
    high = operand.offset + sum(r for r in reaches if r > 0) + operand.dtype.itemsize
    assert low >= 0, (operand, buffer)
    assert high <= buffer.size, (operand, buffer)


def assert_written_before_read(plan, index):
    for step in plan.steps:
        positions = [p for p, operand in enumerate(step.operands) if operand.buffer == index]
        if positions:
            assert all(p in step.outputs for p in positions), f"buffer {index} is read before it is written"
            return


def _overlap(a, b):
    return a.size and b.size and a.offset < b.offset + b.size and b.offset < a.offset + a.size


def _check_apart(plan, a, b, spans, may_share):
    if spans[a][0] > spans[b][0] or (spans[a][0] == spans[b][0] and a > b):
        a, b = b, a
    if spans[a][1] < spans[b][0]:
        return
    assert spans[a][1] == spans[b][0], f"buffers {a} and {b} overlap while both are alive"
    step = plan.steps[spans[b][0]]
    heirs = [(p, o) for p, o in enumerate(step.operands) if o.buffer == b]
    sources = [(p, o) for p, o in enumerate(step.operands) if o.buffer == a]
    for position, operand in heirs:
        assert position in step.outputs
        for other, source in sources:
            assert other not in step.outputs
            assert may_share(step, position, other)
            assert operand.dtype.itemsize == source.dtype.itemsize
            assert (operand.shape, operand.strides) == (source.shape, source.strides)
            assert plan.buffers[b].offset + operand.offset == plan.buffers[a].offset + source.offset


def _live_bytes(plan, arena, spans):
    """The largest sum over the steps; of buffers that share their first byte's place, the largest counts."""
    alignment = plan.target.alignment
    peak = 0
    for number in range(len(plan.steps)):
        alive = [i for i in arena if spans[i][0] <= number <= spans[i][1]]
        sizes = {}
        for index in alive:
            buffer = plan.buffers[index]
            size = math.ceil(buffer.size / alignment) * alignment
            if size:
                sizes[buffer.offset] = max(size, sizes.get(buffer.offset, 0))
        peak = max(peak, sum(sizes.values()))
    return peak
