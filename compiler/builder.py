"""The builder: lowering rules call it to emit primitives on views.

It evaluates as it goes: an operation whose operands are all constants is computed at once by NumPy, so
shape arithmetic, folded weights and masks never become steps. Views cost nothing. Layouts follow the
operands: what is computed from channels-last tensors is channels-last, without anybody asking for it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.arrangement import (
    arrange,
    broadcast_shapes,
    checked_size,
    layout_order,
    ordered_strides,
)
from onnxplan.compiler.constant_pool import MEMO_BYTES, ConstantPool, derived_key
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.evaluate import evaluate
from onnxplan.compiler.expression import Expression, identity
from onnxplan.compiler.expressions import (
    cast_expression,
    constant_expression,
    reduce_expression,
    scalar_expression,
)
from onnxplan.compiler.plan import HostFunction
from onnxplan.compiler.primitives import MapReduce, MatMul, Primitive
from onnxplan.compiler.program import Operation
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.scalar import WIDE_FLOATS
from onnxplan.compiler.trace import Body, trace
from onnxplan.compiler.verify_primitive import check_operation
from onnxplan.compiler.view import READS, Shape, Storage, View

FOLD_LIMIT_BYTES = 16 << 20
"""Results larger than this and than their operands are computed by the plan, not kept as constants."""


class ValueNeeded(Exception):  # noqa: N818 - a signal that ends a stage, not an error
    """Lowering cannot go on without the elements of ``view``, which only a run can compute.

    With a ``function`` it only needs the shape of what that makes of them.
    """

    def __init__(self, view: View, function: HostFunction | None = None) -> None:
        super().__init__(str(view))
        self.view = view
        self.function = function


@dataclass(frozen=True, slots=True, eq=False)
class Derivation:
    """A call of :meth:`Builder.derive`, what it returned, and how far :data:`READS` went on for it."""

    function: Callable[..., tuple[View, ...]]
    views: tuple[View, ...]
    arguments: tuple[Hashable, ...]
    made: tuple[View, ...]
    reads: int


class Builder:
    """Emits operations; every method that computes returns a view of its result."""

    def __init__(self, pool: ConstantPool | None = None) -> None:
        self.pool = pool or ConstantPool()
        self.operations: list[Operation] = []
        self.labels: tuple[str, ...] = ("",)
        """Of the nodes whose rule runs."""
        self.prefix = "%"
        self.transient = False
        self.storage_count = 0
        self.derivations: list[Derivation] = []
        """What the rule that runs has derived so far."""
        self._fold_count = 0
        self._run_key: View | None = None
        self._draws: Counter[object] = Counter()

    @property
    def node(self) -> str:
        """The label of the node whose rule runs."""
        return self.labels[0]

    # Values

    def constant(self, value: npt.ArrayLike, dtype: DType | None = None) -> View:
        """A constant of ``value`` (anything NumPy takes)."""
        array = np.asarray(value, dtype.numpy if dtype else None)
        flat = np.ascontiguousarray(array).reshape(-1)
        storage = Storage(
            DType.from_numpy(array.dtype), array.size, self.node, flat, transient=self.transient
        )
        return View.dense(storage, array.shape)

    def value(self, view: View) -> npt.NDArray[Any]:
        """The elements of ``view`` at plan time; raises :class:`ValueNeeded` where a run must compute it."""
        if not view.is_constant:
            raise ValueNeeded(view)
        return view.numpy()

    def host(self, view: View, dtype: DType, function: HostFunction) -> View:
        """What ``function`` makes of the elements of ``view``: an array of ``dtype`` whose shape they decide.

        For work without kernels. Each run does it between two stages; the plan depends on the shape alone.
        """
        if not view.is_constant:
            raise ValueNeeded(view, function)
        return self.constant(function(view.numpy()), dtype)

    def run_key(self) -> View:
        """A uint64 of shape ``(1,)``, drawn at random for each run: an input that no caller feeds."""
        if self._run_key is None:
            self._run_key = self.new(DType.UINT64, (1,))
            self._run_key.storage.name = f"{self.prefix}key"
        return self._run_key

    def count_draw(self, source: object) -> int:
        """How often this was called for ``source`` before: tells repeated draws from one key apart."""
        self._draws[source] += 1
        return self._draws[source] - 1

    def new(self, dtype: DType, shape: Shape, order: tuple[int, ...] | None = None) -> View:
        """A view of a new storage; ``order`` lists the axes from outermost to innermost in memory."""
        size = checked_size(shape)
        return View(self._storage(dtype, size), 0, shape, ordered_strides(shape, order))

    def _storage(self, dtype: DType, size: int) -> Storage:
        self.storage_count += 1
        return Storage(dtype, size, f"{self.prefix}{self.storage_count}")

    def emit(self, primitive: Primitive, inputs: Sequence[View], outputs: Sequence[View]) -> tuple[View, ...]:
        """Appends an operation that writes ``outputs``, or evaluates it if all inputs are constants.

        Returns the outputs to use from now on. ``outputs`` must be views of new storages. No kernel works on
        strings: what an operation on them reads is asked for. Raises ``ValueError`` where operands do not
        fit: kernels would read and write what is not theirs.
        """
        if any(view.storage.dtype is DType.STRING for view in (*inputs, *outputs)):
            inputs = [view if view.is_constant else self.constant(self.value(view)) for view in inputs]
        operation = Operation(primitive, tuple(inputs), tuple(outputs), self.labels)
        check_operation(operation)
        return self._append(operation)

    def _append(self, operation: Operation) -> tuple[View, ...]:
        """:meth:`emit` for an operation that was checked."""
        if self._should_fold(operation.inputs, operation.outputs):
            return self._fold(operation.primitive, operation.inputs, operation.outputs)
        self.operations.append(operation)
        return operation.outputs

    def derive(
        self, function: Callable[..., tuple[View, ...]], views: Sequence[View], *arguments: Hashable
    ) -> tuple[View, ...]:
        """``function(self, *views, *arguments)``, which makes constants of constants and depends on no more.

        It is called once for all plans where ``views`` are constants of all of them.
        """
        if not all(view.storage.is_constant for view in views):
            return function(self, *views, *arguments)
        began, count = next(READS), self.storage_count
        made = self.pool.recall(
            (function, arguments, *views),
            views,
            lambda: function(self, *views, *arguments),
            lambda found: sum(view.storage.nbytes for view in found if view.storage.constant is not None),
        )
        # Names of storages are the same where it was called before.
        self.storage_count = count
        reads = next(READS) - began + 1
        self.derivations.append(Derivation(function, tuple(views), arguments, made, reads))
        return made

    def emit_into(self, primitive: Primitive, inputs: Sequence[View], target: View) -> None:
        """Appends an operation that writes ``target``, a view on a storage under construction."""
        operation = Operation(primitive, tuple(inputs), (target,), self.labels)
        check_operation(operation)
        self.operations.append(operation)

    def _should_fold(self, inputs: Sequence[View], outputs: Sequence[View]) -> bool:
        for view in inputs:
            if not view.storage.is_constant:
                return False
        limit = max(FOLD_LIMIT_BYTES, 2 * sum(view.storage.nbytes for view in inputs))
        return all(view.dtype is DType.STRING or view.size * view.dtype.itemsize <= limit for view in outputs)

    def _fold(
        self, primitive: Primitive, inputs: Sequence[View], outputs: Sequence[View]
    ) -> tuple[View, ...]:
        def compute() -> tuple[npt.NDArray[Any], ...]:
            shapes, dtypes = [view.shape for view in outputs], [view.dtype for view in outputs]
            return evaluate(primitive, [view.numpy() for view in inputs], shapes, dtypes)

        passing = any(view.storage.transient for view in inputs)
        if (
            passing
            or len(outputs) > 1
            or max(view.storage.nbytes for view in (*inputs, *outputs)) < MEMO_BYTES
        ):
            if len(outputs) == 1 and not passing and not self.transient:
                self._fold_count += 1
                key = self.node, self._fold_count, primitive, *inputs
                made = self.pool.fold(key, inputs, lambda: self.constant(compute()[0]).storage)
                return (View.dense(made, outputs[0].shape),)
            before, self.transient = self.transient, self.transient or passing
            results = tuple(self.constant(array) for array in compute())
            self.transient = before
            return results
        storage = self.pool.get(derived_key(repr(primitive), inputs), lambda: compute()[0], self.node)
        return (View.dense(storage, outputs[0].shape),)

    # Elementwise and reductions

    def scalar(self, op: str, *views: View) -> View:
        """One scalar operation, elementwise over broadcast views; ``op`` is a name of ``compiler.scalar``."""
        return self.map(scalar_expression(op, tuple(view.dtype for view in views)), *views)

    def map(self, body: Expression | Body, *views: View) -> View:
        """An elementwise expression of one output over views, broadcast by NumPy's rules."""
        return self.compute(body, views)[0]

    def reduce(self, kind: str, view: View, axes: tuple[int, ...], *, keepdims: bool) -> View:
        """``sum``, ``prod``, ``max`` or ``min`` over ``axes`` (not negative)."""
        result = self.compute(reduce_expression(kind, view.dtype), (view,), axes)[0]
        return result if keepdims else result.squeeze(axes)

    def compute(
        self, body: Expression | Body, views: Sequence[View], axes: tuple[int, ...] = (), shape: Shape = ()
    ) -> tuple[View, ...]:
        """A :class:`MapReduce` over ``views`` broadcast together (and with ``shape``), reducing ``axes``."""
        expression = body if isinstance(body, Expression) else trace(body, [view.dtype for view in views])
        layouts = tuple([(view.storage.dtype, view.shape, view.strides) for view in views])
        arranged = arrange(expression, layouts, axes, shape)
        primitive = arranged.primitive
        inputs = [
            view
            if view.shape == primitive.shape
            else View(view.storage, view.offset, primitive.shape, strides)
            for view, strides in zip(views, arranged.strides, strict=True)
        ]
        outputs = [
            View(self._storage(dtype, size), 0, extents, strides)
            for dtype, size, extents, strides in arranged.outputs
        ]
        if not arranged.is_checked:
            return self.emit(primitive, inputs, outputs)
        return self._append(Operation(primitive, tuple(inputs), tuple(outputs), self.labels))

    # Data movement

    def dense(self, view: View) -> View:
        """``view`` in row-major order, copied if it is not."""
        return view if view.is_dense else self.copy(view)

    def copy(self, view: View) -> View:
        """A row-major copy in a storage of its own."""
        target = self.new(view.dtype, view.shape)
        return self.emit(MapReduce(identity(view.dtype), view.shape), [view], [target])[0]

    def copy_into(self, view: View, target: View) -> None:
        """Writes ``view`` to ``target``, a view of equal shape on a storage under construction."""
        self.emit_into(MapReduce(identity(view.dtype), view.shape), [view], target)

    def fill_into(self, value: float | int | bool, target: View) -> None:
        """Writes ``value`` to all of ``target``, a view on a storage under construction."""
        self.emit_into(MapReduce(constant_expression(value, target.dtype), target.shape), [], target)

    def reshape(self, view: View, shape: Shape) -> View:
        """``view`` under another shape of equal size, copied where strides cannot express it."""
        reshaped = view.reshape(shape)
        if reshaped is None:
            reshaped = self.copy(view).reshape(shape)
            assert reshaped is not None
        return reshaped

    def cast(self, view: View, dtype: DType, *, saturate: bool = False) -> View:
        if view.dtype is dtype:
            return view
        return self.map(cast_expression(view.dtype, dtype, saturate), view)

    def concat(self, views: Sequence[View], axis: int) -> View:
        """The views one after the other along ``axis``."""
        extent = sum(view.shape[axis] for view in views)
        shape = (*views[0].shape[:axis], extent, *views[0].shape[axis + 1 :])
        if math.prod(shape) == 0:
            return self.constant(np.empty(shape, views[0].dtype.numpy))
        parts = [view for view in views if view.size]
        if len(parts) == 1:
            return parts[0]
        if all(view.is_constant for view in parts):
            return self.constant(np.concatenate([view.numpy() for view in parts], axis))
        largest = max(parts, key=lambda view: view.size)
        result = self.new(largest.dtype, shape, layout_order(largest.shape, [largest]))
        start = 0
        for view in parts:
            self.copy_into(view, result.slice(axis, start, view.shape[axis]))
            start += view.shape[axis]
        return result

    # Matrix product

    def matmul(self, a: View, b: View, out: DType | None = None) -> View:
        """``a (..., M, K) @ b (..., K, N)`` with NumPy's broadcasting of the leading axes.

        Both of rank 2 at least. The sum is accumulated as :class:`MatMul` says and cast to ``out``
        (default: the type of ``a``).
        """
        if a.shape[-1] != b.shape[-2]:
            raise ValueError(f"cannot multiply {list(a.shape)} by {list(b.shape)}")
        dtype = out or a.dtype
        primitive = MatMul(accumulator=WIDE_FLOATS.get(dtype, dtype))
        batch = broadcast_shapes([a.shape[:-2], b.shape[:-2]])
        rows, columns = a.shape[-2], b.shape[-1]
        folded = self._fold_batch(a, b)
        if folded is not None:
            left, right = folded
            result = self.emit(primitive, [left, right], [self.new(dtype, (left.shape[0], columns))])[0]
            return self.reshape(result, (*batch, rows, columns))
        left = a.expand(batch + a.shape[-2:])
        right = b.expand(batch + b.shape[-2:])
        return self.emit(primitive, [left, right], [self.new(dtype, (*batch, rows, columns))])[0]

    def _fold_batch(self, a: View, b: View) -> tuple[View, View] | None:
        """One large product instead of a batch, where ``b`` is the same for the whole batch."""
        if any(extent != 1 for extent in b.shape[:-2]):
            return None
        rows = math.prod(a.shape[:-1])
        flat = a.reshape((rows, a.shape[-1]))
        if flat is None:
            return None
        return flat, b.squeeze(tuple(range(b.rank - 2)))
