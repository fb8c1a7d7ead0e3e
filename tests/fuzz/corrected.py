"""Operators that ONNX's reference evaluator gets wrong, put right."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun
from onnx.reference.ops import op_loop
from scipy import special


class Erf(OpRun):
    """The reference rounds to float32 whatever the type."""

    def _run(self, x: Any) -> tuple[Any, ...]:
        wide = x if x.dtype == np.float64 else x.astype(np.float32)
        return (np.asarray(special.erf(wide)).astype(x.dtype),)


class GlobalMaxPool(OpRun):
    """The reference is wrong for any number of spatial axes but two."""

    def _run(self, x: Any) -> tuple[Any, ...]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class Gelu(OpRun):
    """The reference expands it with its own ``Erf``."""

    def _run(self, x: Any, approximate: str = "none") -> tuple[Any, ...]:
        wide = x.astype(np.float64)
        if approximate == "tanh":
            inner = np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3))
        else:
            inner = special.erf(wide / np.sqrt(2))
        return ((0.5 * wide * (1 + inner)).astype(x.dtype),)


class LRN(OpRun):
    """The reference computes as many channels as there are batches."""

    def _run(self, x: Any, alpha: float, beta: float, bias: float, size: int) -> tuple[Any, ...]:
        squares = np.zeros(x.shape, np.float64)
        for channel in range(x.shape[1]):
            window = slice(max(0, channel - (size - 1) // 2), channel + size // 2 + 1)
            squares[:, channel] = (x[:, window].astype(np.float64) ** 2).sum(1)
        return ((x / (bias + alpha / size * squares) ** beta).astype(x.dtype),)


class LpNormalization(OpRun):
    """The reference sums elements, not their magnitudes, for p = 1."""

    def _run(self, x: Any, axis: int = -1, p: int = 2) -> tuple[Any, ...]:
        wide = x.astype(np.float64)
        norms = np.linalg.norm(wide, p, axis, keepdims=True)
        return ((wide / np.where(norms == 0, 1, norms)).astype(x.dtype),)


class Loop(op_loop.Loop):
    """The reference takes a missing condition for a false one, and concatenates scan outputs along rows."""

    def _run(self, trips: Any, condition: Any, *states: Any, context: Any = None, **settings: Any) -> Any:
        body, values = self.body, dict(context or {})
        going = True if condition is None else bool(condition)
        current, collected = list(states), [[] for _ in range(self.K)]
        iteration = 0
        while going and (trips is None or iteration < trips):
            values.update(zip(body.input_names[2:], current, strict=True))
            values[body.input_names[0]] = np.array(iteration, np.int64)
            values[body.input_names[1]] = np.array(going)
            results = self._run_body(values, **settings)
            going, current = bool(results[0]), results[1 : 1 + self.N]
            for rows, result in zip(collected, results[1 + self.N :], strict=True):
                rows.append(result)
            iteration += 1
        if self.K and not iteration:
            raise ValueError("the shape of scan outputs without iterations depends on the body's types")
        return (*current, *map(np.stack, collected))


class OneHot(OpRun):
    """The reference multiplies by zeros, which infinities do not survive."""

    def _run(self, indices: Any, depth: Any, values: Any, axis: int = -1) -> tuple[Any, ...]:
        count = int(np.asarray(depth).reshape(-1)[0])
        found = np.full((*indices.shape, count), values[0], values.dtype)
        for place in np.ndindex(indices.shape):
            if -count <= indices[place] < count:
                found[(*place, int(indices[place]))] = values[1]
        return (np.moveaxis(found, -1, axis),)


CORRECTED = [Erf, Gelu, GlobalMaxPool, LRN, Loop, LpNormalization, OneHot]
