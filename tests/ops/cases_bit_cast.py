"""BitCast."""

import itertools
import math

import ml_dtypes
import numpy as np
from cases import BFLOAT16, BOOL, FLOAT16, FLOAT32, FLOAT64, Case, case, tensor_code, uniform
from onnx import helper

GROUPS = [
    [np.dtype(name) for name in ("int8", "uint8", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu")],
    [FLOAT16, BFLOAT16, np.dtype(np.int16), np.dtype(np.uint16)],
    [FLOAT32, np.dtype(np.int32), np.dtype(np.uint32)],
    [FLOAT64, np.dtype(np.int64), np.dtype(np.uint64), np.dtype(np.complex64)],
]
NARROW = [np.dtype(ml_dtypes.int4), np.dtype(ml_dtypes.uint4), np.dtype(ml_dtypes.float4_e2m1fn)]


def any_bits(dtype, *shape):
    """Elements of any bits, signalling NaN too."""

    def make(random):
        count = math.prod(shape) * dtype.itemsize
        return np.frombuffer(random.bytes(count), dtype).reshape(shape)

    return make


class BitCase(Case):
    """Compares bits: NaN of other bits is another result, and -0 is not 0."""

    def check(self, results, seed=0):
        (found,), (right,) = results.values(), self.expected(seed).values()
        found = np.asarray(found)
        assert found.dtype == right.dtype
        assert found.shape == right.shape
        assert found.tobytes() == right.tobytes()

    def expected(self, seed=0):
        (x,) = self.values(seed).values()
        (output,), (target,) = self.outputs, self.dtypes
        return {output: np.ascontiguousarray(x).reshape(x.shape).view(target)}


def bit_case(name, source, target, *shape) -> Case:
    made = case(
        name,
        "BitCast",
        {"x": any_bits(source, *shape)},
        attributes={"to": tensor_code(target)},
        dtypes=(target,),
    )
    return BitCase(**{field: getattr(made, field) for field in made.__dataclass_fields__})


def doubled_bits(x):
    bits = np.ascontiguousarray(x.T.astype(BFLOAT16)).view(np.uint16)
    return bits + bits


def bit_cast_cases() -> list[Case]:
    found = []
    for group in GROUPS:
        for source, target in itertools.permutations(group, 2):
            found.append(bit_case(f"{source} {target}", source, target, 3, 5, 7))
    for shape in ((), (0, 3), (1, 1)):
        found.append(bit_case(f"{shape}", FLOAT32, np.dtype(np.int32), *shape))
    for source, target in itertools.permutations(NARROW, 2):
        values = np.arange(16).astype(np.uint8)
        stored = {"uint4": values, "int4": values ^ 8}.get(source.name)
        x = values.view(source) if stored is None else (stored - 8 * (source.name == "int4")).astype(np.int8)
        x = x.astype(source) if stored is not None else x
        bits = x.astype(np.int8).astype(np.uint8) & 15 if stored is not None else x.view(np.uint8)
        right = {
            "uint4": lambda bits: bits.astype(ml_dtypes.uint4),
            "int4": lambda bits: (((bits ^ 8).astype(np.int8)) - 8).astype(ml_dtypes.int4),
        }.get(target.name, lambda bits: bits.view(ml_dtypes.float4_e2m1fn))(bits)
        found.append(
            case(
                f"{source} {target}",
                "BitCast",
                {"x": x},
                attributes={"to": tensor_code(target)},
                reference=lambda x, right=right: right,
                dtypes=(target,),
            )
        )
    for source, target in [(BOOL, np.dtype(np.uint8)), (np.dtype(np.uint8), BOOL), (BOOL, np.dtype(np.int8))]:
        inputs = {"x": uniform(source, 4, 9, low=0, high=1)}
        settings = {"attributes": {"to": tensor_code(target)}, "dtypes": (target,)}
        found.append(case(f"{source} {target}", "BitCast", inputs, reference=lambda x: x, **settings))
    nodes = (
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
        helper.make_node("BitCast", ["t"], ["c"], to=tensor_code(np.dtype(np.uint16))),
        helper.make_node("Add", ["c", "c"], ["y"]),
    )
    settings = {"reference": doubled_bits, "dtypes": (np.dtype(np.uint16),)}
    found.append(Case("BitCast transposed", nodes, {"x": uniform(BFLOAT16, 33, 40)}, ("y",), **settings))
    return found


CASES = bit_cast_cases()
