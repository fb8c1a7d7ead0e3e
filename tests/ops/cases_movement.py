"""Operators that only move elements: results are exact."""

import ml_dtypes
import numpy as np
from cases import BFLOAT16, BOOL, EXACT, FLOAT32, NUMBERS, Case, case, distinct, shape_of, uniform
from onnx import helper

EXOTIC = tuple(
    np.dtype(getattr(ml_dtypes, name)) for name in ("int4", "uint2", "float8_e4m3fn", "float8_e5m2")
)


def moving(name, op_type, inputs, reference, **settings) -> list[Case]:
    """A case with all inputs fed, and one in which only the first is."""
    settings = {"reference": reference, "tolerance": EXACT, **settings}
    found = [case(name, op_type, inputs, **settings)]
    rest = tuple(key for key, item in list(inputs.items())[1:] if item is not None)
    if rest:
        found.append(case(f"{name}-constant", op_type, inputs, constants=rest, **settings))
    return found


def reshape_cases() -> list[Case]:
    found = []
    for source, wanted, result, attributes in [
        ((2, 3, 4), (4, 6), (4, 6), {}),
        ((2, 3, 4), (-1,), (24,), {}),
        ((2, 3, 4), (0, -1), (2, 12), {}),
        ((2, 3, 4), (0, 0, 2, 2), (2, 3, 2, 2), {}),
        ((1,), (), (), {}),
        ((), (1, 1), (1, 1), {}),
        ((0, 3), (3, 0), (3, 3), None),
        ((0, 3), (3, 0), (3, 0), {"allowzero": 1}),
        ((0, 3), (0, -1), (0, 3), None),
        ((2, 0, 3), (0, 5, 0), (0, 5, 0), {"allowzero": 1}),
        ((0, 4), (0, 4), (0, 4), {}),
    ]:
        if attributes is None:
            continue
        inputs = {"x": distinct(FLOAT32, *source), "shape": shape_of(*wanted)}
        name = f"{source}{wanted}{''.join(attributes)}"
        found += moving(name, "Reshape", inputs, lambda x, s, r=result: x.reshape(r), attributes=attributes)
    for opset in (1, 4):
        settings = {"attributes": {"shape": [0, -1]}, "opset": opset}
        found += moving(
            "attribute", "Reshape", {"x": distinct(FLOAT32, 2, 3, 4)}, lambda x: x.reshape(2, 12), **settings
        )
    for shape, axis, result in [
        ((2, 3, 4), None, (2, 12)),
        ((2, 3, 4), 0, (1, 24)),
        ((2, 3, 4), 3, (24, 1)),
        ((2, 3, 4), -1, (6, 4)),
        ((2, 3, 4), -3, (1, 24)),
        ((), 0, (1, 1)),
        ((0, 3), 1, (0, 3)),
    ]:
        attributes = {} if axis is None else {"axis": axis}
        reference = lambda x, r=result: x.reshape(r)  # noqa: E731
        found += moving(
            f"{shape}{axis}", "Flatten", {"x": distinct(FLOAT32, *shape)}, reference, attributes=attributes
        )
    return found


def axes_cases() -> list[Case]:
    found = []
    for shape, axes in [((1, 3, 1, 2), (0,)), ((1, 3, 1, 2), (0, -2)), ((1, 1), (1, 0)), ((1, 0), (0,))]:
        reference = lambda x, *_, a=axes: x.squeeze(a)  # noqa: E731
        inputs = {"x": distinct(FLOAT32, *shape)}
        found += moving(f"{shape}{axes}", "Squeeze", inputs | {"axes": shape_of(*axes)}, reference)
        if min(axes) >= 0:
            settings = {"opset": 1, "attributes": {"axes": list(axes)}}
            found += moving(f"{shape}{axes}", "Squeeze", inputs, reference, **settings)
    for opset in (11, 28):
        found += moving(
            "all", "Squeeze", {"x": distinct(FLOAT32, 1, 3, 1)}, lambda x: x.squeeze(), opset=opset
        )
    for shape, axes in [((3, 2), (0,)), ((3, 2), (0, -1)), ((3, 2), (3, 1)), ((), (0,)), ((0, 2), (1, 2))]:
        reference = lambda x, *_, a=axes: np.expand_dims(x, a)  # noqa: E731
        inputs = {"x": distinct(FLOAT32, *shape)}
        found += moving(f"{shape}{axes}", "Unsqueeze", inputs | {"axes": shape_of(*axes)}, reference)
        if min(axes) >= 0:
            settings = {"opset": 11, "attributes": {"axes": list(axes)}}
            found += moving(f"{shape}{axes}", "Unsqueeze", inputs, reference, **settings)
    for shape, permutation in [
        ((2, 3, 4), (2, 0, 1)),
        ((2, 3, 4), None),
        ((), None),
        ((0, 3), (1, 0)),
        ((5,), (0,)),
    ]:
        attributes = {} if permutation is None else {"perm": list(permutation)}
        reference = lambda x, p=permutation: x.transpose(p)  # noqa: E731
        name = f"{shape}{permutation}"
        found += moving(name, "Transpose", {"x": distinct(FLOAT32, *shape)}, reference, attributes=attributes)
    for dtype in (*NUMBERS, BOOL, *EXOTIC, np.dtype("complex64"), np.dtype("complex128")):
        x = uniform(bool, 3, 5)
        inputs = {"x": lambda random, d=dtype, x=x: x(random).astype(d)}
        found += moving(f"{dtype}", "Transpose", inputs, lambda x: x.T, attributes={"perm": [1, 0]})
    return found


def repeat_cases() -> list[Case]:
    found = []
    for shape, wanted in [
        ((3, 1), (3, 4)),
        ((3, 1), (2, 1, 6)),
        ((), (2, 3)),
        ((3, 4), ()),
        ((3, 4), (1, 1)),
        ((1, 3), (0, 3)),
        ((0, 1), (1, 5)),
    ]:
        inputs = {"x": distinct(FLOAT32, *shape), "shape": shape_of(*wanted)}
        reference = lambda x, s: np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(s)))  # noqa: E731
        found += moving(f"{shape}{wanted}", "Expand", inputs, reference)
    for shape, repeats in [
        ((2, 3), (2, 3)),
        ((2, 3), (1, 1)),
        ((2, 3), (0, 2)),
        ((4,), (3,)),
        ((1, 3, 1), (2, 1, 4)),
    ]:
        inputs = {"x": distinct(FLOAT32, *shape), "repeats": shape_of(*repeats)}
        found += moving(f"{shape}{repeats}", "Tile", inputs, np.tile)
    inputs = {
        "x": distinct(FLOAT32, 2, 3),
        "tiles": np.array(3, np.float32),
        "axis": np.array(1, np.float32),
    }
    found += moving("axis", "Tile", inputs, lambda x, tiles, axis: np.tile(x, (1, 3)), opset=1)
    return found


def block_cases() -> list[Case]:
    found = []
    for shape, block in [((2, 12, 2, 3), 2), ((1, 9, 1, 2), 3), ((0, 4, 2, 2), 2), ((1, 2, 3, 4), 1)]:
        for mode in ("DCR", "CRD"):
            x = {"x": distinct(FLOAT32, *shape)}
            attributes = {"blocksize": block, "mode": mode}
            reference = _depth_to_space(block, mode)
            found += moving(f"{shape}{mode}", "DepthToSpace", x, reference, attributes=attributes)
            if mode == "DCR":
                attributes = {"blocksize": block}
                found += moving(f"{shape}", "DepthToSpace", x, reference, attributes=attributes, opset=1)
    for shape, block in [((2, 3, 4, 6), 2), ((1, 1, 3, 9), 3), ((0, 4, 2, 2), 2)]:
        for mode in ("DCR", "CRD"):
            x = {"x": distinct(FLOAT32, *shape)}
            attributes = {"blocksize": block, "mode": mode}
            reference = _space_to_depth(block, mode)
            found += moving(f"{shape}{mode}", "SpaceToDepth", x, reference, attributes=attributes)
            if mode == "DCR":
                attributes = {"blocksize": block}
                found += moving(f"{shape}", "SpaceToDepth", x, reference, attributes=attributes, opset=13)
    return found


def _depth_to_space(block, mode):
    def move(x):
        n, c, h, w = x.shape
        depth = c // block**2
        if mode == "DCR":
            parts = x.reshape(n, block, block, depth, h, w).transpose(0, 3, 4, 1, 5, 2)
        else:
            parts = x.reshape(n, depth, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
        return parts.reshape(n, depth, h * block, w * block)

    return move


def _space_to_depth(block, mode):
    def move(x):
        n, c, h, w = x.shape
        parts = x.reshape(n, c, h // block, block, w // block, block)
        order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
        return parts.transpose(order).reshape(n, c * block**2, h // block, w // block)

    return move


def part_cases() -> list[Case]:
    found = []
    for shapes, axis in [
        ([(2, 3), (2, 1), (2, 4)], 1),
        ([(2, 3), (5, 3)], -2),
        ([(2, 3)], 0),
        ([(2, 0), (2, 3), (2, 0)], 1),
        ([(0,), (0,)], 0),
        ([(1, 2, 3)] * 5, 2),
    ]:
        inputs = {f"x{i}": distinct(FLOAT32, *shape) for i, shape in enumerate(shapes)}
        reference = lambda *x, a=axis: np.concatenate(x, a)  # noqa: E731
        found += moving(f"{shapes}{axis}", "Concat", inputs, reference, attributes={"axis": axis})
    for dtype in (*NUMBERS, BOOL, *EXOTIC):
        inputs = {"x": uniform(dtype, 2, 3, low=0, high=1), "y": uniform(dtype, 2, 2, low=0, high=1)}
        reference = lambda *x: np.concatenate(x, 1)  # noqa: E731
        found += moving(f"{dtype}", "Concat", inputs, reference, attributes={"axis": 1})
    inputs = {"x": distinct(FLOAT32, 2, 3), "y": distinct(FLOAT32, 2, 2)}
    unlike = {"x": distinct(FLOAT32, 0, 5), "y": distinct(FLOAT32, 2, 3)}
    found += moving("nothing", "Concat", unlike, lambda x, y: y, attributes={"axis": 0})
    found += moving("default", "Concat", inputs, lambda *x: np.concatenate(x, 1), opset=1)
    return found + split_cases()


def split_cases() -> list[Case]:
    found = []
    for opset in (2, 11, 13, 18, 28):
        for shape, axis, lengths in [
            ((6, 2), 0, (2, 4)),
            ((2, 6), 1, (1, 0, 5)),
            ((2, 6), -1, (6,)),
            ((0, 4), 1, (4, 0)),
        ]:
            inputs = {"x": distinct(FLOAT32, *shape)}
            attributes = {"axis": axis}
            if opset < 13:
                attributes["split"] = list(lengths)
            else:
                inputs["split"] = shape_of(*lengths)
            reference = _splitting(axis, lengths)
            settings = {"attributes": attributes, "opset": opset, "outputs": len(lengths)}
            settings["dtypes"] = (FLOAT32,) * len(lengths)
            found += moving(f"{shape}{lengths}", "Split", inputs, reference, **settings)
    for opset in (2, 13):
        settings = {"outputs": 3, "opset": opset, "dtypes": (FLOAT32,) * 3}
        reference = _splitting(0, (2, 2, 2))
        found += moving("equal", "Split", {"x": distinct(FLOAT32, 6, 2)}, reference, **settings)
    for extent, lengths in [(7, (3, 3, 1)), (6, (2, 2, 2)), (2, (1, 1)), (5, (5,))]:
        settings = {"outputs": len(lengths), "attributes": {"num_outputs": len(lengths)}}
        settings["dtypes"] = (FLOAT32,) * len(lengths)
        reference = _splitting(0, lengths)
        found += moving(
            f"uneven-{extent}", "Split", {"x": distinct(FLOAT32, extent, 2)}, reference, **settings
        )
    inputs = {"x": distinct(FLOAT32, 6, 2), "split": np.array([2, 4], np.float32)}
    settings = {"outputs": 2, "opset": 1, "dtypes": (FLOAT32,) * 2}
    found += moving("input", "Split", inputs, _splitting(0, (2, 4)), **settings)
    return found


def _splitting(axis, lengths):
    return lambda x, *_: np.split(x, np.cumsum(lengths)[:-1], axis)


def slice_cases() -> list[Case]:
    found = []
    least, most = -(2**63), 2**63 - 1
    for shape, starts, ends, axes, steps, taken in [
        ((5, 6), [1, 2], [4, 6], [0, 1], [1, 2], np.s_[1:4, 2:6:2]),
        ((5, 6), [1], [most], [-1], None, np.s_[:, 1:]),
        ((5, 6), [-3], [-1], [0], None, np.s_[-3:-1]),
        ((5, 6), [most], [least], [1], [-1], np.s_[:, ::-1]),
        ((5, 6), [-2], [-6], [0], [-2], np.s_[-2::-2]),
        ((5, 6), [100], [200], [0], None, np.s_[5:5]),
        ((5, 6), [3], [1], [0], None, np.s_[3:1]),
        ((5, 6), [least], [3], [0], [2], np.s_[:3:2]),
        ((5, 6), [0, 0], [5, 6], None, None, np.s_[:, :]),
        ((5, 6), [1], [5], [1], [most], np.s_[:, 1:2]),
        ((0, 6), [0, 5], [5, 0], [0, 1], [1, -1], np.s_[:, 5:0:-1]),
        ((5,), [4], [-6], [0], [-1], np.s_[::-1]),
        ((5, 6), [], [], [], [], np.s_[:]),
    ]:
        for dtype in (np.int64, np.int32):
            if dtype == np.int32 and any(abs(n) > 2**31 for n in [*starts, *ends, *(steps or [])]):
                continue
            inputs = {
                "x": distinct(FLOAT32, *shape),
                "starts": np.array(starts, dtype),
                "ends": np.array(ends, dtype),
                "axes": None if axes is None else np.array(axes, dtype),
                "steps": None if steps is None else np.array(steps, dtype),
            }
            while list(inputs.values())[-1] is None:
                inputs.popitem()
            name = f"{shape}{starts}{ends}{axes}{steps}{np.dtype(dtype)}"
            found += moving(name, "Slice", inputs, lambda x, *_, t=taken: x[t])
        if steps is None and axes != [-1]:
            attributes = {"starts": starts, "ends": ends} | ({} if axes is None else {"axes": axes})
            name = f"{shape}{starts}{ends}{axes}"
            settings = {"attributes": attributes, "opset": 9}
            found += moving(
                name, "Slice", {"x": distinct(FLOAT32, *shape)}, lambda x, t=taken: x[t], **settings
            )
    return found


def composed_cases() -> list[Case]:
    """Views of views, and copies that strides cannot avoid."""
    nodes = (
        helper.make_node("Transpose", ["x"], ["a"], perm=[1, 0, 2]),
        helper.make_node("Slice", ["a", "starts", "ends", "axes", "steps"], ["b"]),
        helper.make_node("Reshape", ["b", "shape"], ["y"]),
    )
    inputs = {
        "x": distinct(FLOAT32, 3, 4, 5),
        "starts": shape_of(3, 4),
        "ends": shape_of(-9, 0),
        "axes": shape_of(0, 2),
        "steps": shape_of(-1, -2),
        "shape": shape_of(-1, 2),
    }
    reference = lambda x, *_: x.transpose(1, 0, 2)[::-1, :, 4:0:-2].reshape(-1, 2)  # noqa: E731
    constants = tuple(inputs)[1:]
    settings = {"reference": reference, "tolerance": EXACT}
    found = [
        Case("Reshape-of-views", nodes, inputs, ("y",), constants=constants, **settings),
        Case("Reshape-of-views-fed", nodes, inputs, ("y",), **settings),
    ]
    nodes = (
        helper.make_node("Shape", ["x"], ["s"], start=1),
        helper.make_node("ConstantOfShape", ["s"], ["c"]),
        helper.make_node("Concat", ["x", "c2"], ["y"], axis=0),
        helper.make_node("Unsqueeze", ["c", "zero"], ["c2"]),
    )
    nodes = (nodes[0], nodes[1], nodes[3], nodes[2])
    inputs = {"x": distinct(FLOAT32, 2, 3), "zero": shape_of(0)}
    reference = lambda x, _: np.concatenate([x, np.zeros((1, 3))])  # noqa: E731
    found.append(
        Case(
            "Concat-of-fill",
            nodes,
            inputs,
            ("y",),
            constants=("zero",),
            **{**settings, "reference": reference},
        )
    )
    return found


def pad_cases() -> list[Case]:
    found = []
    for shape, widths in [
        ((3, 4), (1, 2, 0, 3)),
        ((3, 4), (0, 0, 0, 0)),
        ((3, 4), (0, 2, 0, 0)),
        ((3, 4), (-1, 1, -1, -2)),
        ((5,), (2, 1)),
        ((2, 3, 4), (1, 0, 2, 0, 1, 1)),
    ]:
        for mode in ("constant", "reflect", "edge", "wrap"):
            inputs = {"x": distinct(FLOAT32, *shape), "pads": shape_of(*widths)}
            name = f"{shape}{widths}{mode}"
            found += moving(name, "Pad", inputs, _padding(widths, mode), attributes={"mode": mode})
    for shape, widths in [((0, 2), (1, 0, 1, 0)), ((3, 4), (-2, 0, -1, 0)), ((), ())]:
        inputs = {"x": distinct(FLOAT32, *shape), "pads": shape_of(*widths)}
        found += moving(f"{shape}{widths}", "Pad", inputs, _padding(widths, "constant"))
    # Reflections and copies that run over the data more than once.
    for mode in ("reflect", "wrap", "edge"):
        inputs = {"x": distinct(FLOAT32, 3), "pads": shape_of(7, 8)}
        found += moving(f"far-{mode}", "Pad", inputs, _padding((7, 8), mode), attributes={"mode": mode})
    for dtype in (*NUMBERS, BOOL):
        value = np.array(1, dtype)
        inputs = {"x": uniform(dtype, 2, 3), "pads": shape_of(1, 0, 0, 2), "value": value}
        found += moving(f"value-{dtype}", "Pad", inputs, _padding((1, 0, 0, 2), "constant", 1))
    inputs = {
        "x": distinct(FLOAT32, 2, 3, 4),
        "pads": shape_of(1, 2, 3, 0),
        "value": np.array(-2.5, np.float32),
        "axes": shape_of(-1, 0),
    }
    found += moving("axes", "Pad", inputs, _padding((2, 0, 1, 0, 0, 3), "constant", -2.5))
    inputs = {
        "x": distinct(BFLOAT16, 2, 3),
        "pads": shape_of(1, 2),
        "value": None,
        "axes": np.array([1], np.int32),
    }
    found += moving("axes-without-value", "Pad", inputs, _padding((0, 1, 0, 2), "constant"))
    x = {"x": distinct(FLOAT32, 2, 3)}
    for opset, name in ((1, "paddings"), (2, "pads")):
        attributes = {name: [1, 0, 0, 2], "value": 3.0}
        found += moving(
            "attributes", "Pad", x, _padding((1, 0, 0, 2), "constant", 3), attributes=attributes, opset=opset
        )
        attributes = {name: [1, 0, 0, 2], "mode": "reflect"}
        found += moving(
            "reflect", "Pad", x, _padding((1, 0, 0, 2), "reflect"), attributes=attributes, opset=opset
        )
    return found


def _padding(widths, mode, value=0.0):
    def pad(x, *_):
        pairs = list(zip(widths[: x.ndim], widths[x.ndim :], strict=True))
        for axis, (before, after) in enumerate(pairs):
            x = x.take(range(max(-before, 0), x.shape[axis] - max(-after, 0)), axis)
        positive = [(max(before, 0), max(after, 0)) for before, after in pairs]
        if not positive:
            return x
        return np.pad(x, positive, mode, **({"constant_values": value} if mode == "constant" else {}))

    return pad


CASES = [
    *reshape_cases(),
    *axes_cases(),
    *repeat_cases(),
    *block_cases(),
    *part_cases(),
    *slice_cases(),
    *composed_cases(),
    *pad_cases(),
]
