"""Kernels are told as they are chosen, each once, and only while somebody listens."""

from __future__ import annotations

import onnx

from onnxplan.compiler.builder import ConstantPool
from onnxplan.compiler.importer import load_model
from onnxplan.compiler.lowering import lower
from onnxplan.compiler.pipeline import compile_program
from onnxplan.kernels.cpu.registry import CpuKernels
from onnxplan.runtime.cpu.target import detect_target
from onnxplan.runtime.telling_selector import TellingSelector


def plan(selector):
    model = load_model(
        onnx.parser.parse_model("""
            <ir_version: 10, opset_import: ["": 21]>
            chain (float[n, k] x) => (float[n] z) {
                a = Softmax(x)
                t = Transpose(a)
                s = Softmax(t)
                axes = Constant <value_ints = [0]> ()
                z = ReduceSum <keepdims = 0> (s, axes)
            }
        """)
    )
    pool = ConstantPool()
    program = lower(model, {"x": (5, 7)}, (), pool=pool).program
    return compile_program(program, selector, pool).plan


def test_each_kernel_is_told_once_and_the_plan_is_the_same():
    target = detect_target(1)
    told, listening = [], True
    selector = TellingSelector(CpuKernels(target), lambda: listening, told.append)
    expected = plan(CpuKernels(target))
    assert plan(selector) == expected
    assert plan(selector) == expected
    assert len(told) == len(set(told))
    assert set(told) == set(expected.kernels)
    assert selector.target == target
    told.clear()
    listening = False
    assert plan(TellingSelector(CpuKernels(target), lambda: listening, told.append)) == expected
    assert not told
