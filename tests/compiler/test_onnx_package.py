"""Reading models imports a part of the onnx package, and who imports it finds all of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

READ = """
import sys
from onnxplan.compiler.importer import load_model
load_model(bytes.fromhex(sys.argv[1]))
part = {name for name in sys.modules if name.startswith("onnx.")}
assert {"onnx.helper", "onnx.numpy_helper", "onnx.serialization"}.isdisjoint(part), part
"""
USES = (
    "import onnx; assert onnx.helper.make_node('Add', 'ab', 'c').op_type == 'Add'",
    "from onnx import helper, numpy_helper; helper.make_tensor",
    "import onnx.helper; onnx.helper.make_tensor",
    "import onnx; assert onnx.__version__.split('.')[0].isdigit()",
    "import onnx; assert onnx.ModelProto is onnx.onnx_ml_pb2.ModelProto",
    "from onnx import *; ModelProto, checker",
    "import onnx, importlib; importlib.reload(onnx); onnx.defs.onnx_opset_version()",
    "import onnx.reference; onnx.reference.ReferenceEvaluator",
    "import onnx, pickle; assert pickle.loads(pickle.dumps(onnx.helper.make_node)) is onnx.helper.make_node",
)
END = """
import onnx, types
assert type(onnx) is types.ModuleType and onnx is sys.modules["onnx"]
assert not [name for name in vars(onnx) if "onnxplan" in name]
assert not hasattr(onnx, "nothing")
"""
ABSENT = """
import onnx
try:
    onnx.nothing
except AttributeError as error:
    assert str(error) == "module 'onnx' has no attribute 'nothing'", error
else:
    raise AssertionError
"""
THREADS = """
import onnx, threading
found, start = [], threading.Barrier(4)
def use(names):
    start.wait()
    found.append([getattr(onnx, name) for name in names])
names = ["helper", "checker", "ModelProto", "__version__"]
threads = [threading.Thread(target=use, args=(names[at:] + names[:at],)) for at in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(found) == 4
"""


def run(program: str) -> None:
    from onnx import parser

    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        chain (float[n] x) => (float[n] z) { z = Relu(x) }
    """)
    command = [sys.executable, "-c", program, model.SerializeToString().hex()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("use", [*USES, ABSENT, THREADS])
def test_a_model_is_read_with_a_part_and_the_rest_is_there_when_it_is_used(use):
    run(READ + use + END)


def test_a_package_that_was_imported_before_is_left_alone():
    run("import sys, onnx; before = vars(onnx).copy()\n" + READ.replace("assert {", "{") + END)
