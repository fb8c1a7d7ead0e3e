"""Tensors of the stand-in's cuDNN, and launches of its operation graphs."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from standin_errors import StrictError
from standin_memory import POISON, MemoryMap
from standin_order import READ, WRITE, Access
from standin_streams import Busy, Run

DTYPES: dict[int, Any] = {0: np.float32, 2: np.float16, 4: np.int32, 9: ml_dtypes.bfloat16, 11: np.bool_}


@dataclass(frozen=True)
class Tensor:
    """A tensor descriptor."""

    number: int
    type: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    alignment: int
    virtual: bool
    by_value: bool = False

    @staticmethod
    def of(node: Any) -> Tensor:
        values = node.values
        virtual, by_value = (bool(values.get(number, [False])[0]) for number in (907, 908))
        shape, strides = tuple(values[902]), tuple(values[903])
        return Tensor(node.one(906), node.one(901), shape, strides, node.one(900), virtual, by_value)

    @property
    def nbytes(self) -> int:
        """Bytes from the first to the last element, both included."""
        last = sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        return (last + 1) * np.dtype(DTYPES[self.type]).itemsize

    def view(self, address: int) -> np.ndarray:
        dtype = np.dtype(DTYPES[self.type])
        flat = np.frombuffer((ctypes.c_char * self.nbytes).from_address(address), dtype)
        return np.lib.stride_tricks.as_strided(flat, self.shape, [s * dtype.itemsize for s in self.strides])


class Problem(Protocol):
    """What a graph asks for: a ``result`` from what ``inputs`` hold and the values of ``scalars``.

    ``form`` is how the graph says it, ``counter`` what its launches are counted as.
    """

    counter: Any
    label: Any
    form: Any

    @property
    def inputs(self) -> tuple[Tensor, ...]: ...

    @property
    def scalars(self) -> tuple[Tensor, ...]: ...

    @property
    def output(self) -> Tensor: ...

    def by(self, notes: tuple[int, ...]) -> Problem: ...

    def result(self, tensors: Mapping[int, np.ndarray], scalars: Mapping[int, float]) -> np.ndarray: ...


@dataclass(frozen=True)
class GraphLaunch:
    """A graph with addresses, as work for a stream. Scalars are read when it is launched, captured or not."""

    problem: Problem
    addresses: Mapping[int, int]
    scalars: Mapping[int, float]
    workspace: int
    workspace_bytes: int
    accesses: tuple[Access, ...]
    over: Callable[[], None]
    """What is done when it is."""

    @property
    def label(self) -> str:
        return str(self.problem.label)

    def widened(self, accesses: tuple[Access, ...]) -> GraphLaunch:
        return replace(self, accesses=accesses)

    def issue(self, busy: Busy) -> Run:
        return self._run

    def _run(self) -> None:
        if self.workspace_bytes:
            ctypes.memset(self.workspace, POISON, self.workspace_bytes)
        tensors = {t.number: t.view(self.addresses[t.number]) for t in self.problem.inputs}
        output = self.problem.output
        output.view(self.addresses[output.number])[...] = self.problem.result(tensors, self.scalars)
        self.over()


def launch(
    memory: MemoryMap,
    problem: Problem,
    addresses: Mapping[int, int],
    workspace: int,
    workspace_bytes: int,
    over: Callable[[], None],
) -> GraphLaunch:
    """A checked launch; raises :class:`StrictError`."""
    tensors = (*problem.inputs, problem.output)
    if {tensor.number for tensor in (*tensors, *problem.scalars)} != set(addresses):
        raise StrictError("a variant pack of cuDNN does not have the tensors of the graph")
    label = problem.label
    accesses = []
    for tensor in tensors:
        address = addresses[tensor.number] or 0
        if address % tensor.alignment:
            raise StrictError(f"a tensor of {label} at {address:#x} is no multiple of {tensor.alignment}")
        mode = WRITE if tensor is problem.output else READ
        accesses.append(Access(address, address + tensor.nbytes, mode))
    if workspace_bytes:
        if not workspace or workspace % 16:
            raise StrictError(f"the workspace of {label} at {workspace:#x} is no multiple of 16")
        accesses.append(Access(workspace, workspace + workspace_bytes, WRITE))
    for access in accesses:
        if memory.at(access.start, access.end - access.start, label).kind != "device":
            raise StrictError(f"{label} uses memory that is not the device's")
    result = problem.output.view(addresses[problem.output.number])
    for tensor in problem.inputs:
        if np.shares_memory(tensor.view(addresses[tensor.number]), result):
            raise StrictError(f"an input and the result of {label} share elements")
    scalars = {tensor.number: _scalar(memory, addresses[tensor.number], label) for tensor in problem.scalars}
    return GraphLaunch(problem, dict(addresses), scalars, workspace, workspace_bytes, tuple(accesses), over)


def _scalar(memory: MemoryMap, address: int, label: str) -> float:
    """The float32 at an address of the host's."""
    block = memory.find(address) if address else None
    if not address or (block is not None and address < block.end):
        raise StrictError(f"a scalar of {label} at {address or 0:#x} is not in the host's memory")
    return float(ctypes.c_float.from_address(address).value)
