"""The program verifier: it passes what is right and names the pass and the fault of what is not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import CompilerError
from onnxplan.compiler.expression import Expression, Instruction, constant, identity
from onnxplan.compiler.primitives import (
    ArgReduce,
    Attention,
    Conv,
    Gather,
    GatherElements,
    GatherReduce,
    MapReduce,
    MatMul,
    Pool,
    Primitive,
    Recurrent,
    Reinterpret,
    Resample,
    ResamplePlane,
    Scan,
    Scatter,
    Sort,
)
from onnxplan.compiler.program import Operation, Program
from onnxplan.compiler.verify import verify_program
from onnxplan.compiler.view import Storage, View, dense_strides

F32, F64, I32, I64, BOOL, STRING = (
    DType.FLOAT32,
    DType.FLOAT64,
    DType.INT32,
    DType.INT64,
    DType.BOOL,
    DType.STRING,
)


def dense(name, shape, dtype=F32):
    return View.dense(Storage(dtype, int(np.prod(shape, dtype=np.int64)), name), shape)


def program_of(primitive, inputs, outputs):
    """One operation between dense operands, given as ``(shape, dtype)`` or a shape of float32."""

    def views(prefix, operands):
        pairs = [o if isinstance(o[-1], DType) else (o, F32) for o in operands]
        return [dense(f"{prefix}{i}", shape, dtype) for i, (shape, dtype) in enumerate(pairs)]

    sources, targets = views("x", inputs), views("y", outputs)
    return Program(
        {view.storage.name: view for view in sources},
        {view.storage.name: view for view in targets},
        [Operation(primitive, tuple(sources), tuple(targets))],
    )


def apply(op, dtype, result=None, arity=1):
    leaves = tuple(Instruction("input", (i,), dtype) for i in range(arity))
    return Expression((*leaves, Instruction(op, tuple(range(arity)), result or dtype)), (arity,))


def refused(program, text):
    with pytest.raises(CompilerError, match=f"after fuse.*{text}"):
        verify_program(program, "fuse")


ADD = apply("add", F32, arity=2)
POOL = Pool("max", (3,), (2,), (1,), (1,))
CONV = Conv((1,), (1,), (1,), 2, F32)
LSTM = Recurrent("lstm", False, (("Sigmoid", 0.0, 0.0), ("Tanh", 0.0, 0.0), ("Tanh", 0.0, 0.0)))
LSTM_INPUTS = [(5, 2, 12), (3, 12), (2, 3), ((2,), I32), (2, 3), (3, 3)]

RIGHT = [
    (MapReduce(ADD, (2, 3)), [(2, 3), (2, 3)], [(2, 3)]),
    (MapReduce(apply("reduce_sum", F32), (2, 3), (1,)), [(2, 3)], [(2, 1)]),
    (MapReduce(apply("less", F32, BOOL, 2), (4,)), [(4,), (4,)], [((4,), BOOL)]),
    (MapReduce(identity(STRING), (4,)), [((4,), STRING)], [((4,), STRING)]),
    (MapReduce(Expression((Instruction("index", (0,), I64),), (0,)), (4,)), [], [((4,), I64)]),
    (Reinterpret(), [(3, 4)], [((3, 4), I32)]),
    (MatMul(F32), [(2, 3, 4), (2, 4, 5)], [(2, 3, 5)]),
    (MatMul(I32, apply("cast", I32, F32)), [((3, 4), DType.UINT8), ((4, 5), DType.INT8)], [(3, 5)]),
    (MatMul(F32, ADD), [(3, 4), (4, 5), (3, 5)], [(3, 5)]),
    (Attention(F32), [(2, 3, 4), (2, 4, 5), (2, 5, 6)], [(2, 3, 6)]),
    (Attention(F32, ADD, "masked"), [(3, 4), (4, 5), (5, 6), (3, 5)], [((3, 6), DType.FLOAT16)]),
    (CONV, [(1, 9, 4), (3, 2, 6)], [(1, 9, 6)]),
    (POOL, [(1, 9, 4)], [(1, 5, 4), ((1, 5, 4), I64)]),
    (Gather(1), [(2, 3, 4), ((5, 6), I32)], [(2, 5, 6, 4)]),
    (GatherElements(1), [(2, 3, 4), ((2, 6, 3), I32)], [(2, 6, 3)]),
    (GatherReduce(), [(9, 4), ((5, 2), I64), (5, 2)], [(5, 4)]),
    (Scatter("add"), [(9, 4), ((5,), I64), (5, 4)], [(9, 4)]),
    (Sort(1), [(3, 4)], [(3, 2), ((3, 2), I64)]),
    (ArgReduce("max", 0), [(3, 4)], [((1, 4), I64)]),
    (Scan("sum", 1), [(3, 4)], [(3, 4)]),
    (Resample(1), [(3, 4), ((5, 2), I32), (5, 2)], [(3, 5)]),
    (ResamplePlane(0), [(3, 4), ((5, 2), I32), (5, 2), ((9, 3), I32), (9, 3)], [(5, 9)]),
    (LSTM, LSTM_INPUTS, [(5, 2, 3), (2, 3), (2, 3)]),
]


@pytest.mark.parametrize(("primitive", "inputs", "outputs"), RIGHT, ids=lambda value: type(value).__name__)
def test_right_programs_pass(primitive, inputs, outputs):
    verify_program(program_of(primitive, inputs, outputs), "lowering")


WRONG = [
    (MapReduce(ADD, (2, 3)), [(2, 3), (2, 1)], [(2, 3)], "input 1 has shape"),
    (MapReduce(ADD, (2, 3)), [(2, 3)], [(2, 3)], "no operand 1 of 1"),
    (MapReduce(ADD, (2, 3)), [(2, 3), ((2, 3), F64)], [(2, 3)], "is float32, operand 1 float64"),
    (MapReduce(ADD, (2, 3)), [(2, 3), (2, 3)], [((2, 3), F64)], "output 0 is float64, not float32"),
    (MapReduce(ADD, (2, 3)), [(2, 3), (2, 3)], [(2, 3), (2, 3)], "2 outputs, not 1"),
    (MapReduce(apply("reduce_sum", F32), (2, 3), (1,)), [(2, 3)], [(2, 3)], "output 0 has shape"),
    (MapReduce(apply("reduce_sum", F32), (2, 3), (2,)), [(2, 3)], [(2, 3)], "reduced axes"),
    (MapReduce(apply("reduce_sum", F32), (2, 3), (1, 1)), [(2, 3)], [(2, 1)], "reduced axes"),
    (MapReduce(apply("sqrt", I32), (4,)), [((4,), I32)], [((4,), I32)], "sqrt.* of int32"),
    (MapReduce(apply("add", F32), (4,)), [(4,)], [(4,)], "has 1 arguments, not 2"),
    (MapReduce(apply("frobnicate", F32), (4,)), [(4,)], [(4,)], "no scalar operation"),
    (MapReduce(apply("less", F32, F32, 2), (4,)), [(4,), (4,)], [(4,)], "is float32, not bool"),
    (MapReduce(apply("select", F32, F32, 3), (4,)), [(4,)] * 3, [(4,)], "chooses by float32"),
    (MapReduce(apply("cast", STRING, F32), (4,)), [((4,), STRING)], [(4,)], "cast.* of string"),
    (
        MapReduce(Expression((Instruction("index", (1,), I64),), (0,)), (4,)),
        [],
        [((4,), I64)],
        "no axis 1",
    ),
    (MapReduce(Expression((Instruction("neg", (0,), F32),), (0,)), (4,)), [], [(4,)], "not precede"),
    (
        MapReduce(Expression((Instruction("constant", (), F32, 3),), (0,)), (4,)),
        [],
        [(4,)],
        "not a hexadecimal",
    ),
    (MapReduce(Expression((constant(300, DType.UINT8),), (0,)), (4,)), [], [((4,), DType.UINT8)], "range"),
    (MapReduce(Expression((constant(1, F32),), ()), (4,)), [], [], "has no outputs"),
    (MapReduce(Expression((constant(1, F32),), (1,)), (4,)), [], [(4,)], "no instruction"),
    (MatMul(F32), [(3, 4), (5, 6)], [(3, 6)], "input 1 has shape"),
    (MatMul(F32), [(3, 4), (4, 6), (3, 6)], [(3, 6)], "3 inputs.*not 2"),
    (MatMul(F32), [(4,), (4,)], [(1,)], "rank 1"),
    (Attention(F32), [(3, 4), (5, 5), (5, 6)], [(3, 6)], "input 1 has shape"),
    (Attention(F32), [(3, 4), (4, 5), (6, 6)], [(3, 6)], "input 1 has shape"),
    (Attention(F32), [(3, 4), (4, 5), (5, 6)], [(3, 5)], "output 0 has shape"),
    (Attention(F32), [(3, 4), (4, 5)], [(3, 6)], "2 inputs, not 3"),
    (Attention(F32), [(3, 4), (4, 5), (5, 6), (3, 5)], [(3, 6)], "1 extras without score"),
    (Attention(F32, ADD), [(3, 4), (4, 5), (5, 6), (3, 1)], [(3, 6)], "extra 0 has shape"),
    (Attention(F64, ADD), [(3, 4), (4, 5), (5, 6), (3, 5)], [(3, 6)], "is float32, operand 0 float64"),
    (Attention(I32), [(3, 4), (4, 5), (5, 6)], [(3, 6)], "sums in int32"),
    (Attention(F32, softmax="soft"), [(3, 4), (4, 5), (5, 6)], [(3, 6)], "softmax soft"),
    (Attention(F32, apply("reduce_sum", F32)), [(3, 4), (4, 5), (5, 6)], [(3, 6)], "no reduction"),
    (MatMul(F32, ADD), [(3, 4), (4, 5), (1, 5)], [(3, 5)], "extra 0 has shape"),
    (MatMul(F32, apply("reduce_sum", F32)), [(3, 4), (4, 5)], [(3, 5)], "no reduction"),
    (CONV, [(1, 9, 4), (3, 4, 6)], [(1, 9, 6)], "in 2 groups"),
    (CONV, [(1, 9, 4), (3, 2, 5)], [(1, 9, 5)], "5 output channels"),
    (CONV, [(1, 9, 9, 4), (3, 3, 2, 6)], [(1, 9, 9, 6)], "1 strides of 2"),
    (POOL, [(1, 9, 4)], [(1, 5, 3)], "output 0 has shape"),
    (POOL, [(1, 9, 4)], [(1, 5, 4), ((1, 5, 4), I32)], "output 1 is int32"),
    (dataclasses.replace(POOL, kind="lp"), [(1, 9, 4)], [(1, 5, 4)], "kind lp"),
    (dataclasses.replace(POOL, strides=(0,)), [(1, 9, 4)], [(1, 5, 4)], "strides"),
    (Reinterpret(), [(3, 4)], [((3, 4), I64)], "float32 as int64, which differ in size"),
    (Reinterpret(), [((3, 4), STRING)], [((3, 4), I64)], "string as int64"),
    (Reinterpret(), [(3, 4)], [((4, 3), I32)], "output 0 has shape"),
    (Gather(1), [(2, 3, 4), ((5,), F32)], [(2, 5, 4)], "indices are float32"),
    (Gather(3), [(2, 3, 4), ((5,), I64)], [(2, 3, 4, 5)], "axis 3 of rank 3"),
    (Gather(0), [(2, 3, 4), ((5,), I64)], [(2, 3, 4)], "output 0 has shape"),
    (GatherReduce(), [(9, 4), ((5, 2), I64), (5, 3)], [(5, 4)], "weights has shape"),
    (GatherReduce("min"), [(9, 4), ((5, 2), I64), (5, 2)], [(5, 4)], "kind min"),
    (Scatter(), [(9, 4), ((5,), I32), (5, 4)], [(9, 4)], "positions is int32"),
    (Scatter(), [(9, 4), ((5,), I64), (4, 4)], [(9, 4)], "updates has shape"),
    (Scatter("sub"), [(9, 4), ((5,), I64), (5, 4)], [(9, 4)], "kind sub"),
    (Sort(1), [(3, 4)], [(3, 5), ((3, 5), I64)], "5 elements of 4"),
    (Sort(1), [(3, 4)], [(3, 2), ((3, 2), I32)], "output 1 is int32"),
    (ArgReduce("max", 0), [(3, 4)], [((3, 1), I64)], "output 0 has shape"),
    (ArgReduce("sum", 0), [(3, 4)], [((1, 4), I64)], "kind sum"),
    (Scan("sum", 1), [(3, 4)], [((3, 4), F64)], "output 0 is float64"),
    (Scan("sum", 0), [((3,), BOOL)], [((3,), BOOL)], "input 0 is bool"),
    (Resample(1), [(3, 4), ((5, 2), I64), (5, 2)], [(3, 5)], "positions is int64"),
    (Resample(1), [(3, 4), ((5, 2), I32), (5, 3)], [(3, 5)], "weights has shape"),
    (ResamplePlane(1), [(3, 4), *([((5, 2), I32), (5, 2)] * 2)], [(5, 5)], "axis 1 of 2"),
    (ResamplePlane(0), [(3, 4), *([((5, 2), I32), (5, 2)] * 2)], [(3, 5)], "output 0 has shape"),
    (LSTM, LSTM_INPUTS[:5], [(5, 2, 3), (2, 3), (2, 3)], "5 inputs, not 6"),
    (LSTM, LSTM_INPUTS, [(5, 2, 3), (2, 3)], "2 outputs, not 3"),
    (
        dataclasses.replace(LSTM, activations=()),
        LSTM_INPUTS,
        [(5, 2, 3), (2, 3), (2, 3)],
        "activations",
    ),
    (Primitive(), [(3,)], [(3,)], "has no check"),
]


@pytest.mark.parametrize(("primitive", "inputs", "outputs", "text"), WRONG)
def test_wrong_operations_are_named(primitive, inputs, outputs, text):
    refused(program_of(primitive, inputs, outputs), text)


def copy(source, target):
    return Operation(MapReduce(identity(source.dtype), source.shape), (source,), (target,))


@pytest.mark.parametrize(
    ("offset", "strides"), [(1, (3, 1)), (0, (4, 1)), (-1, (3, 1)), (2, (3, -2)), (0, (3,))]
)
def test_views_must_lie_inside_of_their_storage(offset, strides):
    storage = Storage(F32, 6, "x")
    program = Program({"x": View.dense(storage, (6,))}, {})
    target = dense("y", (2, 3))
    program.operations.append(copy(View(storage, offset, (2, 3), strides), target))
    program.outputs["y"] = target
    refused(program, "spans elements|extents")


def test_views_of_no_elements_lie_anywhere():
    storage = Storage(F32, 0, "x")
    target = dense("y", (0, 3))
    source = View(storage, 5, (0, 3), (3, 1))
    verify_program(Program({"x": View.dense(storage, (0,))}, {"y": target}, [copy(source, target)]), "fuse")


@pytest.mark.parametrize("columns", [3, 20000])
def test_a_storage_is_written_whole_before_it_is_read(columns):
    x, whole, y = dense("x", (columns,)), Storage(F32, 2 * columns, "t"), dense("y", (2 * columns,))
    left, right = View(whole, 0, (columns,), (1,)), View(whole, columns, (columns,), (1,))
    operations = [copy(x, left), copy(x, right), copy(View.dense(whole, (2 * columns,)), y)]
    verify_program(Program({"x": x}, {"y": y}, operations), "fuse")
    refused(Program({"x": x}, {"y": y}, operations[1:]), f"of which {columns} of {2 * columns}")
    refused(Program({"x": x}, {"y": y}, operations[2:]), "nothing has written")
    refused(Program({"x": x}, {"y": y}, [operations[0], operations[2], operations[1]]), "of which")
    refused(Program({"x": x}, {"y": y}, [*operations, operations[1]]), "which was read before")
    refused(
        Program({"x": x}, {"t": View.dense(whole, (2 * columns,))}, operations[:1]), "output 't'.*of which"
    )


def test_interleaved_parts_cover_a_small_storage():
    x, whole = dense("x", (3,)), Storage(F32, 6, "t")
    even, odd = View(whole, 0, (3,), (2,)), View(whole, 5, (3,), (-2,))
    outputs = {"t": View.dense(whole, (6,))}
    verify_program(Program({"x": x}, outputs, [copy(x, even), copy(x, odd)]), "fuse")
    refused(Program({"x": x}, outputs, [copy(x, even), copy(x, even)]), "3 of 6")


def test_inputs_and_constants_are_not_written():
    x, y = dense("x", (3,)), dense("y", (3,))
    refused(Program({"x": x, "y": y}, {"y": y}, [copy(x, y)]), "writes the input 'y'")
    fixed = View.dense(Storage(F32, 3, "c", np.zeros(3, np.float32)), (3,))
    refused(Program({"x": x}, {"c": fixed}, [copy(x, fixed)]), "writes the constant 'c'")
    refused(Program({"c": fixed}, {"c": fixed}), "input 'c' is a constant")
    verify_program(Program({}, {"y": y}, [copy(fixed, y)]), "fuse")


def test_constants_hold_what_their_storage_says():
    y = dense("y", (3,))
    for data in (np.zeros(4, np.float32), np.zeros((3, 1), np.float32), np.zeros(3)):
        fixed = View.dense(Storage(F32, 3, "c", data), (3,))
        refused(Program({}, {"y": y}, [copy(fixed, y)]), "constant 'c'")


def test_an_operation_writes_no_element_twice_and_not_what_it_reads():
    x, storage = dense("x", (2, 3)), Storage(F32, 3, "t")
    spread = View(storage, 0, (2, 3), (0, 1))
    refused(Program({"x": x}, {"t": View.dense(storage, (3,))}, [copy(x, spread)]), "more than once")
    t = dense("t", (2, 3))
    refused(Program({"x": x}, {"t": t}, [copy(x, t), copy(t, t)]), "which was read before")


def test_inputs_are_dense_views_of_whole_storages():
    storage = Storage(F32, 6, "x")
    for view in (
        View(storage, 0, (3,), (1,)),
        View(storage, 0, (3, 2), (1, 3)),
        View(storage, 5, (6,), (-1,)),
    ):
        refused(Program({"x": view}, {}), "not the dense view")
    assert View(storage, 0, (2, 3), dense_strides((2, 3))).is_dense
