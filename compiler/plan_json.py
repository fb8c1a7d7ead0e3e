"""Execution plans as JSON.

What repeats stands once in a table and is named by its number: kernels, operand types and layouts, texts. The
reader trusts nothing: types, table numbers, and that each operand lies inside of its buffer are checked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, TypeVar

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

_T = TypeVar("_T")


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


def plan_from_json(text: str) -> ExecutionPlan:
    """The plan that :func:`plan_to_json` wrote; raises ``ValueError`` that says what is wrong with others."""
    try:
        document = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not a plan: {error}") from None
    fields = _object(document, "the plan", _FIELDS)
    _demand(fields["format"] == FORMAT, f"format is {fields['format']!r}, not {FORMAT!r}")
    _demand(fields["version"] == VERSION, f"version is {fields['version']!r}, not {VERSION}")
    inputs = _each(fields["inputs"], "inputs", lambda item, where: Binding(*_tensor(item, where)))
    outputs = _each(fields["outputs"], "outputs", lambda item, where: Binding(*_tensor(item, where)))
    constants = _each(fields["constants"], "constants", _constant)
    counts = {"input": len(inputs), "output": len(outputs), "constant": len(constants), "arena": 1}
    step_count = len(_list(fields["steps"], "steps"))
    arena_bytes = _count(fields["arena_bytes"], "arena_bytes")
    buffers = _each(
        fields["buffers"],
        "buffers",
        lambda item, where: _buffer(item, where, counts, arena_bytes, step_count),
    )
    sizes = {
        "input": [_bytes_of(binding) for binding in inputs],
        "output": [_bytes_of(binding) for binding in outputs],
        "constant": [_bytes_of(constant) for constant in constants],
    }
    for number, buffer in enumerate(buffers):
        if buffer.space != "arena" and buffer.offset + buffer.size > sizes[buffer.space][buffer.index]:
            _fail(f"buffers[{number}] reaches beyond {buffer.space} {buffer.index}")
    kernels = _each(fields["kernels"], "kernels", _kernel)
    layouts = _each(fields["layouts"], "layouts", _layout)
    names = _each(fields["nodes"], "nodes", _text)
    steps = _each(
        fields["steps"], "steps", lambda item, where: _step(item, where, kernels, layouts, names, buffers)
    )
    return ExecutionPlan(
        target=_target(fields["target"]),
        inputs=inputs,
        outputs=outputs,
        constants=constants,
        buffers=buffers,
        steps=steps,
        arena_bytes=arena_bytes,
        arena_lower_bound=_count(fields["arena_lower_bound"], "arena_lower_bound"),
        scratch_bytes=_count(fields["scratch_bytes"], "scratch_bytes"),
    )


_FIELDS = (
    "format", "version", "target", "inputs", "outputs", "constants", "buffers", "kernels", "layouts", "nodes",
    "steps", "arena_bytes", "arena_lower_bound", "scratch_bytes",
)  # fmt: skip
_WORD = 1 << 63


def _fail(text: str) -> None:
    raise ValueError(f"not a plan: {text}")


def _demand(condition: bool, text: str) -> None:
    if not condition:
        _fail(text)


def _object(value: Any, where: str, names: tuple[str, ...]) -> dict[str, Any]:
    _demand(isinstance(value, dict), f"{where} is not an object")
    _demand(set(value) == set(names), f"{where} has other fields than {', '.join(names)}")
    result: dict[str, Any] = value
    return result


def _list(value: Any, where: str, length: int | None = None) -> list[Any]:
    _demand(isinstance(value, list), f"{where} is not a list")
    _demand(length is None or len(value) == length, f"{where} has {len(value)} items, not {length}")
    result: list[Any] = value
    return result


def _each(value: Any, where: str, read: Callable[[Any, str], _T]) -> tuple[_T, ...]:
    return tuple(read(item, f"{where}[{number}]") for number, item in enumerate(_list(value, where)))


def _text(value: Any, where: str) -> str:
    _demand(isinstance(value, str), f"{where} is not a text")
    return str(value)


def _integer(value: Any, where: str) -> int:
    _demand(type(value) is int and -_WORD <= value < _WORD, f"{where} is not a 64-bit integer")
    return int(value)


def _count(value: Any, where: str) -> int:
    _demand(type(value) is int and 0 <= value < _WORD, f"{where} is not a count")
    return int(value)


def _number(value: Any, where: str, count: int) -> int:
    _demand(type(value) is int and 0 <= value < count, f"{where} is not a number below {count}")
    return int(value)


def _dtype(value: Any, where: str) -> DType:
    try:
        return DType.from_label(_text(value, where))
    except KeyError:
        raise ValueError(f"not a plan: {where}: {value!r} is no element type") from None


def _target(value: Any) -> Target:
    fields = _object(value, "target", tuple(Target.__dataclass_fields__))
    for name in ("device", "isa", "math"):
        _text(fields[name], f"target.{name}")
    for name in ("vector_bytes", "vector_registers", "threads"):
        _count(fields[name], f"target.{name}")
    _each(fields["cache_bytes"], "target.cache_bytes", _count)
    alignment = _count(fields["alignment"], "target.alignment")
    _demand(alignment > 0 and alignment & (alignment - 1) == 0, "target.alignment is no power of two")
    for name in ("flops", "bandwidth"):
        _demand(type(fields[name]) in (int, float), f"target.{name} is not a number")
    return Target.from_json(fields)


def _tensor(value: Any, where: str) -> tuple[str, DType, tuple[int, ...]]:
    name, dtype, shape = _list(value, where, 3)
    return _text(name, where), _dtype(dtype, where), _each(shape, f"{where}.shape", _count)


def _constant(value: Any, where: str) -> Constant:
    *tensor, anywhere = _list(value, where, 4)
    _demand(type(anywhere) is bool, f"{where}.anywhere is not true or false")
    return Constant(*_tensor(tensor, where), anywhere)


def _bytes_of(tensor: Binding | Constant) -> int:
    return math.prod(tensor.shape) * tensor.dtype.itemsize


def _buffer(value: Any, where: str, counts: dict[str, int], arena_bytes: int, step_count: int) -> Buffer:
    space, index, offset, size, name, first, last = _list(value, where, 7)
    _demand(space in SPACES, f"{where}: no space {space!r}")
    _number(index, f"{where}.index", counts[space])
    _count(offset, f"{where}.offset")
    _count(size, f"{where}.size")
    _demand(space != "arena" or offset + size <= arena_bytes, f"{where} reaches beyond the arena")
    _number(first, f"{where}.first", max(step_count, 1))
    _number(last, f"{where}.last", max(step_count, 1))
    _demand(first <= last, f"{where} ends before it begins")
    return Buffer(space, index, offset, size, _text(name, f"{where}.name"), first, last)


def _kernel(value: Any, where: str) -> KernelSpec:
    family, variant = _list(value, where, 2)
    _text(family, f"{where}.family")
    _list(variant, f"{where}.variant")
    try:
        spec = KernelSpec.from_json(value)
        _demand(spec.to_json() == value, f"{where} is not a kernel")
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"not a plan: {where}: {error}") from None
    return spec


def _layout(value: Any, where: str) -> tuple[DType, tuple[int, ...], tuple[int, ...]]:
    dtype, shape, strides = _list(value, where, 3)
    extents = _each(shape, f"{where}.shape", _count)
    steps = _each(strides, f"{where}.strides", _integer)
    _demand(len(extents) == len(steps), f"{where} has {len(extents)} extents and {len(steps)} strides")
    return _dtype(dtype, where), extents, steps


def _step(
    value: Any,
    where: str,
    kernels: tuple[KernelSpec, ...],
    layouts: tuple[tuple[DType, tuple[int, ...], tuple[int, ...]], ...],
    names: tuple[str, ...],
    buffers: tuple[Buffer, ...],
) -> Step:
    kernel, operands, outputs, parameters, tiles, scratch, flops, moved, seconds, nodes = _list(
        value, where, 10
    )

    def operand(item: Any, place: str) -> Operand:
        buffer, offset, layout = _list(item, place, 3)
        _number(buffer, f"{place}.buffer", len(buffers))
        _number(layout, f"{place}.layout", len(layouts))
        found = Operand(buffer, _count(offset, f"{place}.offset"), *layouts[layout])
        _check_inside(found, buffers[buffer].size, place)
        return found

    read = _each(operands, f"{where}.operands", operand)
    return Step(
        kernels[_number(kernel, f"{where}.kernel", len(kernels))],
        read,
        _each(outputs, f"{where}.outputs", lambda item, place: _number(item, place, len(read))),
        _each(parameters, f"{where}.parameters", _integer),
        _count(tiles, f"{where}.tiles"),
        _count(scratch, f"{where}.scratch"),
        _count(flops, f"{where}.flops"),
        _count(moved, f"{where}.bytes"),
        _seconds(seconds, f"{where}.seconds"),
        _each(nodes, f"{where}.nodes", lambda item, place: names[_number(item, place, len(names))]),
    )


def _seconds(value: Any, where: str) -> float:
    try:
        seconds = float.fromhex(_text(value, where))
    except (ValueError, OverflowError):
        raise ValueError(f"not a plan: {where}: {value!r} is not a hexadecimal float") from None
    _demand(math.isfinite(seconds) and seconds >= 0, f"{where}: {value!r} is not a time")
    return seconds


def _check_inside(operand: Operand, size: int, where: str) -> None:
    low = high = operand.offset
    for extent, stride in zip(operand.shape, operand.strides, strict=True):
        if extent == 0:
            return
        reach = (extent - 1) * stride * operand.dtype.itemsize
        low, high = min(low, low + reach), max(high, high + reach)
    if low < 0 or high + operand.dtype.itemsize > size:
        _fail(f"{where} reaches from byte {low} to {high + operand.dtype.itemsize} of a buffer of {size}")
