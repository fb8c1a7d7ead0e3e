"""Matrix products and Einsum."""

import numpy as np
from cases import FLOAT16, FLOAT32, FLOATS, INTEGERS, SIGNED, UNSIGNED, Case, case, uniform

WHOLE = (*SIGNED[2:], *UNSIGNED[2:])


def tolerance(dtype):
    return (1e-2, 3e-2) if dtype.itemsize == 2 else None


def matrix_cases() -> list[Case]:
    found = []
    for left, right in [
        ((3, 4), (4, 5)),
        ((4,), (4, 5)),
        ((3, 4), (4,)),
        ((4,), (4,)),
        ((2, 3, 4), (4, 5)),
        ((2, 3, 4), (2, 4, 5)),
        ((2, 3, 4), (1, 4, 5)),
        ((3, 4), (2, 4, 5)),
        ((2, 1, 3, 4), (5, 4, 2)),
        ((2, 3, 4), (4,)),
        ((4,), (2, 4, 3)),
        ((1, 1), (1, 1)),
        ((0, 4), (4, 5)),
        ((3, 0), (0, 5)),
        ((2, 3, 4), (4, 0)),
        ((17, 33), (33, 65)),
    ]:
        inputs = {"x": uniform(FLOAT32, *left), "y": uniform(FLOAT32, *right)}
        settings = {"reference": np.matmul, "tolerance": (1e-5, 1e-4)}
        found.append(case(f"{left}{right}", "MatMul", inputs, **settings))
        found.append(case(f"{left}{right}-constant", "MatMul", inputs, constants=("y",), **settings))
    for dtype in (*FLOATS, *WHOLE):
        inputs = {"x": uniform(dtype, 3, 7, low=-99, high=99), "y": uniform(dtype, 7, 5)}
        settings = {"reference": np.matmul, "tolerance": tolerance(dtype)}
        found.append(case(f"{dtype}", "MatMul", inputs, **settings))
    return found


def general_cases() -> list[Case]:
    found = []
    for left in (0, 1):
        for right in (0, 1):
            for bias in (None, (), (1,), (5,), (3, 1), (1, 5), (3, 5)):
                for alpha, beta in ((1.0, 1.0), (0.5, -2.0)):
                    inputs = {
                        "x": uniform(FLOAT32, *((7, 3) if left else (3, 7))),
                        "y": uniform(FLOAT32, *((5, 7) if right else (7, 5))),
                    }
                    if bias is not None:
                        inputs["c"] = uniform(FLOAT32, *bias)
                    attributes = {"transA": left, "transB": right, "alpha": alpha, "beta": beta}
                    settings = {
                        "attributes": attributes,
                        "reference": _gemm(**attributes),
                        "tolerance": (1e-5, 1e-4),
                    }
                    found.append(case(f"{left}{right}{bias}{alpha}", "Gemm", inputs, **settings))
    for dtype in (*FLOATS, *WHOLE):
        inputs = {"x": uniform(dtype, 3, 7), "y": uniform(dtype, 7, 5), "c": uniform(dtype, 5)}
        settings = {"reference": _gemm(), "tolerance": tolerance(dtype)}
        found.append(case(f"{dtype}", "Gemm", inputs, **settings))
        attributes = {"alpha": 2.0, "beta": 3.0}
        settings["reference"] = _gemm(**attributes)
        found.append(case(f"{dtype}-factors", "Gemm", inputs, attributes=attributes, **settings))
    for opset in (1, 6, 7, 9):
        attributes = {"broadcast": 1} if opset < 7 else {}
        inputs = {"x": uniform(FLOAT32, 3, 7), "y": uniform(FLOAT32, 7, 5), "c": uniform(FLOAT32, 5)}
        settings = {"reference": _gemm(), "attributes": attributes, "opset": opset, "tolerance": (1e-5, 1e-4)}
        found.append(case("old", "Gemm", inputs, **settings))
    for shapes in [((3, 0), (0, 5)), ((0, 4), (4, 5))]:
        inputs = {
            "x": uniform(FLOAT32, *shapes[0]),
            "y": uniform(FLOAT32, *shapes[1]),
            "c": uniform(FLOAT32, 5),
        }
        found.append(case(f"{shapes}", "Gemm", inputs, reference=_gemm()))
    return found


def _gemm(transA=0, transB=0, alpha=1, beta=1):
    def multiply(x, y, c=0):
        alpha_, beta_ = (int(alpha), int(beta)) if x.dtype.kind in "iu" else (alpha, beta)
        product = (x.T if transA else x) @ (y.T if transB else y)
        return (alpha_ * product + beta_ * c).astype(product.dtype)

    return multiply


def einsum_cases() -> list[Case]:
    found = []
    for equation, *shapes in [
        ("ij,jk->ik", (3, 4), (4, 5)),
        ("ij,jk", (3, 4), (4, 5)),
        ("ij,kj->ki", (3, 4), (5, 4)),
        ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)),
        ("bhid,bhjd->bhij", (2, 3, 4, 5), (2, 3, 6, 5)),
        ("bhij,bjhd->bihd", (2, 3, 4, 6), (2, 6, 3, 5)),
        ("ij->ji", (3, 4)),
        ("ij", (3, 4)),
        ("ba", (3, 4)),
        ("ij->i", (3, 4)),
        ("ij->", (3, 4)),
        ("ii->i", (4, 4)),
        ("ii", (4, 4)),
        ("iij->ij", (3, 3, 4)),
        ("ijij->ij", (2, 3, 2, 3)),
        ("i,i", (5,), (5,)),
        ("i,i->i", (5,), (5,)),
        ("i,j->ij", (3,), (4,)),
        ("ij,ij->i", (3, 4), (3, 4)),
        ("ij,ij->", (3, 4), (3, 4)),
        ("ijk,kj->i", (2, 3, 4), (4, 3)),
        ("...ij,...jk->...ik", (2, 3, 4), (2, 4, 5)),
        ("...ij,...jk", (2, 3, 4), (1, 4, 5)),
        ("...i->...", (2, 3, 4)),
        ("...->...", (2, 3)),
        ("i...,i...->...", (3, 2, 4), (3, 2, 4)),
        ("...ij->...ji", (2, 3, 4)),
        ("...ii->...i", (2, 3, 3)),
        ("ab,bc,cd->ad", (2, 3), (3, 4), (4, 5)),
        ("ab,ac,ad->bcd", (2, 3), (2, 4), (2, 5)),
        ("a,ab,b->", (3,), (3, 4), (4,)),
        ("ibnd,jbnd->bnij", (3, 2, 4, 5), (6, 2, 4, 5)),
        ("abcd,cdef->abef", (2, 3, 4, 5), (4, 5, 2, 3)),
        ("aBc,Bc->a", (2, 3, 4), (3, 4)),
        (" i j , j k -> i k ", (3, 4), (4, 5)),
        ("ij,jk->ik", (0, 4), (4, 5)),
        ("ij,jk->ik", (3, 0), (0, 5)),
        (",i->i", (), (4,)),
        ("ij,k->jk", (3, 4), (5,)),
    ]:
        inputs = {f"x{i}": uniform(FLOAT32, *shape) for i, shape in enumerate(shapes)}
        reference = _einsum(equation)
        settings = {"attributes": {"equation": equation}, "reference": reference, "tolerance": (1e-5, 1e-4)}
        found.append(case(f"{equation}{shapes}", "Einsum", inputs, **settings))
    # Extents of 1 are broadcast, for letters as for ellipses.
    inputs = {"x": uniform(FLOAT32, 3, 1), "y": uniform(FLOAT32, 4, 5)}
    settings = {"attributes": {"equation": "ij,jk->ik"}, "tolerance": (1e-5, 1e-4)}
    reference = lambda x, y: np.repeat(x, 4, 1) @ y  # noqa: E731
    found.append(case("broadcast", "Einsum", inputs, reference=reference, **settings))
    for dtype in (*FLOATS, *INTEGERS):
        inputs = {"x": uniform(dtype, 2, 3, 4), "y": uniform(dtype, 2, 4, 5)}
        for equation in ("bij,bjk->bik", "bij,cjk->bi", "bij,bjk->j"):
            settings = {"attributes": {"equation": equation}, "reference": _einsum(equation)}
            settings["tolerance"] = (2e-2, 0.6) if dtype.itemsize == 2 else (1e-5, 1e-4)
            found.append(case(f"{equation}-{dtype}", "Einsum", inputs, **settings))
    return found


def _einsum(equation):
    return lambda *operands: np.einsum(equation.replace(" ", ""), *operands)


def fused_cases() -> list[Case]:
    found = []
    settings = {"domain": "com.microsoft"}
    for attributes, left, right, meaning in [
        ({}, (2, 3, 4), (4, 5), np.matmul),
        ({"alpha": 0.5}, (2, 3, 4), (2, 4, 5), lambda x, y: 0.5 * x @ y),
        ({"transA": 1}, (2, 4, 3), (2, 4, 5), lambda x, y: x.swapaxes(1, 2) @ y),
        ({"transB": 1, "alpha": 2.0}, (2, 3, 4), (5, 4), lambda x, y: 2 * x @ y.T),
        (
            {"transBatchA": 1, "transBatchB": 1},
            (3, 2, 4),
            (4, 2, 5),
            lambda x, y: x.transpose(1, 0, 2) @ y.transpose(1, 0, 2),
        ),
        (
            {"transBatchA": 1, "transA": 1},
            (4, 2, 3),
            (2, 4, 5),
            lambda x, y: x.transpose(1, 2, 0) @ y,
        ),
    ]:
        inputs = {"x": uniform(FLOAT32, *left), "y": uniform(FLOAT32, *right)}
        more = {"attributes": attributes, "reference": meaning, "tolerance": (1e-5, 1e-4)}
        found.append(case(f"{attributes}{left}", "FusedMatMul", inputs, **more, **settings))
    inputs = {"x": uniform(FLOAT16, 3, 4), "y": uniform(FLOAT16, 4, 5)}
    more = {"attributes": {"alpha": 0.125}, "reference": lambda x, y: x @ y / 8, "tolerance": (2e-3, 2e-3)}
    found.append(case("float16", "FusedMatMul", inputs, **more, **settings))
    return found


CASES = [*matrix_cases(), *general_cases(), *einsum_cases(), *fused_cases()]
