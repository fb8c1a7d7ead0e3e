import numpy as np
from fake_selector import TARGET, FakeSelector, run_plan
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_checker import check_plan

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.constant_pool import ConstantPool
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.emission import EmittedStep
from onnxplan.compiler.memory import place
from onnxplan.compiler.pipeline import compile_program
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.program import Program
from onnxplan.compiler.schedule import dependencies, schedule
from onnxplan.compiler.view import Storage, View


def step(writes, reads, in_place=()):
    operands = tuple(View.dense(storage, (storage.size,)) for storage in (*writes, *reads))
    outputs = tuple(range(len(writes)))
    return EmittedStep(KernelSpec("k"), operands, outputs, (), 1, 0, 0, 0, 0.0, (), in_place)


def storage(size, name="s", dtype=DType.FLOAT32):
    return Storage(dtype, size, name)


def test_chain_without_in_place_needs_two_places():
    source, *rest = [storage(16, str(n)) for n in range(5)]
    steps = [step([b], [a]) for a, b in zip([source, *rest], rest, strict=False)]
    placement = place(steps, {source}, 64)
    assert placement.arena_bytes == placement.lower_bound == 128


def test_chain_in_place_needs_one_place():
    source, *rest = [storage(16, str(n)) for n in range(5)]
    steps = [step([b], [a], ((0, 1),)) for a, b in zip([source, *rest], rest, strict=False)]
    placement = place(steps, {source}, 64)
    assert placement.arena_bytes == placement.lower_bound == 64
    assert set(placement.offsets) == set(rest)


def test_no_sharing_where_the_input_lives_on():
    a, b, c = storage(16), storage(16), storage(16)
    steps = [step([a], []), step([b], [a], ((0, 1),)), step([c], [a, b])]
    placement = place(steps, set(), 64)
    assert placement.offsets[a] != placement.offsets[b]


def test_no_sharing_where_the_step_reads_the_input_in_another_order_too():
    a, b = storage(16), storage(16)
    dense = View(a, 0, (4, 4), (4, 1))
    target = View.dense(b, (4, 4))
    operands = (target, dense, dense.transpose((1, 0)))
    steps = [
        step([a], []),
        EmittedStep(KernelSpec("k"), operands, (0,), (), 1, 0, 0, 0, 0.0, (), ((0, 1), (0, 2))),
        step([storage(1)], [b]),
    ]
    placement = place(steps, set(), 64)
    assert placement.offsets[a] != placement.offsets[b]


def test_sharing_needs_equal_element_sizes():
    a, b = storage(16), storage(16, dtype=DType.FLOAT16)
    placement = place([step([a], []), step([b], [a], ((0, 1),)), step([storage(1)], [b])], set(), 64)
    assert placement.offsets[a] != placement.offsets[b]


@st.composite
def step_lists(draw):
    """Random graphs of up to 30 steps; each reads some earlier results and writes one or two."""
    count = draw(st.integers(1, 30))
    source = storage(draw(st.integers(0, 64)), "source")
    results = [source]
    steps = []
    for number in range(count):
        reads = draw(st.lists(st.sampled_from(results[-8:]), max_size=3, unique=True))
        size = draw(st.sampled_from([reads[0].size if reads else 1, draw(st.integers(0, 2000))]))
        writes = [storage(size, f"w{number}")]
        if draw(st.booleans()):
            writes.append(storage(draw(st.integers(0, 100)), f"v{number}"))
        pairs = tuple(
            (0, len(writes) + n) for n, read in enumerate(reads) if read.size == size and draw(st.booleans())
        )
        steps.append(step(writes, reads, pairs))
        results.extend(writes)
    return source, steps


@settings(max_examples=200, deadline=None)
@given(step_lists(), st.booleans())
def test_random_graphs_are_placed_without_overlap(drawn, shared):
    source, steps = drawn
    order = schedule(steps, {source})
    assert sorted(map(id, order)) == sorted(map(id, steps))
    placement = place(order, {source}, 64, shared=shared)
    assert placement.arena_bytes == place(order, {source}, 64).arena_bytes
    assert all(offset % 64 == 0 for offset in placement.offsets.values())
    written_over = {}
    for number, item in enumerate(order):
        spans = {}
        for position, view in enumerate(item.operands):
            if view.storage is not source and view.storage.size:
                spans.setdefault(view.storage, []).append(position)
        storages = list(spans)
        for a in storages:
            for b in storages:
                if a is b or placement.offsets[a] + a.nbytes <= placement.offsets[b]:
                    continue
                if placement.offsets[b] + b.nbytes <= placement.offsets[a]:
                    continue
                pairs = {(spans[a][0], spans[b][0]), (spans[b][0], spans[a][0])}
                assert pairs & set(item.in_place)
                written_over[number] = True
        assert all(placement.offsets[a] + a.nbytes <= placement.arena_bytes for a in storages)
    assert placement.lower_bound <= placement.arena_bytes


def test_storages_that_workers_share_lie_around_the_middles_of_larger_ones():
    """So each worker's half of one lies where the same worker's half of the others was."""
    source, *rest = [storage(size, str(size)) for size in (16, 1600, 3200, 960, 3200, 640, 1600)]
    steps = [step([b], [a]) for a, b in zip([source, *rest], rest, strict=False)]
    shared, packed = (place(steps, {source}, 64, shared=each) for each in (True, False))
    middles = [{offset + s.nbytes // 2 for s, offset in p.offsets.items()} for p in (shared, packed)]
    assert len(middles[0]) == 2 < len(middles[1])
    assert shared.arena_bytes == packed.arena_bytes


@settings(max_examples=100, deadline=None)
@given(step_lists(), st.randoms(use_true_random=False))
def test_scheduling_keeps_dependencies(drawn, random):
    source, steps = drawn
    before = dependencies(steps)
    order = schedule(steps, {source})
    place_of = {id(item): number for number, item in enumerate(order)}
    for number, needed in enumerate(before):
        for other in needed:
            assert place_of[id(steps[other])] < place_of[id(steps[number])]


def test_scheduling_finishes_one_branch_before_the_next():
    """Breadth first, four large results are alive at once; depth first, one and the small ones."""
    source = storage(16, "source")
    large = [storage(1000, f"large{n}") for n in range(4)]
    small = [storage(10, f"small{n}") for n in range(4)]
    steps = [step([one], [source]) for one in large]
    steps += [step([one], [other]) for one, other in zip(small, large, strict=True)]
    steps.append(step([storage(1, "end")], small))
    assert place(steps, {source}, 64).arena_bytes > 4 * 4000
    assert place(schedule(steps, {source}), {source}, 64).arena_bytes < 2 * 4000


def build(draw_ops):
    b = Builder(ConstantPool())
    x = b.new(DType.FLOAT32, (4, 6))
    x.storage.name = "x"
    values = [x]
    for kind, first, second in draw_ops:
        left, right = values[first % len(values)], values[second % len(values)]
        if kind == "add":
            values.append(b.scalar("add", left, right))
        elif kind == "relu":
            values.append(b.scalar("max", left, b.constant(np.float32(0))))
        elif kind == "swap":
            values.append(b.copy(left.reshape((6, 4)).transpose((1, 0))) if left.is_dense else left)
        elif kind == "concat":
            joined = b.concat([left, right], 0)
            values.append(joined.slice(0, 2, 4))
        else:
            row = b.reduce("sum", left, (1,), keepdims=True)
            values.append(b.scalar("sub", right, row))
    return Program({"x": x}, {"y": values[-1], "z": values[len(values) // 2]}, b.operations)


OPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "relu", "swap", "concat", "row"]), st.integers(0, 99), st.integers(0, 99)
    ),
    max_size=14,
)


@settings(max_examples=80, deadline=None)
@given(OPS, st.sampled_from([0, 1]))
def test_compiled_plans_are_sound_and_compute_the_program(operations, level):
    from onnxplan.compiler.evaluate import evaluate_program

    feeds = {"x": np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)}
    expected = evaluate_program(build(operations), feeds)
    selector = FakeSelector(TARGET)
    compiled = compile_program(build(operations), selector, ConstantPool(), optimize=level)

    def may_share(item, output, source):
        return selector.operations[item.kernel].primitive.name in ("map", "copy")

    check_plan(compiled.plan, may_share)
    for constant in compiled.constants:
        assert constant.ctypes.data % TARGET.alignment == 0
    actual = run_plan(compiled, selector, feeds)
    assert set(actual) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-5, atol=1e-5)
