"""What plans of a model share: made once, bounded, and forgotten with the constants that it hangs on."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from onnxplan.compiler import constant_pool
from onnxplan.compiler.builder import Builder
from onnxplan.compiler.constant_pool import ConstantPool
from onnxplan.compiler.importer import load_model
from onnxplan.compiler.lowering import lower
from onnxplan.compiler.view import View


def lasting(pool, values=(1.0, 2.0)):
    return View.dense(pool.get("weights", lambda: np.array(values, np.float32)), (len(values),))


def test_what_is_found_out_about_shared_constants_is_computed_once():
    pool, made = ConstantPool(), []
    view = lasting(pool)
    for _ in range(3):
        assert pool.recall(("key", view), [view], lambda: made.append(1) or "found", len) == "found"
    assert len(made) == 1


def test_what_hangs_on_the_constants_of_one_plan_is_not_kept():
    pool, made = ConstantPool(), []
    view = Builder(pool).constant([1.0])
    for _ in range(3):
        pool.recall(("key", view), [lasting(pool), view], lambda: made.append(1) or "found", len)
    assert len(made) == 3


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(constant_pool, "RECALLED_BYTES", 3 * constant_pool.RECALLED_ENTRY_BYTES)
    pool, made = ConstantPool(), []
    for _ in range(2):
        for number in range(5):
            pool.recall(number, [lasting(pool)], lambda: made.append(1) or "found", lambda _: 0)
    assert len(made) == 5 + 2


def test_dropped_constants_take_with_them_what_was_made_of_them():
    pool, made = ConstantPool(), []
    key = "key", lasting(pool)
    pool.recall(key, [lasting(pool)], lambda: made.append(1) or "found", len)
    pool.keep_only([])
    pool.recall(key, [lasting(pool)], lambda: made.append(1) or "found", len)
    assert len(made) == 2


def model(*nodes):
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])]
    outputs = [helper.make_empty_tensor_value_info("y")]
    graph = helper.make_graph(nodes, "graph", inputs, outputs)
    return load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


CONSTANT = helper.make_node("Constant", [], ["c"], value_floats=[1.0, 2.0])


def test_nodes_of_constants_are_lowered_once_for_all_shapes():
    pool = ConstantPool()
    graph = model(CONSTANT, helper.make_node("Neg", ["c"], ["n"]), helper.make_node("Add", ["x", "n"], ["y"]))
    programs = [str(lower(graph, {"x": (batch, 2)}, pool=pool).program) for batch in (1, 2, 1)]
    assert [node.op_type for node in pool.settled] == ["Constant", "Neg"]
    assert programs[0] == programs[2] == str(lower(graph, {"x": (1, 2)}).program)
    assert programs[1] == str(lower(graph, {"x": (2, 2)}).program)


def test_random_numbers_differ_between_nodes_whatever_was_lowered_before():
    pool = ConstantPool()
    draw = [
        helper.make_node("RandomUniform", [], [name], shape=[2], seed=3.0, name=name) for name in ("r", "s")
    ]
    graph = model(
        *draw,
        helper.make_node("Sub", ["r", "s"], ["d"]),
        helper.make_node("Add", ["x", "d"], ["y"]),
    )
    programs = [lower(graph, {"x": (1, 2)}, pool=pool).program for _ in range(2)]
    alone = lower(graph, {"x": (1, 2)}).program
    constants = [
        [view.numpy().tolist() for op in each.operations for view in op.inputs if view.is_constant]
        for each in (*programs, alone)
    ]
    assert constants[0] == constants[1] == constants[2]
    assert any(any(values) for values in constants[0])
