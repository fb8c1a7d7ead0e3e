import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.passes.composition import compose, covers, translate
from onnxplan.compiler.view import Storage, View


def positions(view):
    """The element position behind each coordinate."""
    grid = np.full(view.shape, view.offset, np.int64)
    for axis, (extent, stride) in enumerate(zip(view.shape, view.strides, strict=True)):
        line = (np.arange(extent) * stride).reshape((-1,) + (1,) * (view.rank - axis - 1))
        grid = grid + line
    return grid


@st.composite
def dense_views(draw, storage_factory=lambda size: Storage(DType.FLOAT32, size, "s")):
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=0, max_size=4)))
    order = draw(st.permutations(range(len(shape))))
    view = View.dense(storage_factory(int(np.prod(shape))), tuple(shape[axis] for axis in order))
    return view.transpose(tuple(int(n) for n in np.argsort(order)))


@st.composite
def derived_views(draw, view):
    """A view of the same storage: reshaped, transposed, sliced, reversed, broadcast."""
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["transpose", "slice", "reshape", "expand"]))
        if kind == "transpose":
            view = view.transpose(tuple(draw(st.permutations(range(view.rank)))))
        elif kind == "slice" and view.rank:
            axis = draw(st.integers(0, view.rank - 1))
            start = draw(st.integers(0, view.shape[axis] - 1))
            step = draw(st.sampled_from([1, 1, 2, -1]))
            room = view.shape[axis] - start if step > 0 else start + 1
            view = view.slice(axis, start, draw(st.integers(1, max(1, -(-room // abs(step))))), step)
        elif kind == "reshape":
            factors = draw(st.sampled_from([n for n in range(1, view.size + 1) if view.size % n == 0]))
            rest = view.size // factors
            inner = draw(st.sampled_from([n for n in range(1, rest + 1) if rest % n == 0]))
            view = view.reshape((factors, inner, rest // inner)) or view
        elif kind == "expand":
            axis = draw(st.integers(0, view.rank))
            wide = view.unsqueeze((axis,))
            view = wide.expand((*wide.shape[:axis], draw(st.integers(1, 3)), *wide.shape[axis + 1 :]))
    return view


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_pulled_views_show_the_same_elements(data):
    source = data.draw(dense_views())
    view = data.draw(derived_views(source))
    found = compose(source, view)
    if found is None:
        return
    mirror = View.dense(Storage(DType.FLOAT32, source.size, "t"), source.shape)
    place_of = dict(zip(positions(source).ravel().tolist(), positions(mirror).ravel().tolist(), strict=True))
    expected = [place_of[p] for p in positions(view).ravel().tolist()]
    assert positions(found.pull(mirror)).ravel().tolist() == expected
    assert positions(found.refine(view)).ravel().tolist() == positions(view).ravel().tolist()
    distinct = len(set(expected)) == len(expected)
    assert found.is_injective <= distinct
    assert covers(found, source.shape) <= (sorted(expected) == list(range(source.size)))


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_translated_views_show_the_target(data):
    source = data.draw(dense_views())
    view = data.draw(derived_views(source))
    target = data.draw(derived_views(View.dense(Storage(DType.FLOAT32, source.size, "t"), source.shape)))
    if target.shape != source.shape:
        return
    translated = translate(view, source, target)
    if translated is None:
        return
    shown = dict(zip(positions(source).ravel().tolist(), positions(target).ravel().tolist(), strict=True))
    assert positions(translated).ravel().tolist() == [shown[p] for p in positions(view).ravel().tolist()]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_reshapes_and_transposes_compose(data):
    """What needs no split of the source's axes, or only clean ones, is always expressible."""
    source = data.draw(dense_views())
    shape = source.shape
    view = source.transpose(tuple(data.draw(st.permutations(range(len(shape))))))
    assert compose(source, view) is not None
    flat = View.dense(source.storage, (source.size,))
    assert compose(source, flat) is not None
    assert covers(compose(source, flat), shape)


def test_a_view_beyond_the_source_does_not_compose():
    storage = Storage(DType.FLOAT32, 24, "s")
    part = View(storage, 0, (2, 6), (12, 1))
    assert compose(part, View.dense(storage, (24,))) is None
    assert compose(part, View(storage, 6, (2, 6), (12, 1))) is None
    assert compose(part, View(storage, 1, (2, 5), (12, 1))) is not None


def test_sizes_that_do_not_divide_do_not_compose():
    storage = Storage(DType.FLOAT32, 24, "s")
    assert compose(View.dense(storage, (4, 6)), View(storage, 0, (3, 8), (8, 1))) is None
