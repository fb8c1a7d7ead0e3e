"""Convolutions by cuDNN on the stand-in, which checks the descriptors as NVIDIA documents them."""

from __future__ import annotations

import ctypes
import itertools
import threading
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from standin import StrictError
from standin_cudnn import Engine
from standin_cudnn_rules import ATTRIBUTE_TYPE, BAD_PARAM, NOT_FINALIZED, NOT_INITIALIZED
from standin_samples import TO_DEVICE, TO_HOST, Machine

from onnxplan.compiler.errors import UnsupportedOperatorError
from onnxplan.runtime.cuda.convolution import (
    BoundConvolution,
    BoundFloat32Convolution,
    Convolution,
    channels_last,
)
from onnxplan.runtime.cuda.cudnn import Attribute, Cudnn, CudnnError, Descriptor, Kind, NumericalNote
from onnxplan.runtime.cuda.operation_graph import Tensor

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
TOLERANCES = {"float32": 3e-3, "float16": 4e-3, "bfloat16": 3e-2}


class Bench:
    """A device, cuDNN with a handle, and a stream."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.standin = self.machine.standin
        self.library = Cudnn(self.standin.cudnn)
        self.handle = self.library.create_handle()
        self.stream = self.machine.stream()

    def bind(
        self,
        convolution: Convolution,
        workspace: int = 1 << 20,
        kind: type[BoundConvolution] = BoundConvolution,
    ) -> BoundConvolution:
        return kind(self.library, self.handle, threading.Lock(), convolution, workspace=workspace)

    def put(self, array: np.ndarray, beyond: int = 0):
        block = self.standin.allocate(array.nbytes + beyond)
        source = np.ascontiguousarray(array)
        self.standin.runtime.memcpy(block.ptr + beyond, source.ctypes.data, source.nbytes, TO_DEVICE)
        return block

    def run(self, bound: BoundConvolution, arrays: list[np.ndarray], result: np.ndarray) -> np.ndarray:
        blocks = [self.put(array) for array in (*arrays, result)]
        workspace = self.standin.allocate(max(1, bound.workspace_bytes))
        with bound.pack([block.ptr for block in blocks], workspace.ptr) as pack:
            bound.launcher(pack)(self.stream)
            self.standin.runtime.streamSynchronize(self.stream)
        self.standin.runtime.memcpy(result.ctypes.data, blocks[-1].ptr, result.nbytes, TO_HOST)
        return result


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    assert not bench.standin.violations


def tensor(array: np.ndarray) -> Tensor:
    """Of an array whose last axis are channels."""
    size = array.itemsize
    return channels_last(array.shape, [stride // size for stride in array.strides])


def draw(rng, dtype: str, added: tuple[str, ...], relu: bool, *, axes: int = 2, groups: int = 1):
    """A convolution of odd extents, its inputs, and an array for its result."""
    spatial = rng.integers(5, 9, axes)
    taps, strides, dilations = (rng.integers(1, 4, axes), rng.integers(1, 3, axes), rng.integers(1, 3, axes))
    before, after = rng.integers(0, 3, axes), rng.integers(0, 3, axes)
    images, channels, features = 3, 8, 16
    extents = (spatial + before + after - (taps - 1) * dilations - 1) // strides + 1
    assert (extents > 0).all()
    x = rng.standard_normal((images, *spatial, groups * channels)).astype(DTYPES[dtype])
    w = rng.standard_normal((groups * features, *taps, channels)).astype(DTYPES[dtype])
    y = np.full((images, *extents, groups * features), np.nan, DTYPES[dtype])
    extras = {
        "residual": rng.standard_normal(y.shape).astype(DTYPES[dtype]),
        "bias": rng.standard_normal((1,) * (axes + 1) + y.shape[-1:]).astype(DTYPES[dtype]),
    }
    convolution = Convolution(
        dtype,
        tensor(x),
        tensor(w),
        tensor(y),
        tuple((name, tensor(extras[name])) for name in added),
        relu,
        *(tuple(map(int, values)) for values in (strides, dilations, before, after)),
    )
    return convolution, [x, w, *(extras[name] for name in added)], y


def expected(convolution: Convolution, arrays: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """The sum for each place of the result, written down as it is defined, in float64."""
    x, w, *added = (array.astype(np.float64) for array in arrays)
    c, groups = convolution, x.shape[-1] // w.shape[-1]
    total = np.zeros(shape)
    for place in itertools.product(*map(range, shape[1:-1])):
        for tap in itertools.product(*map(range, w.shape[1:-1])):
            at = [
                p * s + t * d - b
                for p, s, t, d, b in zip(place, c.strides, tap, c.dilations, c.pads_before, strict=True)
            ]
            if all(0 <= i < n for i, n in zip(at, x.shape[1:-1], strict=True)):
                for group in range(groups):
                    channels = slice(group * w.shape[-1], (group + 1) * w.shape[-1])
                    features = slice(group * shape[-1] // groups, (group + 1) * shape[-1] // groups)
                    read = x[(slice(None), *at, channels)]
                    total[(slice(None), *place, features)] += read @ w[(features, *tap)].T
    for array in added:
        total = total + array
    return np.maximum(total, 0) if c.relu else total


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize(("axes", "groups"), [(2, 1), (2, 3), (3, 2)])
@pytest.mark.parametrize("added", [(), ("bias",), ("residual",), ("residual", "bias")])
@pytest.mark.parametrize("relu", [False, True])
def test_convolution_with_what_follows(bench, dtype, axes, groups, added, relu):
    rng = np.random.default_rng([axes, groups, len(added), relu])
    convolution, arrays, y = draw(rng, dtype, added, relu, axes=axes, groups=groups)
    bound = bench.bind(convolution)
    found = bench.run(bound, arrays, y).astype(np.float64)
    wanted = expected(convolution, arrays, y.shape)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCES[dtype] * np.abs(wanted).max())
    assert bench.standin.counters.convolutions == 1
    bound.close()
    assert not [leak for leak in bench.standin.cudnn.leaks() if "descriptor" in leak]


def small(**changes: object) -> Convolution:
    convolution, _, _ = draw(np.random.default_rng(0), "float16", ("bias",), True)
    return replace(convolution, **changes)


def test_the_first_engine_that_may_be_used_is(bench):
    unwanted = set(NumericalNote) - {NumericalNote.TENSOR_CORE}
    bench.standin.cudnn.engines = [
        *(Engine((0, note), 16) for note in sorted(unwanted)),
        Engine((0,), 32, refuses=True),
        Engine((0,), 1 << 21),
        Engine((0, 77), 64),
        Engine((), 128),
    ]
    bound = bench.bind(small())
    assert bound.workspace_bytes == 64
    bound.close()


@pytest.mark.parametrize("winograd", [False, True])
def test_without_matrix_instructions_the_first_engine_of_float32_is(bench, winograd, monkeypatch):
    note = NumericalNote
    tiles = {note.WINOGRAD, note.WINOGRAD_TILE_4x4, note.WINOGRAD_TILE_6x6}
    monkeypatch.setattr(BoundFloat32Convolution, "allowed_notes", frozenset(tiles if winograd else ()))
    bench.standin.cudnn.engines = [
        *(Engine((number,), 16) for number in sorted(set(note) - tiles)),
        Engine((0, 5, 6), 16),
        Engine((5, 6), 32),
        Engine((9,), 64),
    ]
    convolution, arrays, y = draw(np.random.default_rng(3), "float32", ("residual", "bias"), False)
    bound = bench.bind(convolution, kind=BoundFloat32Convolution)
    assert bound.workspace_bytes == (32 if winograd else 64)
    found = bench.run(bound, arrays, y)
    wanted = expected(convolution, arrays, y.shape)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
    bound.close()


def test_engines_of_the_fallback_come_last(bench):
    bench.standin.cudnn.engines = [Engine(workspace_bytes=8, mode=2), Engine(workspace_bytes=24)]
    assert bench.bind(small()).workspace_bytes == 24
    bench.standin.cudnn.engines = [Engine(workspace_bytes=8, mode=2), Engine(refuses=True)]
    assert bench.bind(small()).workspace_bytes == 8


@pytest.mark.parametrize(
    ("engines", "why"),
    [
        ([], "it offers no engine"),
        ([Engine((0, 5))], "the notes of an engine are TENSOR_CORE, WINOGRAD"),
        ([Engine((0, 1))], "the notes of an engine are DOWN_CONVERT_INPUTS, TENSOR_CORE"),
        ([Engine(())], "the notes of an engine are none"),
        ([Engine(refuses=True)], "the engine does not support the graph"),
        ([Engine(workspace_bytes=(1 << 20) + 1)], "needs 1048577 bytes"),
    ],
)
def test_without_an_engine_the_convolution_is_refused(bench, engines, why):
    bench.standin.cudnn.engines = engines
    with pytest.raises(UnsupportedOperatorError, match=why):
        bench.bind(small())
    assert len(bench.standin.cudnn.leaks()) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"strides": (1, 0)},
        {"pads_before": (0, -1)},
        {"dilations": (1,)},
        {"y": Tensor((3, 16, 2, 2), (64, 1, 32, 16))},
        {"x": Tensor((3, 8, 5, 5), (200, 25, 5, 1))},
    ],
)
def test_what_is_no_convolution_is_refused(bench, changes):
    with pytest.raises(UnsupportedOperatorError, match="cuDNN does not take the convolution"):
        bench.bind(small(**changes))
    assert len(bench.standin.cudnn.leaks()) == 1


def test_addresses_are_aligned_and_in_device_memory():
    bench = Bench()
    convolution, arrays, y = draw(np.random.default_rng(1), "float16", (), False)
    bound = bench.bind(convolution)
    blocks = [bench.put(array, beyond=8) for array in (*arrays, y)]
    workspace = bench.standin.allocate(bound.workspace_bytes)
    with (
        bound.pack([blocks[0].ptr + 8, blocks[1].ptr, blocks[2].ptr], workspace.ptr) as pack,
        pytest.raises(StrictError, match="no multiple of 16"),
    ):
        bound.launcher(pack)(bench.stream)
    with (
        bound.pack([blocks[0].ptr, blocks[1].ptr, arrays[0].ctypes.data // 16 * 16], workspace.ptr) as pack,
        pytest.raises(StrictError),
    ):
        bound.launcher(pack)(bench.stream)


def test_not_a_number_may_get_lost_in_relu_only(bench):
    convolution, arrays, y = draw(np.random.default_rng(2), "float32", ("bias",), False)
    arrays[-1][..., 3] = np.nan
    found = bench.run(bench.bind(convolution), arrays, y)
    assert np.isnan(found[..., 3]).all()
    assert not np.isnan(found[..., 4]).any()


def test_descriptors_say_what_is_wrong_with_them(bench):
    with Descriptor(bench.library, Kind.TENSOR) as descriptor:
        descriptor.set(Attribute.TENSOR_UNIQUE_ID, 1)
        with pytest.raises(CudnnError, match="are not set") as error:
            descriptor.finalize()
        assert error.value.status == BAD_PARAM
        with pytest.raises(CudnnError, match="no attribute 200"):
            descriptor.set(Attribute.ENGINEHEUR_MODE, 3)
        number = ctypes.c_int(1)
        with pytest.raises(CudnnError, match="is of type 3") as error:
            bench.library.call(
                "cudnnBackendSetAttribute", descriptor.handle, 900, 1, 1, ctypes.addressof(number)
            )
        assert error.value.status == ATTRIBUTE_TYPE
        with Descriptor(bench.library, Kind.OPERATION_POINTWISE) as operation:
            with pytest.raises(CudnnError, match="not finalised") as error:
                operation.set(Attribute.OPERATION_POINTWISE_XDESC, descriptor)
            assert error.value.status == NOT_FINALIZED
        descriptor.set(Attribute.TENSOR_DATA_TYPE, 0)
        descriptor.set(Attribute.TENSOR_BYTE_ALIGNMENT, 16)
        descriptor.set(Attribute.TENSOR_DIMENSIONS, 2, 3)
        descriptor.set(Attribute.TENSOR_STRIDES, 3, 1)
        descriptor.finalize()
        with pytest.raises(CudnnError, match="after the descriptor was finalised") as error:
            descriptor.set(Attribute.TENSOR_UNIQUE_ID, 2)
        assert error.value.status == NOT_INITIALIZED
