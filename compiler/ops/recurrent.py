"""Recurrent layers: one matrix product projects the whole sequence, then the recurrence runs by itself."""

from __future__ import annotations

import numpy as np

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.primitives import Recurrent
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.registry import operator
from onnxplan.compiler.view import View

_DEFAULTS = {
    "Relu": (0.0, 0.0),
    "Tanh": (0.0, 0.0),
    "Sigmoid": (0.0, 0.0),
    "Affine": (1.0, 0.0),
    "LeakyRelu": (0.01, 0.0),
    "ThresholdedRelu": (1.0, 0.0),
    "ScaledTanh": (1.0, 1.0),
    "HardSigmoid": (0.2, 0.5),
    "Elu": (1.0, 0.0),
    "Softsign": (0.0, 0.0),
    "Softplus": (0.0, 0.0),
}
_NAMES = {name.lower(): name for name in _DEFAULTS}
_TAKES_ALPHA = {"Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu"}
_TAKES_BETA = {"Affine", "ScaledTanh", "HardSigmoid"}

Activation = tuple[str, float, float]


@operator("LSTM")
def lstm(
    b: Builder,
    node: Node,
    x: View,
    w: View,
    r: View,
    bias: View | None = None,
    lengths: View | None = None,
    initial_h: View | None = None,
    initial_c: View | None = None,
    peepholes: View | None = None,
) -> list[View]:
    """https://onnx.ai/onnx/operators/onnx__LSTM.html"""
    layer = Layer.of(b, node, x, w, r, gates=4)
    return long_short_term(layer, layer.project(bias), lengths, initial_h, initial_c, peepholes)


def long_short_term(
    layer: Layer,
    projected: View,
    lengths: View | None,
    initial_h: View | None,
    initial_c: View | None,
    peepholes: View | None,
) -> list[View]:
    """The outputs of an LSTM whose inputs are ``projected (T, N, D*4*H)`` already, biases added."""
    b, node = layer.builder, layer.node
    outputs = []
    for direction in range(layer.directions):
        if peepholes is None:
            holes = layer.zeros((3, layer.hidden))
        else:
            holes = b.reshape(_row(peepholes, direction), (3, layer.hidden))
        primitive = Recurrent(
            "lstm",
            layer.reverse[direction],
            layer.activations(("Sigmoid", "Tanh", "Tanh"), direction),
            clip=layer.clip,
            input_forget=bool(node.integer("input_forget", 0)),
        )
        states = [
            layer.state(initial_h, direction),
            layer.lengths(lengths),
            layer.state(initial_c, direction),
        ]
        outputs.append(layer.run(primitive, projected, direction, [*states, holes], carried=2))
    return layer.join(outputs)


@operator("GRU")
def gru(
    b: Builder,
    node: Node,
    x: View,
    w: View,
    r: View,
    bias: View | None = None,
    lengths: View | None = None,
    initial_h: View | None = None,
) -> list[View]:
    """https://onnx.ai/onnx/operators/onnx__GRU.html

    With ``linear_before_reset`` the reset gate scales the recurrent bias of the hidden gate, so that stays
    out of the projection.
    """
    layer = Layer.of(b, node, x, w, r, gates=3)
    inside = bool(node.integer("linear_before_reset", 0))
    projected = layer.project(bias, kept_back=layer.hidden if inside else 0)
    outputs = []
    for direction in range(layer.directions):
        if bias is None or not inside:
            recurrent_bias = layer.zeros((layer.hidden,))
        else:
            recurrent_bias = _row(bias, direction).slice(0, 5 * layer.hidden, layer.hidden)
        primitive = Recurrent(
            "gru",
            layer.reverse[direction],
            layer.activations(("Sigmoid", "Tanh"), direction),
            clip=layer.clip,
            linear_before_reset=inside,
        )
        states = [layer.state(initial_h, direction), layer.lengths(lengths), recurrent_bias]
        outputs.append(layer.run(primitive, projected, direction, states, carried=1))
    return layer.join(outputs)


@operator("RNN")
def rnn(
    b: Builder,
    node: Node,
    x: View,
    w: View,
    r: View,
    bias: View | None = None,
    lengths: View | None = None,
    initial_h: View | None = None,
) -> list[View]:
    """https://onnx.ai/onnx/operators/onnx__RNN.html"""
    layer = Layer.of(b, node, x, w, r, gates=1)
    projected = layer.project(bias)
    outputs = []
    for direction in range(layer.directions):
        primitive = Recurrent(
            "rnn", layer.reverse[direction], layer.activations(("Tanh",), direction), clip=layer.clip
        )
        states = [layer.state(initial_h, direction), layer.lengths(lengths)]
        outputs.append(layer.run(primitive, projected, direction, states, carried=1))
    return layer.join(outputs)


@dataclass(frozen=True)
class Layer:
    """What the three operators share. ``x`` is ``(T, N, I)``, or ``(N, T, I)`` if ``batch_first``.

    ``w`` is ``(D, G*H, I)`` and ``r`` ``(D, G*H, H)`` for ``D`` directions and ``G`` gates.
    """

    builder: Builder
    node: Node
    x: View
    w: View
    r: View
    gates: int
    hidden: int
    reverse: tuple[bool, ...]
    batch_first: bool
    clip: float | None

    @staticmethod
    def of(b: Builder, node: Node, x: View, w: View, r: View, gates: int) -> Layer:
        direction = node.string("direction", "forward").lower()
        directions = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
        if direction not in directions:
            raise ValueError(f"direction {direction!r} does not exist")
        reverse = directions[direction]
        if x.rank != 3 or w.rank != 3 or r.rank != 3:
            raise ValueError("input and weights must have rank 3")
        hidden = r.shape[2]
        if node.integer("hidden_size", hidden) != hidden:
            raise ValueError(f"hidden_size is {node.integer('hidden_size')}, the weights have {hidden}")
        rows = (len(reverse), gates * hidden)
        if w.shape != (*rows, x.shape[2]) or r.shape != (*rows, hidden):
            raise ValueError(f"weights for {rows[0]} directions must have {rows[1]} rows")
        clip = node.float("clip", 0.0)
        return Layer(
            b,
            node,
            x,
            w,
            r,
            gates,
            hidden,
            reverse,
            bool(node.integer("layout", 0)),
            clip if clip > 0 else None,
        )

    @property
    def directions(self) -> int:
        return len(self.reverse)

    @property
    def steps(self) -> int:
        return self.x.shape[1 if self.batch_first else 0]

    @property
    def batch(self) -> int:
        return self.x.shape[0 if self.batch_first else 1]

    def zeros(self, shape: tuple[int, ...]) -> View:
        return self.builder.constant(np.zeros(shape, self.x.dtype.numpy))

    def project(self, bias: View | None, kept_back: int = 0) -> View:
        """The inputs of all gates of all directions, ``(T, N, D*G*H)``.

        ``bias`` is ``(D, 2*G*H)``, for input and recurrent weights. The last ``kept_back`` recurrent ones of
        each direction are left out.
        """
        b = self.builder
        rows = self.gates * self.hidden
        weights = b.reshape(self.w, (self.directions * rows, self.x.shape[2]))
        gates = self.biased(b.matmul(self.x, weights.transpose((1, 0))), bias, kept_back)
        return gates.transpose((1, 0, 2)) if self.batch_first else gates

    def biased(self, gates: View, bias: View | None, kept_back: int = 0) -> View:
        """``gates (..., D*G*H)`` plus the biases of :meth:`project`."""
        b = self.builder
        rows = self.gates * self.hidden
        if bias is not None:
            if bias.shape != (self.directions, 2 * rows):
                raise ValueError(f"biases must have the shape {[self.directions, 2 * rows]}")
            ours, theirs = bias.slice(1, 0, rows), bias.slice(1, rows, rows)
            added = rows - kept_back
            total = b.scalar("add", ours.slice(1, 0, added), theirs.slice(1, 0, added))
            if kept_back:
                total = b.concat([total, ours.slice(1, added, kept_back)], 1)
            gates = b.scalar("add", gates, b.reshape(total, (self.directions * rows,)))
        return gates

    def state(self, initial: View | None, direction: int) -> View:
        """The initial state ``(N, H)`` of a direction: zero where none is given."""
        if initial is None:
            return self.zeros((self.batch, self.hidden))
        if self.batch_first:
            initial = initial.transpose((1, 0, 2))
        if initial.shape != (self.directions, self.batch, self.hidden):
            raise ValueError(f"an initial state of {self.batch} x {self.hidden} is expected")
        return _row(initial, direction)

    def lengths(self, given: View | None) -> View:
        """The lengths of the sequences, ``(N)`` of int32."""
        if given is None:
            return self.builder.constant(np.full(self.batch, self.steps, np.int32))
        if given.shape != (self.batch,):
            raise ValueError(f"{self.batch} sequence lengths are expected")
        return self.builder.cast(given, DType.INT32)

    def activations(self, defaults: tuple[str, ...], direction: int) -> tuple[Activation, ...]:
        """The activations of a direction, each with its parameters.

        The lists of parameters are consumed by those activations that take one, in order, and each
        direction has its part of the list of activations.
        """
        names = self.node.strings("activations", ()) or defaults * self.directions
        if len(names) != len(defaults) * self.directions:
            raise ValueError(f"{len(names)} activations, not {len(defaults) * self.directions}")
        alphas = iter(self.node.floats("activation_alpha", ()))
        betas = iter(self.node.floats("activation_beta", ()))
        result = []
        for given in names:
            name = _NAMES.get(given.lower())
            if name is None:
                raise ValueError(f"activation {given!r} does not exist")
            alpha, beta = _DEFAULTS[name]
            if name in _TAKES_ALPHA:
                alpha = next(alphas, alpha)
            if name in _TAKES_BETA:
                beta = next(betas, beta)
            result.append((name, alpha, beta))
        start = direction * len(defaults)
        return tuple(result[start : start + len(defaults)])

    def run(
        self, primitive: Recurrent, projected: View, direction: int, operands: list[View], carried: int
    ) -> tuple[View, ...]:
        """``y (T, N, H)`` and ``carried`` final states ``(N, H)`` of one direction."""
        b = self.builder
        rows = self.gates * self.hidden
        gates = projected.slice(2, direction * rows, rows)
        recurrent = _row(self.r, direction).transpose((1, 0))
        order = (1, 0, 2) if self.batch_first else None
        y = b.new(self.x.dtype, (self.steps, self.batch, self.hidden), order)
        finals = [b.new(self.x.dtype, (self.batch, self.hidden)) for _ in range(carried)]
        initial_h, *rest = operands
        return b.emit(primitive, [gates, recurrent, initial_h, *rest], [y, *finals])

    def join(self, outputs: list[tuple[View, ...]]) -> list[View]:
        """The outputs of the operator, the directions on an axis of their own."""
        y = self.builder.concat([output[0].unsqueeze((1,)) for output in outputs], 1)
        joined = [y.transpose((2, 0, 1, 3)) if self.batch_first else y]
        for states in list(zip(*outputs, strict=True))[1:]:
            state = self.builder.concat([view.unsqueeze((0,)) for view in states], 0)
            joined.append(state.transpose((1, 0, 2)) if self.batch_first else state)
        return joined


def _row(view: View, index: int) -> View:
    return view.slice(0, index, 1).squeeze((0,))
