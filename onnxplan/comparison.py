"""Finding the first node of a model that computes something else here than elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import onnx
from onnx import helper

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.importer import load_model
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.structures import MapValue, SequenceValue, Structure, map_tensors, tensors
from onnxplan.differences import Difference, Result, find_difference
from onnxplan.feeds import check_feeds
from onnxplan.peers import run_peer
from onnxplan.runtime.devices import open_device
from onnxplan.session import InferenceSession
from onnxplan.tensor import Tensor

Report = Callable[[int, int], None]
"""Called with how many of how many nodes were examined."""

RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
)


@dataclass(frozen=True, slots=True)
class Operand:
    """An input of a node: what each side gives it. ``right`` is the same object where it is a constant."""

    name: str
    found: Result
    right: Result
    constant: bool

    @property
    def difference(self) -> Difference | None:
        """How the two differ at all, however little."""
        return None if self.found is self.right else find_difference(self.found, self.right, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Finding:
    """A node one of whose outputs differs.

    ``cause`` tells why, and ``own`` is the difference that the node makes with the inputs of the other side:

    * ``"node"``: alone, with the inputs of the other side, it computes something else than that;
    * ``"fusion"``: alone it agrees, and with its own inputs computes something else than within the model, so
      the nodes around it matter;
    * ``"inputs"``: the difference came with its inputs;
    * ``"random"``: it draws random numbers, which are others on each side.
    """

    node: str
    op_type: str
    domain: str
    opset: int
    output: str
    found: Result
    right: Result
    difference: Difference
    cause: str
    own: Difference | None
    operands: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What :func:`compare` found.

    ``first`` is the first node, in the order of execution, that differs beyond the tolerances, and ``fault``
    the first that does so by itself: another one where the first only hands on (and enlarges) small
    differences of its inputs. Both are ``None`` where all agrees. ``nodes`` were examined; ``hidden`` are the
    nodes inside of subgraphs, whose values cannot be fetched: what they do shows at the node around them.
    """

    against: str
    nodes: int
    hidden: int
    first: Finding | None
    fault: Finding | None

    @property
    def agrees(self) -> bool:
        """Does no value differ beyond the tolerances?"""
        return self.first is None


def compare(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    feeds: Mapping[str, Any],
    *,
    against: str = "onnxruntime",
    rtol: float | None = None,
    atol: float | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> Comparison:
    """Runs ``model`` here and elsewhere, and finds the first node that differs.

    ``against`` is ``"onnxruntime"``, ``"reference"`` (ONNX's reference evaluator) or ``"unoptimised"``
    (onnxplan on the CPU, planned node by node). ``rtol`` and ``atol`` default to tolerances that follow the
    element type; integers, booleans and strings must be equal. All values of both sides are held in memory.

    Raises :class:`~onnxplan.PeerError` where the other side cannot run the model, ``ValueError`` for another
    value of ``against``, and what :class:`~onnxplan.InferenceSession` and its runs raise.
    """
    return Comparer(model, feeds, against, rtol, atol, device, threads).search()


class Comparer:
    """A comparison in two parts: making one runs both sides, :meth:`search` looks for the node."""

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes | onnx.ModelProto,
        feeds: Mapping[str, Any],
        against: str = "onnxruntime",
        rtol: float | None = None,
        atol: float | None = None,
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        self._against, self._tolerances = against, (rtol, atol)
        self._options: dict[str, Any] = {"device": device, "threads": threads}
        self._read(model)
        with InferenceSession(self._plain, **self._options) as session:
            # The other side reads the host's memory.
            fed = check_feeds(feeds, session.inputs, session.optional_inputs, open_device("cpu"))
            self._feeds = _plain(*fed)
            outputs = _arrays(session.run_sync(self._feeds))
        values = [name for node in self._nodes for name in node.output if name]
        self._session = InferenceSession(self._open, **self._options)
        self._found: dict[str, Result] = _arrays(self._session.run_sync(self._feeds))
        self._right = run_peer(against, self._open, self._feeds, [*dict.fromkeys([*outputs, *values])])
        self._outputs = outputs

    def _read(self, model: str | os.PathLike[str] | bytes | onnx.ModelProto) -> None:
        """The model as it is, and with all values of the main graph as outputs."""
        imported = load_model(model)
        if isinstance(model, onnx.ModelProto):
            proto = onnx.ModelProto()
            proto.CopyFrom(model)
        elif isinstance(model, bytes):
            proto = onnx.ModelProto.FromString(model)
        else:
            proto = onnx.load(model)
        position = {
            value.name: number
            for number, node in enumerate(imported.graph.nodes)
            for value in node.outputs
            if value is not None
        }
        self._nodes = sorted(
            proto.graph.node, key=lambda node: min((position.get(name, 0) for name in node.output), default=0)
        )
        self._nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self._nodes]
        # The reference runs nodes in the order in which they stand.
        del proto.graph.node[:]
        proto.graph.node.extend(self._nodes)
        self._plain = proto
        self._open = onnx.ModelProto()
        self._open.CopyFrom(proto)
        known = {info.name for info in proto.graph.output}
        self._open.graph.output.extend(
            onnx.ValueInfoProto(name=name)
            for node in self._nodes
            for name in node.output
            if name and name not in known
        )
        self._opsets = dict(imported.opsets)
        self._constants = {
            value.name: value.constant
            for node in imported.graph.walk()
            for value in node.inputs
            if value is not None and value.constant is not None
        }
        self._defaults = {
            value.name: value.default for value in imported.graph.inputs if value.default is not None
        }
        self._computed_constants = {
            name for node in self._nodes if node.op_type == "Constant" for name in node.output
        }
        self._hidden = sum(1 for _ in imported.graph.walk()) - len(imported.graph.nodes)

    def search(self, report: Report = lambda done, total: None) -> Comparison:
        """The comparison; ``report`` is told how far it is."""
        first = fault = None
        for finding in self._findings(report):
            first = first or finding
            if finding.cause != "inputs":
                fault = finding
                break
        if first is None and self._differing_output() is not None:
            first = fault = self._search_alone(report)
        self._session.close()
        return Comparison(self._against, len(self._nodes), self._hidden, first, fault)

    def _findings(self, report: Report) -> Iterator[Finding]:
        for number, node in enumerate(self._nodes):
            report(number, len(self._nodes))
            for name in node.output:
                if name:
                    difference = self._difference(self._found[name], self._right[name])
                    if difference is not None:
                        yield self._explain(node, name, self._found, difference)
                        break
        report(len(self._nodes), len(self._nodes))

    def _differing_output(self) -> str | None:
        return next(
            (name for name, found in self._outputs.items() if self._difference(found, self._right[name])),
            None,
        )

    def _search_alone(self, report: Report) -> Finding | None:
        """The first value that differs where it alone is fetched: to fetch all of them undoes fusions."""
        for number, node in enumerate(self._nodes):
            report(number, len(self._nodes))
            for name in node.output:
                if not name:
                    continue
                found = self._session.run_sync(self._feeds, [name])[name].numpy()
                difference = self._difference(found, self._right[name])
                if difference is not None:
                    return self._explain(node, name, {**self._found, name: found}, difference)
        # Only all outputs together go wrong: the one that does is told.
        name = self._differing_output()
        assert name is not None
        difference = self._difference(self._outputs[name], self._right[name])
        assert difference is not None
        node = next(node for node in self._nodes if name in node.output)
        return self._explain(node, name, {**self._found, name: self._outputs[name]}, difference)

    def _difference(self, found: Result, right: Result) -> Difference | None:
        return find_difference(found, right, *self._tolerances)

    def _explain(
        self, node: onnx.NodeProto, output: str, values: Mapping[str, Result], difference: Difference
    ) -> Finding:
        operands = tuple(self._operand(name) for name in _reads(node))
        own = None
        if node.op_type in RANDOM:
            cause = "random"
        else:
            own = self._difference(self._run_alone(node, operands, "right")[output], self._right[output])
            cause = "node"
            if own is None:
                alone = self._run_alone(node, operands, "found")[output]
                cause = "inputs" if self._difference(alone, values[output]) is None else "fusion"
        domain = "" if node.domain == "ai.onnx" else node.domain
        return Finding(
            node.name or output,
            node.op_type,
            domain,
            self._opsets.get(domain, 0),
            output,
            values[output],
            self._right[output],
            difference,
            cause,
            own,
            operands,
        )

    def _operand(self, name: str) -> Operand:
        if name in self._found:
            return Operand(name, self._found[name], self._right[name], name in self._computed_constants)
        for known, constant in ((self._feeds, False), (self._constants, True), (self._defaults, True)):
            if name in known:
                return Operand(name, known[name], known[name], constant)
        raise AssertionError(f"{name!r} is neither computed nor fed nor constant")

    def _run_alone(self, node: onnx.NodeProto, operands: tuple[Operand, ...], side: str) -> dict[str, Result]:
        """The outputs of one node that is given the inputs of a side; constants stay constants."""
        infos, initializers, feeds = [], [], {}
        for operand in operands:
            array = operand.right if side == "right" else operand.found
            if operand.constant:
                initializers.append(onnx.numpy_helper.from_array(array, operand.name))
                continue
            code = DType.from_numpy(array.dtype).code
            infos.append(helper.make_tensor_value_info(operand.name, code, array.shape))
            feeds[operand.name] = array
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = helper.make_graph([node], "node", infos, outputs, initializers)
        model = helper.make_model(
            graph,
            opset_imports=self._plain.opset_import,
            ir_version=self._plain.ir_version,
            functions=self._plain.functions,
        )
        with InferenceSession(model, **self._options) as session:
            return _arrays(session.run_sync(feeds))


def _plain(arrays: Mapping[str, Any], structures: Iterable[tuple[str, Structure[str]]]) -> dict[str, Any]:
    """Feeds as every engine takes them: arrays, lists of arrays, dicts."""
    parts = {name for _, structure in structures for name in tensors(structure)}
    plain: dict[str, Any] = {name: array for name, array in arrays.items() if name not in parts}
    for name, structure in structures:
        plain[name] = _plain_value(map_tensors(arrays.__getitem__, structure))
    return plain


def _plain_value(value: Structure[Any]) -> Any:
    if isinstance(value, SequenceValue):
        return [_plain_value(element) for element in value.elements]
    if isinstance(value, MapValue):
        return dict(zip(value.keys, value.values.tolist(), strict=True))
    return value


def _arrays(results: Mapping[str, Tensor]) -> dict[str, Result]:
    return {name: tensor.numpy() for name, tensor in results.items()}


def _reads(node: onnx.NodeProto) -> list[str]:
    """The values that a node reads, those that its subgraphs take from around it too, each once."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            own = {info.name for info in graph.input} | {tensor.name for tensor in graph.initializer}
            own |= {sparse.values.name for sparse in graph.sparse_initializer}
            own |= {name for inner in graph.node for name in inner.output}
            inner = [name for inner in graph.node for name in _reads(inner)]
            names += [name for name in [*inner, *(info.name for info in graph.output)] if name not in own]
    return list(dict.fromkeys(names))
