"""Execution plans as JSON.

What repeats stands once in a table and is named by its number: kernels, operand types and layouts, texts. The
reader trusts nothing: types, table numbers, and that each operand lies inside of its buffer are checked.
"""

from __future__ import annotations

import json
import math
from typing import Any

from onnxplan.compiler.checked_json import (
    MalformedError,
    count,
    counts,
    demand,
    each,
    fail,
    index,
    indices,
    integers,
    items,
    mapping,
    parse,
    text,
    truth,
)
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import (
    Binding,
    Buffer,
    Constant,
    ExecutionPlan,
    KernelSpec,
    Operand,
    Step,
)
from onnxplan.compiler.target import Target

FORMAT = "onnxplan-plan"
VERSION = 2
SPACES = ("input", "output", "constant", "arena")


class _Table:
    """Distinct values and their numbers."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[Any, int] = {}

    def number(self, key: Any, value: Any) -> int:
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.values)
            self.values.append(value)
        return number


def plan_to_json(plan: ExecutionPlan) -> str:
    """``plan`` as JSON text; :func:`plan_from_json` gives an equal plan back."""
    kernels, layouts, names = _Table(), _Table(), _Table()

    def layout(operand: Operand) -> int:
        key = (operand.dtype, operand.shape, operand.strides)
        return layouts.number(key, [operand.dtype.label, list(operand.shape), list(operand.strides)])

    steps = [
        [
            kernels.number(step.kernel, step.kernel.to_json()),
            [[operand.buffer, operand.offset, layout(operand)] for operand in step.operands],
            list(step.outputs),
            list(step.parameters),
            step.tiles,
            step.scratch,
            step.flops,
            step.bytes,
            float(step.seconds).hex(),
            [names.number(name, name) for name in step.nodes],
        ]
        for step in plan.steps
    ]
    document = {
        "format": FORMAT,
        "version": VERSION,
        "target": plan.target.to_json(),
        "inputs": [_tensor_to_json(binding) for binding in plan.inputs],
        "outputs": [_tensor_to_json(binding) for binding in plan.outputs],
        "constants": [[*_tensor_to_json(item), item.anywhere] for item in plan.constants],
        "buffers": [[b.space, b.index, b.offset, b.size, b.name, b.first, b.last] for b in plan.buffers],
        "kernels": kernels.values,
        "layouts": layouts.values,
        "nodes": names.values,
        "steps": steps,
        "arena_bytes": plan.arena_bytes,
        "arena_lower_bound": plan.arena_lower_bound,
        "scratch_bytes": plan.scratch_bytes,
    }
    return json.dumps(document, separators=(",", ":"))


def _tensor_to_json(tensor: Binding | Constant) -> list[Any]:
    return [tensor.name, tensor.dtype.label, list(tensor.shape)]


def plan_from_json(document: str) -> ExecutionPlan:
    """The plan that :func:`plan_to_json` wrote; raises ``ValueError`` that says what is wrong with others."""
    try:
        return _plan(parse(document))
    except MalformedError as error:
        raise ValueError(f"not a plan: {error}") from None


def _plan(document: Any) -> ExecutionPlan:
    fields = mapping(document, "the plan", _FIELDS)
    demand(fields["format"] == FORMAT, f"format is {fields['format']!r}, not {FORMAT!r}")
    demand(fields["version"] == VERSION, f"version is {fields['version']!r}, not {VERSION}")
    inputs = each(fields["inputs"], "inputs", lambda item, where: Binding(*_tensor(item, where)))
    outputs = each(fields["outputs"], "outputs", lambda item, where: Binding(*_tensor(item, where)))
    constants = each(fields["constants"], "constants", _constant)
    lengths = {"input": len(inputs), "output": len(outputs), "constant": len(constants), "arena": 1}
    step_count = len(items(fields["steps"], "steps"))
    arena_bytes = count(fields["arena_bytes"], "arena_bytes")
    buffers = each(
        fields["buffers"],
        "buffers",
        lambda item, where: _buffer(item, where, lengths, arena_bytes, step_count),
    )
    sizes = {
        "input": [_bytes_of(binding) for binding in inputs],
        "output": [_bytes_of(binding) for binding in outputs],
        "constant": [_bytes_of(constant) for constant in constants],
    }
    for number, buffer in enumerate(buffers):
        if buffer.space != "arena" and buffer.offset + buffer.size > sizes[buffer.space][buffer.index]:
            fail(f"buffers[{number}] reaches beyond {buffer.space} {buffer.index}")
    kernels = each(fields["kernels"], "kernels", _kernel)
    layouts = each(fields["layouts"], "layouts", _layout)
    names = each(fields["nodes"], "nodes", text)
    steps = each(
        fields["steps"], "steps", lambda item, where: _step(item, where, kernels, layouts, names, buffers)
    )
    return ExecutionPlan(
        target=read_target(fields["target"]),
        inputs=inputs,
        outputs=outputs,
        constants=constants,
        buffers=buffers,
        steps=steps,
        arena_bytes=arena_bytes,
        arena_lower_bound=count(fields["arena_lower_bound"], "arena_lower_bound"),
        scratch_bytes=count(fields["scratch_bytes"], "scratch_bytes"),
    )


_FIELDS = (
    "format", "version", "target", "inputs", "outputs", "constants", "buffers", "kernels", "layouts", "nodes",
    "steps", "arena_bytes", "arena_lower_bound", "scratch_bytes",
)  # fmt: skip


def _dtype(value: Any, where: str) -> DType:
    try:
        return DType.from_label(text(value, where))
    except KeyError:
        raise MalformedError(f"{where}: {value!r} is no element type") from None


def read_target(value: Any) -> Target:
    """The target that :meth:`Target.to_json` gave; raises :class:`MalformedError`."""
    fields = mapping(value, "target", tuple(Target.__dataclass_fields__))
    for name in ("device", "isa", "math"):
        text(fields[name], f"target.{name}")
    for name in ("vector_bytes", "vector_registers", "threads"):
        count(fields[name], f"target.{name}")
    counts(fields["cache_bytes"], "target.cache_bytes")
    alignment = count(fields["alignment"], "target.alignment")
    demand(alignment > 0 and alignment & (alignment - 1) == 0, "target.alignment is no power of two")
    for name in ("dot_products", "byte_tiles", "bfloat16_tiles", "float32_tiles"):
        truth(fields[name], f"target.{name}")
    for name in ("flops", "bandwidth"):
        demand(type(fields[name]) in (int, float), f"target.{name} is not a number")
    return Target.from_json(fields)


def _tensor(value: Any, where: str) -> tuple[str, DType, tuple[int, ...]]:
    name, dtype, shape = items(value, where, 3)
    return text(name, where), _dtype(dtype, where), counts(shape, f"{where}.shape")


def _constant(value: Any, where: str) -> Constant:
    *tensor, anywhere = items(value, where, 4)
    return Constant(*_tensor(tensor, where), truth(anywhere, f"{where}.anywhere"))


def _bytes_of(tensor: Binding | Constant) -> int:
    return math.prod(tensor.shape) * tensor.dtype.itemsize


def _buffer(value: Any, where: str, lengths: dict[str, int], arena_bytes: int, step_count: int) -> Buffer:
    space, owner, offset, size, name, first, last = items(value, where, 7)
    demand(space in SPACES, f"{where}: no space {space!r}")
    index(owner, f"{where}.index", lengths[space])
    count(offset, f"{where}.offset")
    count(size, f"{where}.size")
    demand(space != "arena" or offset + size <= arena_bytes, f"{where} reaches beyond the arena")
    index(first, f"{where}.first", max(step_count, 1))
    index(last, f"{where}.last", max(step_count, 1))
    demand(first <= last, f"{where} ends before it begins")
    return Buffer(space, owner, offset, size, text(name, f"{where}.name"), first, last)


def _kernel(value: Any, where: str) -> KernelSpec:
    family, variant = items(value, where, 2)
    text(family, f"{where}.family")
    items(variant, f"{where}.variant")
    try:
        spec = KernelSpec.from_json(value)
        demand(spec.to_json() == value, f"{where} is not a kernel")
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise MalformedError(f"{where}: {error}") from None
    return spec


def _layout(value: Any, where: str) -> tuple[DType, tuple[int, ...], tuple[int, ...]]:
    dtype, shape, strides = items(value, where, 3)
    extents = counts(shape, f"{where}.shape")
    steps = integers(strides, f"{where}.strides")
    demand(len(extents) == len(steps), f"{where} has {len(extents)} extents and {len(steps)} strides")
    return _dtype(dtype, where), extents, steps


def _step(
    value: Any,
    where: str,
    kernels: tuple[KernelSpec, ...],
    layouts: tuple[tuple[DType, tuple[int, ...], tuple[int, ...]], ...],
    names: tuple[str, ...],
    buffers: tuple[Buffer, ...],
) -> Step:
    kernel, operands, outputs, parameters, tiles, scratch, flops, moved, seconds, nodes = items(
        value, where, 10
    )

    def operand(item: Any, place: str) -> Operand:
        buffer, offset, layout = items(item, place, 3)
        index(buffer, f"{place}.buffer", len(buffers))
        index(layout, f"{place}.layout", len(layouts))
        found = Operand(buffer, count(offset, f"{place}.offset"), *layouts[layout])
        _check_inside(found, buffers[buffer].size, place)
        return found

    read = each(operands, f"{where}.operands", operand)
    return Step(
        kernels[index(kernel, f"{where}.kernel", len(kernels))],
        read,
        indices(outputs, f"{where}.outputs", len(read)),
        integers(parameters, f"{where}.parameters"),
        count(tiles, f"{where}.tiles"),
        count(scratch, f"{where}.scratch"),
        count(flops, f"{where}.flops"),
        count(moved, f"{where}.bytes"),
        _seconds(seconds, f"{where}.seconds"),
        tuple([names[number] for number in indices(nodes, f"{where}.nodes", len(names))]),
    )


def _seconds(value: Any, where: str) -> float:
    try:
        seconds = float.fromhex(text(value, where))
    except (ValueError, OverflowError):
        raise MalformedError(f"{where}: {value!r} is not a hexadecimal float") from None
    demand(math.isfinite(seconds) and seconds >= 0, f"{where}: {value!r} is not a time")
    return seconds


def _check_inside(operand: Operand, size: int, where: str) -> None:
    low = high = operand.offset
    for extent, stride in zip(operand.shape, operand.strides, strict=True):
        if extent == 0:
            return
        reach = (extent - 1) * stride * operand.dtype.itemsize
        low, high = min(low, low + reach), max(high, high + reach)
    if low < 0 or high + operand.dtype.itemsize > size:
        fail(f"{where} reaches from byte {low} to {high + operand.dtype.itemsize} of a buffer of {size}")
