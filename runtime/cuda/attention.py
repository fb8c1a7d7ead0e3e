"""Attention of a plan by cuDNN.

cuDNN has two forms for it: one operation, with what is done to scores as a graph inside of it, in recent
versions, and a chain of products, pointwise operations and reductions, which its fused engines recognise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from onnxplan.compiler.errors import UnsupportedOperatorError
from onnxplan.compiler.plan import ExecutionPlan, Step
from onnxplan.compiler.records import dataclass
from onnxplan.runtime.cuda.cudnn import (
    CUDNN_DATA_BOOLEAN,
    CUDNN_DATA_FLOAT,
    CUDNN_DATA_INT32,
    CUDNN_POINTWISE_ADD,
    CUDNN_POINTWISE_BINARY_SELECT,
    CUDNN_POINTWISE_CMP_GE,
    CUDNN_POINTWISE_DIV,
    CUDNN_POINTWISE_EXP,
    CUDNN_POINTWISE_GEN_INDEX,
    CUDNN_POINTWISE_LOG,
    CUDNN_POINTWISE_MUL,
    CUDNN_POINTWISE_SUB,
    CUDNN_REDUCE_TENSOR_ADD,
    CUDNN_REDUCE_TENSOR_MAX,
    Attribute,
    Descriptor,
    Kind,
)
from onnxplan.runtime.cuda.operation_graph import (
    TYPES,
    Attributes,
    CudnnGraph,
    Tensor,
    check_alignment,
)

LEAST_VERSION = 91002
"""9.10.0 and 9.10.1 compute attention wrongly, earlier versions do not mask by minus infinity. Source of all
three versions: the support surface in https://github.com/NVIDIA/cudnn-frontend."""
ONE_OPERATION = 91301
"""The first version with one operation for attention."""
ONE_OPERATION_OF_SCORES = 92100
"""The first version in which that operation takes a graph for the scores, and mask and softmax are each one
operation of the chain, which later engines ask for."""

QUERIES, KEYS = 2, 3
"""Axes of the scores."""


@dataclass(frozen=True, slots=True)
class Attention:
    """``out = softmax(scale * q k + bias) v``, where ``causal`` queries see no later keys.

    All tensors are (batch, heads, tokens, width); heads of k and v serve as many neighbouring heads of q. The
    bias, of type ``bias_dtype``, is (batch, heads, queries, keys) or 1 where it does not vary.
    """

    dtype: str
    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    bias: Tensor | None
    bias_dtype: str
    scale: float
    causal: bool

    @staticmethod
    def of(step: Step, plan: ExecutionPlan) -> Attention:
        """The attention of a step of the family ``cudnn_attention``; see the contract of its variant."""
        variant: Any = step.kernel.variant
        causal, scale, *_ = variant
        read = [step.operands[number] for number in _operand_order(step)]
        check_alignment(read, plan)
        q, k, v, *bias, out = (Tensor.of(operand.shape, operand.strides) for operand in read)
        return Attention(
            read[0].dtype.label,
            q,
            k,
            v,
            out,
            bias[0] if bias else None,
            read[3].dtype.label if bias else "",
            scale,
            causal,
        )

    @property
    def scores(self) -> Tensor:
        return Tensor.packed((*self.q.shape[:3], self.k.shape[2]))

    def __str__(self) -> str:
        words = ["causal"] * self.causal + ["attention"] + ["with a bias"] * (self.bias is not None)
        return f"{' '.join(words)} of {self.dtype} {self.q.shape} to {self.k.shape}"


class BoundAttention(CudnnGraph):
    """An :class:`Attention` with the engine for it. Tensors in memory: q, k, v, the bias if any, out."""

    # What is fused uses matrix instructions, whether an engine notes it or not.
    needed_notes = frozenset()

    @staticmethod
    def describe(step: Step, plan: ExecutionPlan) -> Attention:
        return Attention.of(step, plan)

    @staticmethod
    def operand_order(step: Step) -> tuple[int, ...]:
        return _operand_order(step)

    def _graphs(self) -> Sequence[Callable[[], Descriptor]]:
        attention: Attention = self.problem
        version = self._library.version
        if version < LEAST_VERSION:
            raise UnsupportedOperatorError(f"cuDNN {version} is too old for the {attention}")
        plain = attention.bias is None and not attention.causal
        single = version >= (ONE_OPERATION if plain else ONE_OPERATION_OF_SCORES)
        return (*([self._one_operation] if single else []), self._chain)

    def _given(self, *, transposed: bool) -> _Given:
        """The descriptors of what is no result of an operation; virtual tensors have later numbers."""
        a: Attention = self.problem
        self._numbers = itertools.count(1)
        dtype = TYPES[a.dtype]
        keys = a.k.permuted((0, 1, 3, 2)) if transposed else a.k
        q, k, v = (self._tensor(next(self._numbers), tensor, dtype) for tensor in (a.q, keys, a.v))
        bias = None
        if a.bias is not None:
            bias = self._tensor(next(self._numbers), a.bias, TYPES[a.bias_dtype])
        out = self._tensor(next(self._numbers), a.out, dtype)
        scale = None if a.scale == 1 else self._scalar(next(self._numbers), a.scale)
        hidden = self._scalar(next(self._numbers), -math.inf) if a.causal else None
        return _Given(q, k, v, bias, out, scale, hidden)

    def _virtual(self, tensor: Tensor, dtype: int = CUDNN_DATA_FLOAT) -> tuple[int, Descriptor]:
        """What is between two operations, with its number."""
        number = next(self._numbers)
        return number, self._tensor(number, tensor, dtype, virtual=True)

    def _one_operation(self) -> Descriptor:
        """The graph of the one operation that says it all; keys are as they are, not transposed."""
        given = self._given(transposed=False)
        attributes: list[Attributes] = [
            (Attribute.OPERATION_SDPA_FWD_QDESC, (given.q,)),
            (Attribute.OPERATION_SDPA_FWD_KDESC, (given.k,)),
            (Attribute.OPERATION_SDPA_FWD_VDESC, (given.v,)),
            (Attribute.OPERATION_SDPA_FWD_ODESC, (given.out,)),
        ]
        if given.scale is not None:
            attributes.append((Attribute.OPERATION_SDPA_FWD_SCALEDESC, (given.scale,)))
        if given.bias is not None or given.hidden is not None:
            attributes += self._scores_graph(given)
        return self._operation_graph([self._make(Kind.OPERATION_SDPA_FWD, *attributes)])

    def _scores_graph(self, given: _Given) -> list[Attributes]:
        """What becomes of scores inside of the one operation."""
        scores = self.problem.scores
        first, value = self._virtual(scores)
        last, operations = first, []
        if given.bias is not None:
            last, result = self._virtual(scores)
            operations.append(self._pointwise(CUDNN_POINTWISE_ADD, (value, given.bias), result))
            value = result
        if given.hidden is not None:
            last, result = self._virtual(scores)
            operations.append(self._causal(value, given.hidden, result))
        return [
            (Attribute.OPERATION_SDPA_FWD_SUBGRAPH, (self._operation_graph(operations, inner=True),)),
            (Attribute.OPERATION_SDPA_FWD_SUBGRAPH_INPUT_UID, (first,)),
            (Attribute.OPERATION_SDPA_FWD_SUBGRAPH_OUTPUT_UID, (last,)),
        ]

    def _chain(self) -> Descriptor:
        """The graph of two products with a softmax between them, in all its steps in earlier versions."""
        a: Attention = self.problem
        short = self._library.version >= ONE_OPERATION_OF_SCORES
        given = self._given(transposed=True)
        operations: list[Descriptor] = []
        rows = Tensor.packed((*a.scores.shape[:3], 1))

        def then(
            mode: int,
            *operands: Descriptor,
            tensor: Tensor = a.scores,
            dtype: int = CUDNN_DATA_FLOAT,
            precision: int = CUDNN_DATA_FLOAT,
            axis: int | None = None,
        ) -> Descriptor:
            _, result = self._virtual(tensor, dtype)
            operations.append(self._pointwise(mode, operands, result, precision=precision, axis=axis))
            return result

        def reduced(operator: int, operand: Descriptor) -> Descriptor:
            _, result = self._virtual(rows)
            operations.append(self._reduction(operator, operand, result))
            return result

        _, value = self._virtual(a.scores)
        operations.append(self._product(given.q, given.k, value))
        if given.scale is not None:
            value = then(CUDNN_POINTWISE_MUL, value, given.scale)
        if given.bias is not None:
            value = then(CUDNN_POINTWISE_ADD, value, given.bias)
        if given.hidden is not None and short:
            _, result = self._virtual(a.scores)
            operations.append(self._causal(value, given.hidden, result))
            value = result
        elif given.hidden is not None:
            row, key = (
                then(CUDNN_POINTWISE_GEN_INDEX, value, dtype=CUDNN_DATA_INT32, axis=axis)
                for axis in (QUERIES, KEYS)
            )
            seen = then(
                CUDNN_POINTWISE_CMP_GE, row, key, dtype=CUDNN_DATA_BOOLEAN, precision=CUDNN_DATA_BOOLEAN
            )
            value = then(CUDNN_POINTWISE_BINARY_SELECT, value, given.hidden, seen)
        # The second product takes factors of one type.
        if short:
            _, weights = self._virtual(a.scores, TYPES[a.dtype])
            operations.append(self._softmax(value, weights))
        else:
            top = reduced(CUDNN_REDUCE_TENSOR_MAX, value)
            powers = then(CUDNN_POINTWISE_EXP, then(CUDNN_POINTWISE_SUB, value, top))
            total = reduced(CUDNN_REDUCE_TENSOR_ADD, powers)
            # Part of the chain that engines know, though nothing reads it here.
            logarithm = then(CUDNN_POINTWISE_LOG, total, tensor=rows)
            then(CUDNN_POINTWISE_ADD, top, logarithm, tensor=rows)
            weights = then(CUDNN_POINTWISE_DIV, powers, total, dtype=TYPES[a.dtype])
        operations.append(self._product(weights, given.v, given.out))
        return self._operation_graph(operations)

    def _causal(self, value: Descriptor, hidden: Descriptor, result: Descriptor) -> Descriptor:
        """Scores where a query is at or behind a key, else ``hidden``."""
        return self._make(
            Kind.OPERATION_DIAGONAL_BAND_MASK,
            (Attribute.OPERATION_DIAGONAL_BAND_MASK_XDESC, (value,)),
            (Attribute.OPERATION_DIAGONAL_BAND_MASK_BDESC, (hidden,)),
            (Attribute.OPERATION_DIAGONAL_BAND_MASK_YDESC, (result,)),
            (Attribute.OPERATION_DIAGONAL_BAND_MASK_COMPARISON_MODE, (CUDNN_POINTWISE_CMP_GE,)),
        )

    def _softmax(self, value: Descriptor, result: Descriptor) -> Descriptor:
        return self._make(
            Kind.OPERATION_SOFTMAX,
            (Attribute.OPERATION_SOFTMAX_XDESC, (value,)),
            (Attribute.OPERATION_SOFTMAX_YDESC, (result,)),
        )

    def _product(self, left: Descriptor, right: Descriptor, result: Descriptor) -> Descriptor:
        matmul = self._make(Kind.MATMUL, (Attribute.MATMUL_COMP_TYPE, (CUDNN_DATA_FLOAT,)))
        return self._make(
            Kind.OPERATION_MATMUL,
            (Attribute.OPERATION_MATMUL_ADESC, (left,)),
            (Attribute.OPERATION_MATMUL_BDESC, (right,)),
            (Attribute.OPERATION_MATMUL_CDESC, (result,)),
            (Attribute.OPERATION_MATMUL_DESC, (matmul,)),
        )

    def _reduction(self, operator: int, operand: Descriptor, result: Descriptor) -> Descriptor:
        reduction = self._make(
            Kind.REDUCTION,
            (Attribute.REDUCTION_COMP_TYPE, (CUDNN_DATA_FLOAT,)),
            (Attribute.REDUCTION_OPERATOR, (operator,)),
        )
        return self._make(
            Kind.OPERATION_REDUCTION,
            (Attribute.OPERATION_REDUCTION_DESC, (reduction,)),
            (Attribute.OPERATION_REDUCTION_XDESC, (operand,)),
            (Attribute.OPERATION_REDUCTION_YDESC, (result,)),
        )


@dataclass(frozen=True, slots=True)
class _Given:
    """Descriptors of tensors in memory, and of scalars: the scale where there is one, what hides a key."""

    q: Descriptor
    k: Descriptor
    v: Descriptor
    bias: Descriptor | None
    out: Descriptor
    scale: Descriptor | None
    hidden: Descriptor | None


def _operand_order(step: Step) -> tuple[int, ...]:
    """The numbers of q, k, v, the bias if any, and out; other operands are our own kernel's."""
    variant: Any = step.kernel.variant
    bias = variant[2]
    return (0, 1, 2, *((bias,) if bias else ()), step.outputs[0])
