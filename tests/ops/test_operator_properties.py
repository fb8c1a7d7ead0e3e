"""Operators with rich attributes, on attributes and shapes drawn at random, against NumPy."""

import string

import numpy as np
from cases import EXACT, case, shape_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cases_program import run

SHAPES = st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple)


def numbers(shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def check(drawn):
    drawn.check(run(drawn, constant=False)[0])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_slice(data):
    shape = data.draw(SHAPES)
    axes = data.draw(st.permutations(range(len(shape))))[: data.draw(st.integers(1, len(shape)))]
    bounds = st.integers(-6, 6)
    starts, ends = ([data.draw(bounds) for _ in axes] for _ in range(2))
    steps = [data.draw(bounds.filter(bool)) for _ in axes]
    taken = [slice(None)] * len(shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        taken[axis] = slice(start, end, step)
    inputs = {"x": numbers(shape), "s": shape_of(*starts), "e": shape_of(*ends)}
    inputs |= {"a": shape_of(*axes), "t": shape_of(*steps)}
    settings_ = {"constants": ("s", "e", "a", "t"), "tolerance": EXACT}
    check(case("", "Slice", inputs, reference=lambda x, *_: x[tuple(taken)], **settings_))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_pad(data):
    shape = data.draw(SHAPES.filter(all))
    mode = data.draw(st.sampled_from(["constant", "edge", "reflect", "wrap"]))
    widths = [(data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5))) for _ in shape]
    pads = shape_of(*(w[0] for w in widths), *(w[1] for w in widths))
    inputs = {"x": numbers(shape), "pads": pads}
    reference = lambda x, _: np.pad(x, widths, mode)  # noqa: E731
    settings_ = {"attributes": {"mode": mode}, "constants": ("pads",), "tolerance": EXACT}
    check(case("", "Pad", inputs, reference=reference, **settings_))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_reduce(data):
    shape = data.draw(SHAPES)
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1).map(tuple))
    keepdims = data.draw(st.booleans())
    signed = [axis - data.draw(st.sampled_from([0, len(shape)])) for axis in axes]
    inputs = {"x": numbers(shape), "axes": shape_of(*signed)}
    reference = lambda x, _: x.sum(axes, keepdims=keepdims)  # noqa: E731
    settings_ = {"attributes": {"keepdims": int(keepdims)}, "constants": ("axes",)}
    check(case("", "ReduceSum", inputs, reference=reference, **settings_))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_einsum(data):
    letters = string.ascii_letters[24:29]
    extents = {letter: data.draw(st.integers(0, 3)) for letter in letters}
    terms = data.draw(st.lists(st.text(letters, max_size=4), min_size=1, max_size=3))
    used = sorted(set("".join(terms)))
    output = "".join(data.draw(st.permutations(used))[: data.draw(st.integers(0, len(used)))])
    equation = ",".join(terms) + data.draw(st.sampled_from(["", f"->{output}"]))
    inputs = {f"x{i}": numbers(tuple(extents[letter] for letter in term)) for i, term in enumerate(terms)}
    reference = lambda *operands: np.einsum(equation, *operands)  # noqa: E731
    check(case("", "Einsum", inputs, attributes={"equation": equation}, reference=reference))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_matmul(data):
    batch = data.draw(st.lists(st.integers(0, 3), max_size=2).map(tuple))
    rows, inner, columns = (data.draw(st.integers(0, 4)) for _ in range(3))
    left = tuple(data.draw(st.sampled_from([extent, 1])) for extent in batch)[data.draw(st.integers(0, 2)) :]
    right = tuple(data.draw(st.sampled_from([extent, 1])) for extent in batch)[data.draw(st.integers(0, 2)) :]
    inputs = {"x": numbers((*left, rows, inner)), "y": numbers((*right, inner, columns))}
    check(case("", "MatMul", inputs, reference=np.matmul))
