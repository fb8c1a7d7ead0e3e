"""The stand-in's cuDNN: backend descriptors, checked as NVIDIA documents them, and NumPy's results.

Source: https://docs.nvidia.com/deeplearning/cudnn/backend/latest/api/cudnn-graph-library.html, and the
comments of ``cudnn_graph.h``. The real library does not finalise descriptors without a driver.

What a caller does wrong is a status where cuDNN documents one; tests look at ``refusals`` for what was wrong.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_int, c_int64, c_void_p
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import standin_attention
import standin_convolutions
from standin_cublaslt import LibraryFunction
from standin_cudnn_launch import DTYPES, Problem, launch
from standin_cudnn_rules import (
    ATTRIBUTE_TYPE,
    ATTRIBUTES_SINCE,
    BAD_PARAM,
    CONVOLUTION,
    CONVOLVE,
    DESCRIPTOR,
    DESCRIPTOR_TYPE,
    ELEMENTS,
    ENGINE,
    ENGINECFG,
    ENGINEHEUR,
    EXECUTION_FAILED,
    GRAPH,
    HANDLE,
    INT64,
    KNOB_CHOICE,
    KNOB_TYPE,
    NOT_FINALIZED,
    NOT_INITIALIZED,
    NOT_SUPPORTED,
    NULL_POINTER,
    NUMERICAL_NOTE,
    PACK,
    PLAN,
    SETTABLE,
    SINCE,
    SUCCESS,
    TENSOR,
)
from standin_errors import CAPTURE_STATUSES, CudaStatus, StrictError

PROTOTYPES = {
    "cudnnCreate": (c_void_p,),
    "cudnnSetStream": (c_void_p, c_void_p),
    "cudnnBackendCreateDescriptor": (c_int, c_void_p),
    "cudnnBackendDestroyDescriptor": (c_void_p,),
    "cudnnBackendFinalize": (c_void_p,),
    "cudnnBackendSetAttribute": (c_void_p, c_int, c_int, c_int64, c_void_p),
    "cudnnBackendGetAttribute": (c_void_p, c_int, c_int, c_int64, c_void_p, c_void_p),
    "cudnnBackendExecute": (c_void_p, c_void_p, c_void_p),
}


@dataclass(frozen=True)
class Engine:
    """One that the heuristic offers. ``mode`` is the one it is offered in (3 is A, 2 is fallback)."""

    notes: tuple[int, ...] = (0,)
    workspace_bytes: int = 4096
    mode: int = 3
    refuses: bool = False
    """Whether no execution plan of it can be made."""
    forms: tuple[str, ...] = ("convolution", "one operation", "chain")
    """The graphs that it is offered for."""
    number: int = 0
    knobs: tuple[tuple[int, int], ...] = ()
    """Types and values."""
    milliseconds: float = 0.0
    """What a launch takes."""
    fails: bool = False
    """Whether launches are refused."""


PLAIN = Engine(notes=(), workspace_bytes=0, mode=2, forms=("convolution",))
"""One without matrix instructions, which 9.28.1 offers as a fallback for an H100, but not in mode A."""


@dataclass(eq=False)
class Node:
    """A backend descriptor."""

    kind: int
    values: dict[int, list[Any]] = field(default_factory=dict)
    final: bool = False
    problem: Problem | None = None
    engine: Engine | None = None
    knob: tuple[int, int] | None = None

    def one(self, attribute: int) -> Any:
        return self.values[attribute][0]


class Refused(Exception):
    """A call ends with a status."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Cudnn:
    """The library object: what ``ctypes.CDLL`` would give."""

    def __init__(self, standin: Any) -> None:
        self._standin = standin
        self.engines: list[Engine] = [Engine(), PLAIN]
        self.version = 92801
        self.refusals: list[str] = []
        """Why calls did not succeed."""
        self._nodes: dict[int, Node] = {}
        self._handles: dict[int, tuple[int, int]] = {}
        self._functions: dict[str, LibraryFunction] = {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in PROTOTYPES:
            raise AttributeError(f"the stand-in does not offer {name}")
        if name not in self._functions:
            body = getattr(self, "_" + name.removeprefix("cudnnBackend").removeprefix("cudnn").lower())
            types = PROTOTYPES[name]
            self._functions[name] = LibraryFunction(name, types, lambda *values: self._guarded(body, values))
        return self._functions[name]

    def cudnnGetVersion(self) -> int:
        return self.version

    def cudnnGetLastErrorString(self, address: int, size: int) -> None:
        text = (self.refusals[-1] if self.refusals else "").encode()[: size - 1]
        ctypes.memmove(address, text + b"\0", len(text) + 1)

    def leaks(self) -> list[str]:
        """Handles and descriptors that exist."""
        handles = [f"cuDNN handle {handle:#x}" for handle in self._handles]
        return handles + [f"cuDNN descriptor {a:#x} of kind {node.kind}" for a, node in self._nodes.items()]

    def drop_device(self, ordinal: int) -> None:
        self._handles = {handle: value for handle, value in self._handles.items() if value[0] != ordinal}

    def _guarded(self, body: Callable[..., None], values: tuple[Any, ...]) -> int:
        class Outside:
            @staticmethod
            def error(status: int, why: str) -> CudaStatus:
                return CudaStatus(status, why)

        def run() -> int:
            try:
                body(*values)
            except Refused as refused:
                self.refusals.append(str(refused))
                return refused.status
            return SUCCESS

        try:
            return self._standin.guarded(Outside, run)
        except CudaStatus as status:
            if status.status in CAPTURE_STATUSES:
                raise StrictError(status.why) from None
            self.refusals.append(status.why)
            return EXECUTION_FAILED

    def _create(self, out: int) -> None:
        standin = self._standin
        standin.admit_context(standin.runtime)
        standin.check_unsafe("cudnnCreate")
        handle = standin.new_handle()
        self._handles[handle] = (standin.current_device("cudnnCreate").ordinal, 0)
        c_void_p.from_address(out).value = handle

    def _setstream(self, handle: int, stream: int | None) -> None:
        device = self._device(handle)
        target = self._standin.stream(stream or 0)
        if target.device != device:
            raise StrictError(f"a cuDNN handle of device {device} is used on {target}")
        self._handles[handle] = (device, stream or 0)

    def _device(self, handle: int) -> int:
        if handle not in self._handles:
            raise Refused(BAD_PARAM, f"{handle or 0:#x} is no cuDNN handle")
        return self._handles[handle][0]

    def _createdescriptor(self, kind: int, out: int) -> None:
        if kind not in SETTABLE or self.version < SINCE.get(kind, 0):
            raise Refused(NOT_SUPPORTED, f"version {self.version} has no descriptor of kind {kind}")
        address = self._standin.new_handle()
        self._nodes[address] = Node(kind)
        c_void_p.from_address(out).value = address

    def _destroydescriptor(self, address: int) -> None:
        self._node(address)
        del self._nodes[address]

    def _node(self, address: int | None) -> Node:
        found = self._nodes.get(address or 0)
        if found is None:
            raise StrictError(f"{address or 0:#x} is no cuDNN descriptor, or none any more")
        return found

    def _setattribute(self, address: int, name: int, kind: int, count: int, data: int | None) -> None:
        node = self._node(address)
        if node.final:
            raise Refused(NOT_INITIALIZED, f"attribute {name} is set after the descriptor was finalised")
        if name not in SETTABLE[node.kind] or self.version < ATTRIBUTES_SINCE.get(name, 0):
            raise Refused(BAD_PARAM, f"descriptors of kind {node.kind} have no attribute {name} to set")
        wanted, most, _, kinds = SETTABLE[node.kind][name]
        if kind != wanted:
            raise Refused(ATTRIBUTE_TYPE, f"attribute {name} is of type {wanted}, not {kind}")
        if not 1 <= count <= most:
            raise Refused(BAD_PARAM, f"attribute {name} takes up to {most} elements, not {count}")
        if not data:
            raise Refused(NULL_POINTER, f"attribute {name} is set from nowhere")
        values = list((ELEMENTS[kind] * count).from_address(data))
        if kinds:
            nodes = [self._node(value) for value in values]
            if any(found.kind not in kinds for found in nodes):
                raise Refused(DESCRIPTOR_TYPE, f"attribute {name} takes descriptors of kinds {kinds}")
            if not all(found.final for found in nodes):
                raise Refused(NOT_FINALIZED, f"attribute {name} is given a descriptor that is not finalised")
            values = nodes
        if kind == HANDLE:
            self._device(values[0])
        node.values[name] = values

    def _finalize(self, address: int) -> None:
        node = self._node(address)
        if node.final:
            raise StrictError(f"the cuDNN descriptor {address:#x} is finalised twice")
        if node.kind in (ENGINE, ENGINECFG):
            raise StrictError("engines come finalised from a heuristic here")
        missing = [n for n, rule in SETTABLE[node.kind].items() if rule[2] and n not in node.values]
        if missing:
            raise Refused(BAD_PARAM, f"attributes {missing} of a descriptor of kind {node.kind} are not set")
        check = {
            CONVOLUTION: _check_convolution,
            TENSOR: _check_tensor,
            PACK: _check_pack,
            GRAPH: self._check_graph,
            ENGINEHEUR: self._check_heuristic,
            PLAN: self._check_plan,
        }.get(node.kind)
        if check is not None:
            check(node)
        node.final = True

    def _check_graph(self, node: Node) -> None:
        if 800 not in node.values:
            # Part of an operation, which says what it means.
            return
        operations = node.values[801]
        try:
            if operations[0].kind == CONVOLVE:
                node.problem = standin_convolutions.problem_of(operations)
            else:
                node.problem = standin_attention.problem_of(operations, self.version)
        except ValueError as error:
            raise Refused(NOT_SUPPORTED, str(error)) from None

    def _check_heuristic(self, node: Node) -> None:
        self._standin.check_unsafe("a heuristic of cuDNN")
        if node.one(201).problem is None:
            raise Refused(BAD_PARAM, "a heuristic of a graph without a handle")
        if node.one(200) not in (0, 1, 2, 3):
            raise Refused(BAD_PARAM, f"there is no heuristic mode {node.one(200)}")

    def _check_plan(self, node: Node) -> None:
        self._standin.check_unsafe("making an execution plan of cuDNN")
        engine = node.one(401).engine
        if engine.refuses:
            raise Refused(NOT_SUPPORTED, "the engine does not support the graph")
        node.engine, node.problem = engine, node.one(401).problem.by(engine.notes)

    def _getattribute(
        self, address: int, name: int, kind: int, wanted: int, found: int, data: int | None
    ) -> None:
        node = self._node(address)
        if not node.final:
            raise Refused(NOT_FINALIZED, f"attribute {name} is read before the descriptor is finalised")
        if (node.kind, name, kind) in FILLED:
            self._fill(node, FILLED[node.kind, name, kind], wanted, found, data)
            return
        values: tuple[int, ...]
        if (node.kind, name, kind) == (ENGINE, 1303, NUMERICAL_NOTE) and node.engine:
            values = node.engine.notes
        elif (node.kind, name, kind) == (PLAN, 402, INT64) and node.engine:
            values = (node.engine.workspace_bytes,)
        elif (node.kind, name, kind) == (ENGINE, 1301, INT64) and node.engine:
            values = (node.engine.number,)
        elif node.knob and (node.kind, name, kind) in KNOB:
            values = (node.knob[name - 600],)
        else:
            raise Refused(BAD_PARAM, f"attribute {name} of kind {node.kind} cannot be read as type {kind}")
        c_int64.from_address(found).value = len(values)
        given = values[:wanted]
        if given:
            (ELEMENTS[kind] * len(given)).from_address(data)[:] = given

    def _fill(self, node: Node, result: int, wanted: int, found: int, data: int | None) -> None:
        """Makes descriptors of the caller's the results of a heuristic, or the engine or the knobs of a
        configuration."""
        knobs: list[Any] = [None]
        if node.kind == ENGINEHEUR:
            problem = node.one(201).problem
            engines = [e for e in self.engines if e.mode == node.one(200) and problem.form in e.forms]
        else:
            problem, engines = node.problem, [node.engine]
        if result == KNOB_CHOICE:
            if wanted and not node.engine.knobs:
                raise Refused(NOT_INITIALIZED, "an engine without knobs")
            knobs = list(node.engine.knobs)
            engines *= len(knobs)
        else:
            knobs *= len(engines)
        asked = len(engines) if not wanted and result != KNOB_CHOICE else min(wanted, len(engines))
        c_int64.from_address(found).value = asked
        for place, (engine, knob) in enumerate(zip(engines[:wanted], knobs, strict=False)):
            target = self._node((c_void_p * wanted).from_address(data)[place])
            if target.kind != result or target.final:
                raise Refused(DESCRIPTOR_TYPE, f"results are written into new descriptors of kind {result}")
            target.problem, target.engine, target.knob, target.final = problem, engine, knob, True

    def _execute(self, handle: int, plan_address: int, pack_address: int) -> None:
        standin = self._standin
        standin.admit_context(standin.runtime)
        self._device(handle)
        plan, pack = self._node(plan_address), self._node(pack_address)
        if plan.kind != PLAN or pack.kind != PACK or not (plan.final and pack.final):
            raise Refused(BAD_PARAM, "cudnnBackendExecute takes a finalised plan and a finalised pack")
        if plan.one(400) != handle:
            raise StrictError("an execution plan of cuDNN is run with another handle")
        stream = standin.stream(self._handles[handle][1])
        assert plan.problem is not None
        assert plan.engine is not None
        if plan.engine.fails:
            raise Refused(EXECUTION_FAILED, "the engine does not launch")
        addresses = dict(zip(pack.values[1000], pack.values[1001], strict=True))
        workspace = pack.one(1003) or 0
        engine = plan.engine
        work = launch(
            standin.memory, plan.problem, addresses, workspace, engine.workspace_bytes,
            lambda: self._pass_time(engine.milliseconds),
        )  # fmt: skip
        counters, name = standin.counters, plan.problem.counter
        setattr(counters, name, getattr(counters, name) + 1)
        accesses = standin.in_arenas(stream, work.label, work.accesses)
        standin.submit(stream, work.widened(accesses), work.accesses)

    def _pass_time(self, milliseconds: float) -> None:
        self._standin.clock += milliseconds


FILLED = {
    (ENGINEHEUR, 202, DESCRIPTOR): ENGINECFG,
    (ENGINECFG, 300, DESCRIPTOR): ENGINE,
    (ENGINECFG, 302, DESCRIPTOR): KNOB_CHOICE,
}
"""The kinds of descriptors that attributes fill."""
KNOB = ((KNOB_CHOICE, 600, KNOB_TYPE), (KNOB_CHOICE, 601, INT64))


def _check_convolution(node: Node) -> None:
    axes = node.one(106)
    if any(len(node.values[number]) != axes for number in (102, 103, 104, 105)):
        raise Refused(BAD_PARAM, f"dilations, strides and paddings do not have {axes} elements")
    if min(*node.values[102], *node.values[103]) < 1 or min(*node.values[104], *node.values[105]) < 0:
        raise Refused(BAD_PARAM, "dilations or strides are not positive, or paddings negative")


def _check_tensor(node: Node) -> None:
    if node.one(901) not in DTYPES:
        raise Refused(NOT_SUPPORTED, f"data type {node.one(901)}")
    if len(node.values[902]) != len(node.values[903]):
        raise Refused(BAD_PARAM, "a tensor has as many strides as dimensions")
    if min(*node.values[902], *node.values[903]) < 1:
        raise Refused(BAD_PARAM, "a dimension or a stride of a tensor is not positive")
    if node.one(900) < 1 or node.one(900) % np.dtype(DTYPES[node.one(901)]).itemsize:
        raise Refused(BAD_PARAM, "the alignment of a tensor is no multiple of its element")


def _check_pack(node: Node) -> None:
    numbers = node.values[1000]
    if len(numbers) != len(node.values[1001]) or len(set(numbers)) != len(numbers):
        raise Refused(BAD_PARAM, "a variant pack has one address for each tensor")
