"""Attention by cuDNN on the stand-in, which takes graphs as NVIDIA's frontend makes them."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from standin import StrictError
from standin_cudnn import Engine, Node
from standin_cudnn_rules import APPLY, ATTEND, BAND, GRAPH, MULTIPLY, REDUCE, SOFTMAX, TENSOR
from test_cudnn import Bench

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import UnsupportedOperatorError
from onnxplan.compiler.plan import KernelSpec
from onnxplan.runtime.cuda.attention import (
    LEAST_VERSION,
    ONE_OPERATION,
    ONE_OPERATION_OF_SCORES,
    Attention,
    BoundAttention,
)
from onnxplan.runtime.cuda.operation_graph import Tensor

DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
TOLERANCES = {"float16": 4e-3, "bfloat16": 3e-2}
NEWEST = 92801


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    assert not bench.standin.violations


def bind(bench: Bench, attention: Attention, workspace: int = 1 << 20) -> BoundAttention:
    return BoundAttention(bench.library, bench.handle, threading.Lock(), attention, workspace=workspace)


def tensor(array: np.ndarray) -> Tensor:
    return Tensor.of(array.shape, [stride // array.itemsize for stride in array.strides])


def draw(dtype="float16", *, heads=(4, 2), causal=False, bias=None, scale=0.25, widths=(24, 40), seed=0):
    """Attention of odd numbers of tokens, its operands in the order of addresses, and a poisoned result.

    Heads stand beside each other, as projections leave them; ``bias`` is the shape of one.
    """
    rng = np.random.default_rng(seed)
    batch, (queries, keys), (depth, width) = 2, (13, 17), widths

    def array(tokens: int, heads: int, extent: int) -> np.ndarray:
        return rng.standard_normal((batch, tokens, heads, extent)).astype(DTYPES[dtype])

    q, k, v = array(queries, heads[0], depth), array(keys, heads[1], depth), array(keys, heads[1], width)
    out = np.full((batch, queries, heads[0], width), np.nan, DTYPES[dtype])
    added = [] if bias is None else [rng.standard_normal(bias).astype(DTYPES[dtype])]
    q4, k4, v4, out4 = (a.transpose(0, 2, 1, 3) for a in (q, k, v, out))
    attention = Attention(
        dtype,
        *map(tensor, (q4, k4, v4, out4)),
        tensor(added[0]) if added else None,
        dtype if added else "",
        scale,
        causal,
    )
    return attention, [q, k, v, *added], out


def expected(attention: Attention, arrays: list[np.ndarray]) -> np.ndarray:
    """As it is defined, row by row, in float64; (batch, tokens, heads, width)."""
    q, k, v, *bias = (array.astype(np.float64) for array in arrays)
    result = np.zeros((*q.shape[:3], v.shape[3]))
    group = q.shape[2] // k.shape[2]
    for batch, row, head in np.ndindex(*q.shape[:3]):
        seen = row + 1 if attention.causal else k.shape[1]
        scores = attention.scale * (k[batch, :seen, head // group] @ q[batch, row, head])
        if bias:
            full = np.broadcast_to(bias[0], (q.shape[0], q.shape[2], q.shape[1], k.shape[1]))
            scores = scores + full[batch, head, row, :seen]
        weights = np.exp(scores - scores.max())
        result[batch, row, head] = weights / weights.sum() @ v[batch, :seen, head // group]
    return result


VERSIONS = [LEAST_VERSION, ONE_OPERATION, ONE_OPERATION_OF_SCORES, NEWEST]
BIASES = [None, (2, 1, 1, 17), (1, 4, 13, 17), (2, 4, 13, 17)]


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bias", BIASES)
def test_attention(bench, dtype, version, causal, bias):
    bench.standin.cudnn.version = version
    attention, arrays, out = draw(dtype, causal=causal, bias=bias)
    bound = bind(bench, attention)
    found = bench.run(bound, arrays, out).astype(np.float64)
    np.testing.assert_allclose(found, expected(attention, arrays), rtol=0, atol=TOLERANCES[dtype])
    assert bench.standin.counters.attentions == 1
    bound.close()
    assert not [leak for leak in bench.standin.cudnn.leaks() if "descriptor" in leak]


@pytest.mark.parametrize("heads", [(1, 1), (4, 4), (4, 1), (6, 3)])
@pytest.mark.parametrize("widths", [(64, 64), (128, 128), (8, 120)])
@pytest.mark.parametrize("scale", [1.0, 0.125])
def test_heads_and_widths(bench, heads, widths, scale):
    attention, arrays, out = draw(heads=heads, widths=widths, scale=scale, causal=True)
    found = bench.run(bind(bench, attention), arrays, out).astype(np.float64)
    limit = 2 * TOLERANCES["float16"]
    np.testing.assert_allclose(found, expected(attention, arrays), rtol=0, atol=limit)


def graph_of(bench: Bench) -> list[Node]:
    """The operations of the graph that was made for the latest heuristic."""
    nodes = bench.standin.cudnn._nodes.values()
    *_, graph = [node for node in nodes if node.kind == GRAPH and 800 in node.values]
    return graph.values[801]


def described(node: Node) -> tuple[int, int, tuple[int, ...], tuple[int, ...], bool, bool]:
    """Number, type, extents, strides, virtual, scalar."""
    assert node.kind == TENSOR
    assert node.one(900) == 16
    values = node.values
    flags = (bool(values.get(number, [False])[0]) for number in (907, 908))
    return (node.one(906), node.one(901), tuple(values[902]), tuple(values[903]), *flags)


def test_the_chain_says_it_as_the_frontend_does(bench):
    bench.standin.cudnn.version = LEAST_VERSION
    bind(bench, draw(causal=True, bias=(2, 4, 13, 17))[0])
    operations = graph_of(bench)
    kinds = [MULTIPLY, *[APPLY] * 6, REDUCE, APPLY, APPLY, REDUCE, APPLY, APPLY, APPLY, MULTIPLY]
    assert [operation.kind for operation in operations] == kinds
    applied = [operation.one(750).one(0) for operation in operations if operation.kind == APPLY]
    assert applied == [1, 0, 501, 501, 303, 601, 9, 13, 14, 0, 6]
    assert [operations[place].one(750).values.get(9) for place in (3, 4)] == [[2], [3]]
    assert [operation.one(1612).one(1600) for operation in operations if operation.kind == REDUCE] == [3, 0]
    first, last = operations[0], operations[-1]
    assert described(first.one(1520)) == (1, 2, (2, 4, 13, 24), (1248, 24, 96, 1), False, False)
    assert described(first.one(1521)) == (2, 2, (2, 2, 24, 17), (816, 24, 1, 48), False, False)
    scores = (2, 4, 13, 17), (884, 221, 17, 1)
    assert described(first.one(1522)) == (8, 0, *scores, True, False)
    assert described(operations[1].one(752)) == (6, 0, (1,) * 4, (1,) * 4, False, True)
    assert described(operations[2].one(752)) == (4, 2, *scores, False, False)
    assert described(operations[5].one(753))[1] == 11
    assert described(operations[6].one(752)) == (7, 0, (1,) * 4, (1,) * 4, False, True)
    assert described(operations[7].one(1611))[2:4] == ((2, 4, 13, 1), (52, 13, 1, 1))
    assert described(last.one(1520))[1:] == (2, *scores, True, False)
    assert described(last.one(1521)) == (3, 2, (2, 2, 17, 40), (1360, 40, 80, 1), False, False)
    assert described(last.one(1522)) == (5, 2, (2, 4, 13, 40), (2080, 40, 160, 1), False, False)
    numbers = {node.one(906) for node in bench.standin.cudnn._nodes.values() if node.kind == TENSOR}
    assert numbers == set(range(1, max(numbers) + 1))


def test_one_operation_says_it_as_the_frontend_does(bench):
    bind(bench, draw(causal=True, bias=(2, 1, 1, 17))[0])
    (operation,) = graph_of(bench)
    assert operation.kind == ATTEND
    assert described(operation.one(2801)) == (2, 2, (2, 2, 17, 24), (816, 24, 48, 1), False, False)
    assert described(operation.one(2803))[0] == 5
    assert described(operation.one(2805)) == (6, 0, (1,) * 4, (1,) * 4, False, True)
    inner = operation.one(2811)
    assert 800 not in inner.values
    added, mask = inner.values[801]
    assert (added.kind, mask.kind) == (APPLY, BAND)
    assert described(added.one(752)) == (4, 2, (2, 1, 1, 17), (17, 17, 17, 1), False, False)
    assert described(added.one(751))[0] == operation.one(2812)
    assert described(mask.one(3006))[0] == operation.one(2813)
    assert described(mask.one(3005)) == (7, 0, (1,) * 4, (1,) * 4, False, True)


@pytest.mark.parametrize(
    ("version", "options", "single"),
    [
        (ONE_OPERATION - 1, {}, False),
        (ONE_OPERATION, {}, True),
        (ONE_OPERATION, {"causal": True}, False),
        (ONE_OPERATION_OF_SCORES - 1, {"bias": (2, 1, 1, 17)}, False),
        (ONE_OPERATION_OF_SCORES, {"causal": True}, True),
    ],
)
def test_the_version_chooses_the_form(bench, version, options, single):
    bench.standin.cudnn.version = version
    bind(bench, draw(**options)[0])
    assert (len(graph_of(bench)) == 1) is single


def test_the_chain_is_tried_where_the_one_operation_is_refused(bench):
    attention, arrays, out = draw(causal=True)
    bench.standin.cudnn.engines = [Engine(forms=("one operation",), refuses=True), Engine(forms=("chain",))]
    found = bench.run(bind(bench, attention), arrays, out).astype(np.float64)
    np.testing.assert_allclose(found, expected(attention, arrays), rtol=0, atol=TOLERANCES["float16"])
    kinds = [operation.kind for operation in graph_of(bench)]
    assert kinds == [MULTIPLY, APPLY, BAND, SOFTMAX, MULTIPLY]


def test_engines_need_no_note_but_may_have_no_other(bench):
    bench.standin.cudnn.engines = [
        *(Engine((0, note), 16) for note in range(1, 9)),
        Engine((), 1 << 21),
        Engine((), 48),
    ]
    assert bind(bench, draw()[0]).workspace_bytes == 48


@pytest.mark.parametrize(
    ("engines", "why"),
    [
        ([], "it offers no engine"),
        ([Engine((4,))], "the notes of an engine are NONDETERMINISTIC"),
        ([Engine(refuses=True)], "the engine does not support the graph"),
        ([Engine(workspace_bytes=(1 << 20) + 1)], "needs 1048577 bytes"),
    ],
)
def test_without_an_engine_attention_is_refused(bench, engines, why):
    bench.standin.cudnn.engines = engines
    with pytest.raises(UnsupportedOperatorError, match=why):
        bind(bench, draw()[0])
    assert len(bench.standin.cudnn.leaks()) == 1


def test_versions_that_compute_it_wrongly_are_refused(bench):
    bench.standin.cudnn.version = LEAST_VERSION - 1
    with pytest.raises(UnsupportedOperatorError, match="cuDNN 91001 is too old for the causal attention"):
        bind(bench, draw(causal=True)[0])
    assert len(bench.standin.cudnn.leaks()) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "float32"},
        {"k": Tensor((2, 3, 17, 24), (1224, 24, 72, 1))},
        {"v": Tensor((2, 2, 16, 40), (1280, 40, 80, 1))},
        {"q": Tensor((2, 4, 13, 24), (1248, 24, 1, 96))},
        {"q": Tensor((2, 4, 13, 24), (1248, 24, 0, 1))},
        {"bias": Tensor((2, 1, 1, 16), (16, 16, 16, 1)), "bias_dtype": "float16"},
    ],
)
@pytest.mark.parametrize("version", [LEAST_VERSION, NEWEST])
def test_what_is_no_attention_is_refused(bench, version, changes):
    bench.standin.cudnn.version = version
    with pytest.raises(UnsupportedOperatorError, match="cuDNN does not take the attention"):
        bind(bench, replace(draw()[0], **changes))
    assert len(bench.standin.cudnn.leaks()) == 1


def test_operands_are_in_device_memory_and_scalars_are_not():
    bench = Bench()
    attention, arrays, out = draw(causal=True)
    bound = bind(bench, attention)
    blocks = [bench.put(array, beyond=8) for array in (*arrays, out)]
    workspace = bench.standin.allocate(bound.workspace_bytes)
    addresses = [block.ptr for block in blocks]
    with (
        bound.pack([addresses[0] + 8, *addresses[1:]], workspace.ptr) as pack,
        pytest.raises(StrictError, match="no multiple of 16"),
    ):
        bound.launcher(pack)(bench.stream)
    with bound.pack(addresses, workspace.ptr) as pack:
        bench.standin.cudnn._nodes[pack.handle].values[1001][-1] = addresses[0]
        with pytest.raises(StrictError, match="is not in the host's memory"):
            bound.launcher(pack)(bench.stream)


def step_of(offsets: list[int]) -> tuple[SimpleNamespace, SimpleNamespace]:
    """A step of q, k, v, one extra of our own kernel's, a bias and the output, and a plan around it."""
    shape, strides = (1, 2, 64, 16), (2048, 1024, 16, 1)
    operands = [
        SimpleNamespace(buffer=0, offset=offset, shape=shape, strides=strides, dtype=DType.FLOAT16)
        for offset in offsets
    ]
    spec = KernelSpec("cudnn_attention", (True, 0.25, 4, ("ours",)))
    plan = SimpleNamespace(buffers=[SimpleNamespace(offset=256)])
    return SimpleNamespace(kernel=spec, operands=operands, outputs=(5,)), plan


def test_what_cudnn_reads_and_writes_is_aligned():
    # Our own kernel reads its extras at any address.
    step, plan = step_of([0, 16, 32, 2, 48, 64])
    attention = BoundAttention.describe(step, plan)
    assert (attention.causal, attention.scale, attention.bias_dtype) == (True, 0.25, "float16")
    assert BoundAttention.operand_order(step) == (0, 1, 2, 4, 5)
    for place in (0, 1, 2, 4, 5):
        offsets = [0] * 6
        offsets[place] = 8
        with pytest.raises(ValueError, match="not at a multiple of 16 bytes"):
            BoundAttention.describe(*step_of(offsets))
