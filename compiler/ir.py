"""The graph as imported: ONNX nodes on typed values. Shapes may hold symbolic dimensions."""

from __future__ import annotations

import functools
import mmap
from collections.abc import Container, Hashable, Iterator, Mapping
from dataclasses import field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import InvalidModelError
from onnxplan.compiler.records import dataclass

COMPARED_BYTES = 256
"""Nodes with larger tensors among their attributes are alike to no others."""

Dim = int | str | None
Attribute = Any
"""int, float, str, bytes, ``numpy.ndarray`` (tensor), :class:`Graph`, :data:`ValueType`, or a list."""


@dataclass(frozen=True, slots=True)
class TensorType:
    """Element type and shape: ints, names of symbolic dimensions, ``None`` where nothing is known.

    ``shape`` is ``None`` where not even the rank is known.
    """

    dtype: DType
    shape: tuple[Dim, ...] | None

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype}[...]"
        return f"{self.dtype}[{', '.join('?' if d is None else str(d) for d in self.shape)}]"


@dataclass(frozen=True, slots=True)
class SequenceType:
    """Any number of ``element``, whose shapes may differ where the type leaves them open."""

    element: ValueType

    def __str__(self) -> str:
        return f"seq({self.element})"


@dataclass(frozen=True, slots=True)
class OptionalType:
    """An ``element``, or nothing."""

    element: ValueType

    def __str__(self) -> str:
        return f"optional({self.element})"


@dataclass(frozen=True, slots=True)
class MapType:
    """Scalars of type ``value`` by keys, which are integers or strings."""

    key: DType
    value: DType

    def __str__(self) -> str:
        return f"map({self.key}, {self.value})"


ValueType: TypeAlias = "TensorType | SequenceType | OptionalType | MapType"

_STANDARD_LABELS = {DType.FLOAT32: "float", DType.FLOAT64: "double"}


def standard_name(kind: ValueType) -> str:
    """The type as operator schemas and onnxruntime write it, without shapes: ``seq(tensor(float))``."""
    if isinstance(kind, SequenceType):
        return f"seq({standard_name(kind.element)})"
    if isinstance(kind, OptionalType):
        return f"optional({standard_name(kind.element)})"
    if isinstance(kind, MapType):
        return f"map({kind.key},{standard_name(TensorType(kind.value, ()))})"
    return f"tensor({_STANDARD_LABELS.get(kind.dtype, kind.dtype.label)})"


@dataclass(eq=False, slots=True)
class Value:
    """A tensor, sequence, optional or map of the graph. Compared by identity.

    ``constant`` is set for initializers; ``default`` for graph inputs that may be left out of the feeds.
    ``type`` is what the model declares, and may be missing.
    """

    name: str
    type: ValueType | None = None
    constant: npt.NDArray[Any] | None = field(default=None, repr=False)
    default: npt.NDArray[Any] | None = field(default=None, repr=False)


@dataclass(eq=False, slots=True)
class Node:
    """One application of an ONNX operator. ``version`` is the opset version of its domain in the model.

    Missing optional inputs and unwanted outputs are ``None``. ``absorbed`` are the labels of nodes whose work
    a rewrite of the graph made part of this one's.
    """

    op_type: str
    domain: str
    version: int
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value | None, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    name: str = ""
    absorbed: tuple[str, ...] = ()
    _kind: tuple[Hashable, ...] | None = field(default=None, init=False, repr=False)

    @property
    def label(self) -> str:
        """The node's name, or the name of its first output where it has none."""
        if self.name:
            return self.name
        return next((value.name for value in self.outputs if value is not None), self.op_type)

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the node and of those that it stands for besides."""
        return self.label, *self.absorbed

    def input(self, position: int) -> Value | None:
        return self.inputs[position] if position < len(self.inputs) else None

    def kind(self) -> tuple[Hashable, ...] | None:
        """Equal for nodes that are alike in all but their names and inputs; ``None`` where few nodes are.

        These have subgraphs, types or large tensors among their attributes. Found once: a node that was asked
        must not change any more.
        """
        if self._kind is None:
            attributes = [(name, _attribute_key(value)) for name, value in self.attributes.items()]
            plain = all(key is not None for _, key in attributes)
            wanted = tuple(output is not None for output in self.outputs)
            kind = (self.domain, self.op_type, self.version, wanted, tuple(attributes))
            self._kind = _interned(kind) if plain else ()
        return self._kind or None

    def integer(self, name: str, default: int | None = None) -> int:
        return int(self._attribute(name, default))

    def integers(self, name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        return tuple(int(item) for item in self._attribute(name, default))

    def floats(self, name: str, default: tuple[float, ...] | None = None) -> tuple[float, ...]:
        return tuple(float(item) for item in self._attribute(name, default))

    def float(self, name: str, default: float | None = None) -> float:
        """A float attribute. The standard's floats, defaults too, are of float32."""
        return float(np.float32(self._attribute(name, default)))

    def string(self, name: str, default: str | None = None) -> str:
        value = self._attribute(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)

    def strings(self, name: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        items = self._attribute(name, default)
        return tuple(item.decode() if isinstance(item, bytes) else str(item) for item in items)

    def tensor(self, name: str) -> npt.NDArray[Any]:
        value = self._attribute(name, None)
        assert isinstance(value, np.ndarray)
        return value

    def graph(self, name: str) -> Graph:
        value = self._attribute(name, None)
        assert isinstance(value, Graph)
        return value

    def _attribute(self, name: str, default: Attribute) -> Attribute:
        value = self.attributes.get(name, default)
        if value is None:
            raise InvalidModelError(f"node {self.label!r} ({self.op_type}) lacks its attribute {name!r}")
        return value

    @property
    def subgraphs(self) -> Iterator[Graph]:
        """The graphs among the attributes (branches and bodies)."""
        for value in self.attributes.values():
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, Graph):
                    yield item


@functools.lru_cache(maxsize=4096)
def _interned(kind: tuple[Hashable, ...]) -> tuple[Hashable, ...]:
    """One tuple for equal ones, as it is faster to tell that they are."""
    return kind


def _attribute_key(value: Attribute) -> Hashable:
    """Equal for equal attributes of the same type; ``None`` for what is not compared."""
    if isinstance(value, (int, float, str, bytes)):
        # Numbers of different types are equal, and so are 0.0 and -0.0.
        return type(value).__name__, repr(value)
    if isinstance(value, list):
        keys = tuple([_attribute_key(item) for item in value])
        return None if None in keys else keys
    if isinstance(value, np.ndarray) and value.nbytes <= COMPARED_BYTES and not value.dtype.hasobject:
        return value.dtype.str, value.shape, value.tobytes()
    return None


@dataclass(eq=False, slots=True)
class Graph:
    """Nodes in topological order. A subgraph's nodes may read values of the graphs around it."""

    name: str
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    _reads: tuple[tuple[Value, ...], ...] | None = field(default=None, init=False, repr=False)
    _last_used: tuple[tuple[Value, ...], ...] | None = field(default=None, init=False, repr=False)

    def reads(self) -> tuple[tuple[Value, ...], ...]:
        """The values that each node reads, those that its subgraphs take from around them too.

        Found once: a graph that was asked must not change any more.
        """
        if self._reads is None:
            found = []
            for node in self.nodes:
                values = [value for value in node.inputs if value is not None]
                for subgraph in node.subgraphs:
                    values.extend(subgraph.captures())
                found.append(tuple(values))
            self._reads = tuple(found)
        return self._reads

    def last_used(self) -> tuple[tuple[Value, ...], ...]:
        """The inputs of the graph and results of its nodes that are not needed any more behind each node.

        Found once, as :meth:`reads`. Values of the graphs around it are not among them.
        """
        if self._last_used is None:
            own = set(self.inputs)
            last: dict[Value, int] = {}
            for number, (node, reads) in enumerate(zip(self.nodes, self.reads(), strict=True)):
                results = [value for value in node.outputs if value is not None]
                own.update(results)
                last.update(dict.fromkeys((*reads, *results), number))
            found: list[list[Value]] = [[] for _ in self.nodes]
            for value in last.keys() & own - set(self.outputs):
                found[last[value]].append(value)
            self._last_used = tuple(map(tuple, found))
        return self._last_used

    def walk(self) -> Iterator[Node]:
        """All nodes, those of subgraphs after the node that holds them."""
        for node in self.nodes:
            yield node
            for subgraph in node.subgraphs:
                yield from subgraph.walk()

    def captures(self) -> dict[Value, None]:
        """Values that the graph (with its subgraphs) reads from around it, in order of first use."""
        known = set(self.inputs)
        for node in self.nodes:
            known.update(value for value in node.outputs if value is not None)
        found: dict[Value, None] = {}
        reads = [value for node in self.nodes for value in node.inputs]
        reads += [value for node in self.nodes for graph in node.subgraphs for value in graph.captures()]
        for value in [*reads, *self.outputs]:
            if value is not None and value not in known and value.constant is None:
                found[value] = None
        return found


@dataclass(eq=False, slots=True)
class Model:
    """An imported model. ``opsets`` maps domains to versions.

    ``version`` is ``None`` where the model has none. ``path`` is its file, if it has one. ``source`` is what
    it can be imported from again: the absolute path, the serialised bytes, or the importer's own message
    where that is too large to be serialised.
    ``mappings`` are the files mapped into memory that constants may be views of. ``data`` are the bytes of
    the message and ``external`` those of its external files by location, as far as they are known.
    """

    graph: Graph
    opsets: Mapping[str, int]
    ir_version: int = 0
    producer: str = ""
    producer_version: str = ""
    domain: str = ""
    version: int | None = None
    description: str = ""
    graph_description: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    path: str | None = None
    source: Any = field(default=None, repr=False)
    mappings: tuple[mmap.mmap, ...] = field(default=(), repr=False)
    data: memoryview | None = field(default=None, repr=False)
    external: Mapping[str, npt.NDArray[np.uint8]] = field(default_factory=dict, repr=False)

    def release_pages(self) -> None:
        """Gives back the memory of mapped pages that were read; what is read again comes from the file."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for mapping in self.mappings:
                mapping.madvise(mmap.MADV_DONTNEED)


def needed_nodes(target: Value, known: Container[Value], producers: Mapping[Value, Node]) -> set[Node]:
    """The nodes that compute ``target`` from what is ``known`` and constants; else raises ``ValueError``."""
    nodes: set[Node] = set()
    pending = [target]
    while pending:
        value = pending.pop()
        if value in known or value.constant is not None:
            continue
        node = producers.get(value)
        if node is None:
            raise ValueError(f"{target.name!r} depends on {value.name!r}, which is not among the inputs")
        if node not in nodes:
            nodes.add(node)
            pending.extend(read for read in node.inputs if read is not None)
            pending.extend(read for graph in node.subgraphs for read in graph.captures())
    return nodes
