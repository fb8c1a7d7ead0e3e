"""IOBinding and runs from and to values, beside onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from both_modules import X, info, model, same
from onnx import TensorProto, helper

import onnxplan.onnxruntime

Y = np.ones(2, np.float32)


def sums():
    nodes = [helper.make_node("Add", ["x", "y"], ["z"]), helper.make_node("Relu", ["z"], ["r"])]
    return model(nodes, [info("x", ["n", 2]), info("y", [2])], [info("z", ["n", 2]), info("r", ["n", 2])])


def bound(ort, session=None):
    session = session or ort.InferenceSession(sums())
    binding = session.io_binding()
    binding.bind_cpu_input("x", X)
    binding.bind_cpu_input("y", Y)
    return session, binding


def test_outputs_in_the_order_of_binding():
    def call(ort):
        session, binding = bound(ort)
        binding.bind_output("r")
        binding.bind_output("z")
        session.run_with_iobinding(binding)
        values = binding.get_outputs()
        return (
            binding.copy_outputs_to_cpu(),
            [value.shape() for value in values],
            [v.device_name() for v in values],
        )

    same(call)


def test_later_runs_overwrite_outputs_and_read_inputs_in_place():
    def call(ort):
        x = X.copy()
        session = ort.InferenceSession(sums())
        binding = session.io_binding()
        binding.bind_cpu_input("x", x)
        binding.bind_cpu_input("y", Y)
        binding.bind_output("z")
        session.run_with_iobinding(binding)
        value, copied = binding.get_outputs()[0], binding.copy_outputs_to_cpu()[0]
        address = value.data_ptr()
        x += 10
        session.run_with_iobinding(binding)
        return value.numpy(), copied, binding.get_outputs()[0].data_ptr() == address

    same(call)


def test_outputs_of_another_shape_are_new_tensors():
    ort = onnxplan.onnxruntime
    session, binding = bound(ort)
    binding.bind_output("z")
    session.run_with_iobinding(binding)
    first = binding.get_outputs()[0]
    binding.bind_cpu_input("x", np.zeros((3, 2), np.float32))
    session.run_with_iobinding(binding)
    assert binding.get_outputs()[0].numpy().tolist() == [[1, 1]] * 3
    np.testing.assert_array_equal(first.numpy(), X + 1)


def test_outputs_that_become_inputs_are_not_overwritten_while_they_are_read():
    """Also where shapes stay, as those of states do."""
    ort = onnxplan.onnxruntime
    session, binding = bound(ort)
    binding.bind_output("z")
    for number in range(1, 4):
        session.run_with_iobinding(binding)
        np.testing.assert_array_equal(binding.get_outputs()[0].numpy(), X + number)
        binding.bind_ortvalue_input("x", binding.get_outputs()[0])


def test_memory_of_the_caller():
    def call(ort):
        session, binding = bound(ort)
        out, other = np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32)
        binding.bind_output("z", "cpu", 0, np.float32, (2, 2), out.ctypes.data)
        binding.bind_ortvalue_output("r", ort.OrtValue.ortvalue_from_numpy(other))
        session.run_with_iobinding(binding)
        same_place = binding.get_outputs()[0].data_ptr() == out.ctypes.data
        return out, other, same_place, binding.copy_outputs_to_cpu()

    same(call)


def test_addresses_of_inputs():
    def call(ort):
        session = ort.InferenceSession(sums())
        binding = session.io_binding()
        binding.bind_input("x", "cpu", 0, np.float32, [2, 2], X.ctypes.data)
        binding.bind_input("y", "cpu", 0, TensorProto.FLOAT, [2], Y.ctypes.data)
        binding.bind_output("z")
        session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()

    same(call)


def test_memory_that_is_not_aligned_or_overlaps_an_input():
    ort = onnxplan.onnxruntime
    session, binding = bound(ort)
    memory = np.zeros(17, np.uint8)
    start = memory.ctypes.data + (1 - memory.ctypes.data % 2)
    binding.bind_output("z", "cpu", 0, np.float32, (2, 2), start)
    session.run_with_iobinding(binding)
    offset = start - memory.ctypes.data
    np.testing.assert_array_equal(memory[offset : offset + 16].copy().view(np.float32), (X + 1).reshape(-1))
    x = X.copy()
    binding.bind_cpu_input("x", x)
    binding.bind_output("z", "cpu", 0, np.float32, (2, 2), x.ctypes.data)
    binding.bind_output("r")
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(x, X + 1)
    np.testing.assert_array_equal(binding.get_outputs()[1].numpy(), X + 1)


def run(session, binding):
    session.run_with_iobinding(binding)
    return binding.copy_outputs_to_cpu()


def wrong(change):
    def call(ort):
        session, binding = bound(ort)
        binding.bind_output("z")
        change(ort, session, binding)
        return run(session, binding)

    return call


SMALL = np.zeros((3, 2), np.float32)
WRONG = {
    "unknown input": lambda ort, s, b: b.bind_cpu_input("q", X),
    "unknown output": lambda ort, s, b: b.bind_output("q"),
    "list": lambda ort, s, b: b.bind_cpu_input("x", [[1, 2]]),
    "texts": lambda ort, s, b: b.bind_cpu_input("x", np.array(["a"])),
    "type": lambda ort, s, b: b.bind_cpu_input("x", X.astype(float)),
    "rank": lambda ort, s, b: b.bind_cpu_input("x", X[0]),
    "no inputs": lambda ort, s, b: b.clear_binding_inputs(),
    "no outputs": lambda ort, s, b: b.clear_binding_outputs(),
    "shape of the output": lambda ort, s, b: b.bind_output(
        "z", "cpu", 0, np.float32, (3, 2), SMALL.ctypes.data
    ),
    "type of the output": lambda ort, s, b: b.bind_output("z", "cpu", 0, np.int32, (2, 2), SMALL.ctypes.data),
    "address without shape": lambda ort, s, b: b.bind_output("z", "cpu", 0, None, None, SMALL.ctypes.data),
    "another session": lambda ort, s, b: ort.InferenceSession(sums()).run_with_iobinding(b),
    "device": lambda ort, s, b: b.bind_output("z", "foo"),
    "device of no session here": lambda ort, s, b: b.bind_output("z", "cuda"),
    "transposed": lambda ort, s, b: b.bind_cpu_input("x", X.T),
    "nothing": lambda ort, s, b: None,
    "synchronised": lambda ort, s, b: (b.synchronize_inputs(), b.synchronize_outputs()),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_binding(name):
    same(wrong(WRONG[name]))


def test_arrays_that_are_read_only_are_no_outputs():
    ort = onnxplan.onnxruntime
    _, binding = bound(ort)
    array = np.zeros((2, 2), np.float32)
    array.flags.writeable = False
    with pytest.raises(RuntimeError, match="read-only"):
        binding.bind_ortvalue_output("z", ort.OrtValue.ortvalue_from_numpy(array))


def test_values_in_and_out():
    def of(ort, array):
        return ort.OrtValue.ortvalue_from_numpy(array)

    for call in (
        lambda ort, s: [v.numpy() for v in s.run_with_ort_values(None, {"x": of(ort, X), "y": of(ort, Y)})],
        lambda ort, s: [
            v.device_name() for v in s.run_with_ort_values(["r"], {"x": of(ort, X), "y": of(ort, Y)})
        ],
        lambda ort, s: s.run_with_ort_values(None, {"x": X, "y": Y}),
        lambda ort, s: s.run_with_ort_values(None, {"x": of(ort, X)}),
        lambda ort, s: s.run_with_ort_values(["q"], {"x": of(ort, X), "y": of(ort, Y)}),
        lambda ort, s: s.run_with_ort_values(None, {"x": of(ort, X.astype(float)), "y": of(ort, Y)}),
        lambda ort, s: s.run(None, {"x": of(ort, X), "y": Y}),
        lambda ort, s: s.create_ortvalue_from_shape_and_type([2], np.float32, "cpu").shape(),
    ):
        same(lambda ort, call=call: call(ort, ort.InferenceSession(sums())))


def test_vectors_in_and_out():
    def call(ort):
        state = ort.capi.onnxruntime_pybind11_state
        feeds, fetches = state.OrtValueVector(), state.OrtValueVector()
        for array in (X, Y):
            feeds.push_back(ort.OrtValue.ortvalue_from_numpy(array)._ortvalue)
        session = ort.InferenceSession(sums())
        devices = [ort.OrtDevice.make("cpu", 0)._get_c_device()] * 2
        session.run_with_ortvaluevector(ort.RunOptions(), ["x", "y"], feeds, ["r", "z"], fetches, devices)
        return [value.numpy() for value in fetches]

    same(call)


def test_runs_that_course_depends_on_data_are_bound():
    nodes = [helper.make_node("NonZero", ["x"], ["i"]), helper.make_node("Neg", ["x"], ["z"])]
    content = model(nodes, [info("x", ["n"])], [info("i", [1, None], 7), info("z", ["n"])])

    def call(ort):
        session = ort.InferenceSession(content)
        binding = session.io_binding()
        binding.bind_cpu_input("x", np.array([0, 2, 3], np.float32))
        binding.bind_output("i")
        binding.bind_output("z")
        session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()

    same(call)
