"""What plans share never changes them: each is the one that is made for its shapes alone.

Plans of a model share its constant pool, and all plans of a process the results of pure functions.
"""

from __future__ import annotations

import functools
import gc
import sys

import numpy as np
import onnx.parser
import pytest
from hypothesis import HealthCheck, given, seed, settings

from onnxplan.compiler.arrangement import arrange
from onnxplan.compiler.builder import Builder
from onnxplan.compiler.constant_pool import ConstantPool
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import OnnxPlanError
from onnxplan.compiler.importer import load_model
from onnxplan.compiler.lowering import lower
from onnxplan.compiler.passes.composition import _follow
from onnxplan.compiler.pipeline import compile_program
from onnxplan.kernels.cpu.registry import CpuKernels
from onnxplan.runtime.cpu.target import detect_target
from tests.fuzz.graphs import programs
from tests.models.light_networks import softened, with_random_weights

NETWORKS = ("resnet50", "shufflenet", "squeezenet")
BATCHES = (1, 3, 2, 1)
SLICES, COUNT = 4, 25
CACHE = functools._lru_cache_wrapper
SELECTOR = CpuKernels(detect_target(2))


def planned(model, shapes, pool):
    return compile_program(lower(model, shapes, pool=pool).program, SELECTOR, pool)


def caches():
    """The caches of results in the compiler's modules and their classes.

    Looked for where they are defined: a walk over all objects of a process that collected every test takes a
    hundred times as long.
    """
    modules = [module for name, module in sys.modules.items() if name.startswith("onnxplan.compiler.")]
    scopes = [vars(module) for module in modules]
    scopes += [vars(found) for scope in scopes for found in scope.values() if isinstance(found, type)]
    found = {item for scope in scopes for item in scope.values() if isinstance(item, CACHE)}
    return {cache for cache in found if cache.__module__.startswith("onnxplan.compiler.")}


def forget():
    """Empties all caches of results in the compiler; returns how many were in use."""
    own = caches()
    used = sum(cache.cache_info().currsize > 0 for cache in own)
    for cache in own:
        cache.cache_clear()
    return used


def check(model, requests, pool):
    """Plans made one after the other are those that are made with nothing to remember."""
    found = [planned(model, shapes, pool) for shapes in requests]
    for compiled, shapes in zip(found, requests, strict=True):
        assert forget()
        alone = planned(model, shapes, ConstantPool())
        assert compiled.plan == alone.plan
        assert compiled.plan.to_json() == alone.plan.to_json()
        for constant, one, other in zip(
            compiled.plan.constants, compiled.constants, alone.constants, strict=True
        ):
            same = one.view(np.uint8), other.view(np.uint8)
            assert one.shape == other.shape
            assert np.array_equal(*same), constant.name


def scaled(shapes, batch):
    """The shapes with their first extents ``batch`` times as large."""
    return {name: (batch * shape[0], *shape[1:]) if shape else () for name, shape in shapes.items()}


def has_plan(model, shapes):
    """Many models are for one shape only; what data decides has no plan without a run."""
    try:
        return lower(model, shapes).final
    except OnnxPlanError:
        return False


@pytest.mark.parametrize("name", NETWORKS)
def test_batches_of_light_networks(name):
    model = load_model(softened(with_random_weights(name)))
    shapes = {value.name: value.type.shape for value in model.graph.inputs if value.default is None}
    pool = ConstantPool()
    assert has_plan(model, shapes)
    check(model, [scaled(shapes, batch) for batch in BATCHES if has_plan(model, scaled(shapes, batch))], pool)
    kept = pool.nbytes, len(pool._recalled), len(pool.lowered)
    check(model, [shapes], pool)
    assert (pool.nbytes, len(pool._recalled), len(pool.lowered)) == kept


LAYER = """
    q# = MatMul(x#, wq#)   k# = MatMul(x#, wk#)   v# = MatMul(x#, wv#)
    shape# = Shape(x#)
    b# = Gather(shape#, zero)   n# = Gather(shape#, one)
    split# = Concat<axis = 0>(b#, n#, heads)   whole# = Concat<axis = 0>(b#, n#, width)
    qs# = Reshape(q#, split#)   ks# = Reshape(k#, split#)   vs# = Reshape(v#, split#)
    qt# = Transpose<perm = [0, 2, 1, 3]>(qs#)   kt# = Transpose<perm = [0, 2, 3, 1]>(ks#)
    vt# = Transpose<perm = [0, 2, 1, 3]>(vs#)
    s# = MatMul(qt#, kt#)   d# = Div(s#, root)   p# = Softmax<axis = -1>(d#)   o# = MatMul(p#, vt#)
    ot# = Transpose<perm = [0, 2, 1, 3]>(o#)   or# = Reshape(ot#, whole#)
    y# = MatMul(or#, wo#)   r# = Add(y#, x#)   l# = LayerNormalization<axis = -1>(r#, scale)
    f# = MatMul(l#, wf#)   e# = Erf(f#)   g# = Mul(f#, e#)   h# = MatMul(g#, wg#)
    j# = Add(h#, l#)   x@ = LayerNormalization<axis = -1>(j#, scale)
"""


def transformer(layers):
    """Equal layers of attention and a feed-forward net, which take batches and lines of any length."""
    text = "".join(LAYER.replace("#", str(n)).replace("@", str(n + 1)) for n in range(layers))
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> '
        f"net (float[b, n, 32] x0) => (float[b, n, 32] x{layers}) {{{text}}}"
    )
    generator = np.random.default_rng(0)
    constants = {
        "zero": np.array([0]), "one": np.array([1]), "heads": np.array([4, 8]), "width": np.array([32]),
        "root": np.array(8**0.5, np.float32), "scale": np.ones(32, np.float32),
    }  # fmt: skip
    for number in range(layers):
        for name in ("wq", "wk", "wv", "wo", "wf", "wg"):
            constants[f"{name}{number}"] = generator.standard_normal((32, 32)).astype(np.float32)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in constants.items()
    )
    return model


def test_no_cache_is_overlooked():
    planned(load_model(transformer(1)), {"x0": (2, 5, 32)}, ConstantPool())
    gc.unfreeze()
    # By their own types: what a weak proxy stands for may be gone.
    alive = [found for found in gc.get_objects() if issubclass(type(found), CACHE)]
    gc.freeze()
    assert {cache for cache in alive if cache.__module__.startswith("onnxplan.compiler.")} == caches()


def test_shapes_of_a_transformer():
    model = load_model(transformer(3))
    shapes = ((1, 7, 32), (3, 7, 32), (3, 1, 32), (2, 16, 32), (1, 1, 32), (0, 7, 32), (1, 7, 32))
    check(model, [{"x0": shape} for shape in shapes], ConstantPool())


def test_layers_of_a_transformer_ask_the_same():
    """What is found out about the layouts of one layer serves the others, and the same layouts later."""
    counts = {}
    for layers in (2, 6):
        forget()
        model = load_model(transformer(layers))
        planned(model, {"x0": (2, 5, 32)}, ConstantPool())
        counts[layers] = arrange.cache_info().misses, _follow.cache_info().misses
    assert counts[6] == counts[2]
    assert min(counts[6]) > 0


def test_equal_shapes_in_other_memory_order():
    """The same map of tensors of the same shapes that lie otherwise, where the process met one before."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[n, m, k] x, float[m] w) => (float[n, m, k] a, float[k, m, n] b) {
        a = Add(x, x)   t = Transpose<perm = [2, 1, 0]>(x)   b = Add(t, t)
    }"""
    model = load_model(onnx.parser.parse_model(text))
    shapes = {"x": (3, 3, 3), "w": (3,)}
    b = Builder()
    x = b.new(DType.FLOAT32, (3, 3, 3))
    assert b.scalar("neg", x).strides == (9, 3, 1)
    assert b.scalar("neg", x.transpose((2, 1, 0))).strides == (1, 3, 9)
    assert b.scalar("neg", x.transpose((1, 0, 2))).strides == (3, 9, 1)
    check(model, [shapes, {"x": (3, 2, 3), "w": (2,)}, shapes], ConstantPool())


@pytest.mark.parametrize("number", range(SLICES))
def test_shapes_of_random_models(number):
    planned_models = 0

    @seed(number)
    @settings(max_examples=COUNT, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(programs())
    def examine(program):
        nonlocal planned_models
        model = load_model(program.model)
        if any(not isinstance(value, np.ndarray) for value in program.feeds.values()):
            return
        shapes = {name: value.shape for name, value in program.feeds.items()}
        requests = [scaled(shapes, batch) for batch in BATCHES if has_plan(model, scaled(shapes, batch))]
        check(model, requests, ConstantPool())
        planned_models += len(requests)

    examine()
    assert planned_models > COUNT
