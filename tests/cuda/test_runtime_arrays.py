"""Tensors on the device: given to other libraries and taken from them, in order and without copies."""

from __future__ import annotations

import gc
import weakref

import ml_dtypes
import numpy as np
import pytest
from runtime_plans import Bench, chained, run, values
from standin_arrays import FakeCudaArray

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import InvalidFeedsError
from onnxplan.runtime.cuda import dlpack
from onnxplan.runtime.cuda.array import DeviceArray

SHARED = [dtype for dtype in DType if dtype not in dlpack.PACKED]


def sample(dtype: np.dtype, shape: tuple[int, ...] = (3, 4)) -> np.ndarray:
    count = int(np.prod(shape))
    data = np.random.default_rng(0).integers(0, 256, count * dtype.itemsize, dtype=np.uint8)
    return (data % 2 if dtype.kind == "b" else data).view(dtype).reshape(shape)


class InterfaceOnly:
    """Something with the CUDA array interface alone."""

    def __init__(self, **interface: object) -> None:
        self.__cuda_array_interface__ = interface


class Producer:
    """A tensor of another library that gives capsules of one version, or of any."""

    def __init__(self, array: DeviceArray, *, version: bool) -> None:
        self.array = array
        self.version = version
        self.streams: list[int | None] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()

    def __dlpack__(self, **options: object) -> object:
        if not self.version and "max_version" in options:
            raise TypeError("unexpected keyword argument 'max_version'")
        self.streams.append(options["stream"])
        return self.array.__dlpack__(**options)


@pytest.mark.parametrize("dtype", SHARED, ids=str)
@pytest.mark.parametrize("version", [False, True])
def test_all_types_go_out_and_come_back_without_a_copy(bench, dtype, version):
    data = sample(dtype.numpy)
    array = bench.device_array(data)
    producer = Producer(array, version=version)
    bench.counters.clear()
    back = bench.device.import_array(producer)
    assert bench.counters.copies == {}
    assert back.pointer == array.pointer
    assert (back.shape, back.dtype) == (data.shape, data.dtype)
    assert producer.streams == [back.stream]
    assert back.stream not in (None, 0, 1, 2)
    assert back.numpy().tobytes() == data.tobytes()


@pytest.mark.parametrize("dtype", [d for d in SHARED if d.numpy.isbuiltin == 1], ids=str)
def test_all_types_of_numpy_by_the_cuda_array_interface(bench, dtype):
    data = sample(dtype.numpy)
    array = bench.device_array(data)
    interface = array.__cuda_array_interface__
    assert interface["version"] == 3
    assert interface["stream"] is None
    back = bench.device.import_array(InterfaceOnly(**interface))
    assert back.pointer == array.pointer
    assert back.dtype == data.dtype
    assert back.stream is None
    assert back.numpy().tobytes() == data.tobytes()


def test_types_without_a_form_elsewhere(bench):
    array = bench.device_array(np.zeros(4, ml_dtypes.int4))
    with pytest.raises(BufferError, match="int4"):
        array.__dlpack__()
    array = bench.device_array(np.zeros(4, ml_dtypes.bfloat16))
    assert not hasattr(array, "__cuda_array_interface__")


def test_capsules_that_nobody_uses_and_tensors_that_are_done_with(bench):
    array = bench.device_array(values())
    gone = weakref.ref(array)
    before = len(dlpack._exported)
    for version in (None, (1, 0)):
        capsule = array.__dlpack__(max_version=version)
        assert len(dlpack._exported) == before + 1
        del capsule
        assert len(dlpack._exported) == before
    imported = dlpack.consume(array.__dlpack__(max_version=(1, 0)))
    del array
    assert gone() is not None
    del imported
    assert gone() is None
    assert len(dlpack._exported) == before


def test_a_capsule_is_used_once(bench):
    capsule = bench.device_array(values()).__dlpack__()
    kept = dlpack.consume(capsule)
    with pytest.raises(BufferError, match="used before"):
        dlpack.consume(capsule)
    assert kept.shape == (300,)


def test_numpy_reads_a_copy_on_the_host(bench):
    data = values(12).reshape(3, 4)
    array = bench.device_array(data)
    np.testing.assert_array_equal(np.from_dlpack(HostView(array)), data)
    np.testing.assert_array_equal(np.asarray(array), data)
    np.testing.assert_array_equal(np.asarray(array, np.float64), data)
    with pytest.raises(ValueError, match="without a copy"):
        array.__array__(copy=False)
    with pytest.raises(BufferError, match="cannot be given"):
        array.__dlpack__(dl_device=(1, 0), copy=False)
    with pytest.raises(BufferError, match="cannot be given"):
        array.__dlpack__(dl_device=(2, 1))
    with pytest.raises(BufferError, match="not supported"):
        array.__dlpack__(copy=True)
    with pytest.raises(ValueError, match="ambiguous"):
        array.__dlpack__(stream=0)


class HostView:
    """Asks for the tensor on the host."""

    def __init__(self, array: DeviceArray) -> None:
        self.array = array

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __dlpack__(self, **options: object) -> object:
        return self.array.__dlpack__(dl_device=(1, 0), max_version=options.get("max_version"))


@pytest.mark.parametrize("through", ["dlpack", "interface"])
def test_feeds_are_waited_for_on_the_device(bench, through):
    executor = bench.chain()
    for round_ in range(4):
        data = values(seed=round_)
        given = FakeCudaArray(bench.standin, data)
        before = bench.counters.synchronisations
        value = given if through == "dlpack" else InterfaceOnly(**given.__cuda_array_interface__)
        array = bench.device.import_array(value)
        assert bench.counters.synchronisations == before, "the host does not wait"
        assert array.pointer == given.pointer
        np.testing.assert_array_equal(run(executor, array)[0], chained(data))
        del array, value
        assert given.released == given.exported
        given.close()


def test_a_read_only_and_an_old_producer(bench):
    given = FakeCudaArray(bench.standin, values(), read_only=True)
    assert bench.device.import_array(given).pointer == given.pointer
    with pytest.raises(InvalidFeedsError, match="read-only"):
        bench.device.import_array(given, copy=False)
    with pytest.raises(ValueError, match="read-only"):
        bench.device.import_array(InterfaceOnly(**given.__cuda_array_interface__), copy=False)
    writable = FakeCudaArray(bench.standin, values())
    assert bench.device.import_array(writable, copy=False).pointer == writable.pointer
    interface = {**writable.__cuda_array_interface__, "version": 2}
    del interface["stream"]
    runtime = bench.standin.runtime
    runtime.streamSynchronize(writable.stream)
    np.testing.assert_array_equal(
        run(bench.chain(), bench.device.import_array(InterfaceOnly(**interface)))[0], chained(values())
    )


@pytest.mark.parametrize("through", ["dlpack", "interface"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.int64, np.complex128])
def test_other_layouts_are_made_contiguous_on_the_device(bench, dtype, through):
    data = (values(24) % 50).astype(dtype).reshape(2, 3, 4)
    given = FakeCudaArray(bench.standin, data, order="F")
    before = bench.counters.synchronisations
    value = given if through == "dlpack" else InterfaceOnly(**given.__cuda_array_interface__)
    array = bench.device.import_array(value)
    assert bench.counters.synchronisations == before
    assert bench.counters.copies["device to host"] == 1, "that of the probe"
    np.testing.assert_array_equal(array.numpy(), data)
    with pytest.raises(InvalidFeedsError, match="not C-contiguous"):
        bench.device.import_array(value, copy=False)


def test_what_a_copy_reads_is_kept_until_it_is_over():
    bench = Bench(query_steps=0)
    given = FakeCudaArray(bench.standin, values(24).reshape(4, 6), order="F")
    array = bench.device.import_array(given)
    pointer = array.pointer
    del array
    assert given.released < given.exported
    bench.device.allocate((3,), np.dtype(np.float32), host=False)
    assert given.released < given.exported
    assert pointer in {block.address for block in bench.standin.memory}
    bench.standin.runtime.streamSynchronize(1)
    bench.device.allocate((3,), np.dtype(np.float32), host=False)
    assert given.released == given.exported
    assert bench.standin.violations == []
    assert pointer not in {block.address for block in bench.standin.memory}


def test_overlapping_and_reversed_strides_by_the_interface(bench):
    data = values(10)
    array = bench.device_array(data)
    interface = {**array.__cuda_array_interface__, "shape": (3, 4), "strides": (8, 4)}
    back = bench.device.import_array(InterfaceOnly(**interface))
    np.testing.assert_array_equal(back.numpy(), np.lib.stride_tricks.as_strided(data, (3, 4), (8, 4)))
    last = array.pointer + 9 * 4
    interface = {**array.__cuda_array_interface__, "data": (last, False), "strides": (-4,)}
    np.testing.assert_array_equal(bench.device.import_array(InterfaceOnly(**interface)).numpy(), data[::-1])
    broadcast = {**array.__cuda_array_interface__, "shape": (2, 10), "strides": (0, 4)}
    np.testing.assert_array_equal(
        bench.device.import_array(InterfaceOnly(**broadcast)).numpy(), np.stack([data, data])
    )


def test_empty_tensors_and_scalars(bench):
    for shape in ((0,), (2, 0, 3), ()):
        array = bench.device_array(np.ones(shape, np.float32))
        back = bench.device.import_array(Producer(array, version=True))
        assert back.shape == shape
        np.testing.assert_array_equal(back.numpy(), np.ones(shape, np.float32))
        interface = array.__cuda_array_interface__
        assert (interface["data"][0] == 0) == (0 in shape)
        assert bench.device.import_array(InterfaceOnly(**interface)).shape == shape


def test_what_is_not_on_the_device(bench):
    assert bench.device.import_array(np.zeros(3)) is None
    assert bench.device.import_array([1, 2]) is None
    assert bench.device.import_array(HostView(bench.device_array(values()))) is None


def test_tensors_of_another_device():
    bench = Bench(devices=2)
    bench.standin.runtime.setDevice(1)
    given = FakeCudaArray(bench.standin, values())
    bench.standin.runtime.setDevice(0)
    for value in (given, InterfaceOnly(**given.__cuda_array_interface__)):
        with pytest.raises(InvalidFeedsError, match="is on cuda:1, the session runs on cuda:0"):
            bench.device.import_array(value)
    first, bench.device = bench.device, bench.open(1)
    array = bench.device_array(values())
    with pytest.raises(InvalidFeedsError, match="is on cuda:1, the session runs on cuda:0"):
        first.import_array(array)
    bench.standin.runtime.setDevice(1)
    given.close()


def test_types_that_onnx_has_not(bench):
    pointer = bench.device_array(values()).pointer
    for changes, expected in (
        ({"typestr": "<M8[s]"}, "has no ONNX element type"),
        ({"typestr": ">f4"}, "byte order"),
        ({"mask": object()}, "mask"),
    ):
        interface = {"shape": (3,), "typestr": "<f4", "data": (pointer, False), "version": 3, **changes}
        with pytest.raises(InvalidFeedsError, match=expected):
            bench.device.import_array(InterfaceOnly(**interface))


def test_outputs_in_tensors_of_other_libraries(bench):
    executor = bench.chain()
    for number in range(3):
        target = FakeCudaArray(bench.standin, np.zeros(300, np.float32))
        array = bench.device.import_array(target, copy=False)
        executor.run((values(seed=number),), (array,))
        assert array.pointer == target.pointer
        np.testing.assert_array_equal(array.numpy(), chained(values(seed=number)))
        del array
        target.close()


def test_a_fed_tensor_that_is_dropped_during_its_run_is_kept(bench):
    bench.standin.query_steps = 0
    executor = bench.chain()
    given = FakeCudaArray(bench.standin, values())
    result = np.empty(300, np.float32)
    started = executor.launch((bench.device.import_array(given),), (result,))
    gc.collect()
    assert given.released == 0
    started.wait()
    assert given.released == 1
    np.testing.assert_array_equal(result, chained(values()))
    given.close()


def test_results_are_in_order_for_their_consumer(bench):
    array = bench.device.import_array(FakeCudaArray(bench.standin, values()))
    runtime = bench.standin.runtime
    consumer = runtime.streamCreateWithFlags(runtime.streamNonBlocking)
    kept = dlpack.consume(array.__dlpack__(stream=consumer))
    copy = bench.standin.allocate(1200)
    runtime.memcpyAsync(copy.ptr, kept.pointer, 1200, runtime.memcpyDeviceToDevice, consumer)
    runtime.streamSynchronize(consumer)
    runtime.streamDestroy(consumer)
    # The default stream is the consumer where none is named.
    kept = dlpack.consume(array.__dlpack__())
    runtime.memcpy(copy.ptr, kept.pointer, 1200, runtime.memcpyDeviceToDevice)


def test_what_is_printed(bench):
    array = bench.device_array(values(12).reshape(3, 4))
    assert repr(array) == "DeviceArray(float32[3, 4] on cuda:0)"
    assert (array.size, array.ndim, array.nbytes, array.location) == (12, 2, 48, "cuda:0")
