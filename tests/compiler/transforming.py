"""Before and after: programs as text, and the same results."""

import textwrap

import numpy as np

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.constant_pool import ConstantPool
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.evaluate import evaluate_program
from onnxplan.compiler.program import Program
from onnxplan.compiler.verify import verify_program


class Sketch(Builder):
    """A builder with named inputs and named constants of random elements."""

    def __init__(self):
        super().__init__(ConstantPool())
        self.inputs = {}
        self.random = np.random.default_rng(0)

    def input(self, name, *shape, dtype=DType.FLOAT32):
        view = self.new(dtype, shape)
        view.storage.name = name
        self.inputs[name] = view
        return view

    def weights(self, name, *shape, dtype=np.float32):
        view = self.constant(self.random.uniform(0.5, 1.5, shape).astype(dtype))
        view.storage.name = name
        return view

    def number(self, value, dtype=np.float32):
        view = self.constant(np.asarray(value, dtype))
        view.storage.name = "number"
        return view

    def program(self, **outputs):
        return Program(dict(self.inputs), outputs, self.operations)


def random_feeds(program):
    random = np.random.default_rng(1)
    return {
        name: (random.standard_normal(view.shape) * 3).astype(view.dtype.numpy)
        for name, view in program.inputs.items()
    }


def operations_text(program):
    return "\n".join(map(str, program.operations))


def transform(program, function, before, after):
    """Checks the operations' text before and after ``function``, and that results stay the same."""
    feeds = random_feeds(program)
    expected = evaluate_program(program, feeds)
    assert operations_text(program) == textwrap.dedent(before).strip()
    program = function(program)
    verify_program(program, "the pass")
    assert operations_text(program) == textwrap.dedent(after).strip()
    actual = evaluate_program(program, feeds)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-4, atol=1e-4)
    return program
