"""Pretended arrays of other libraries: what they say of themselves, and the ordering they need."""

from __future__ import annotations

import ctypes
import gc

import numpy as np
import pytest
from standin import StrictError
from standin_arrays import FakeCudaArray, ManagedTensor, VersionedTensor
from standin_samples import Machine

VALUES = np.arange(12, dtype=np.float32).reshape(3, 4)
_name = ctypes.pythonapi.PyCapsule_GetName
_name.restype, _name.argtypes = ctypes.c_char_p, (ctypes.py_object,)
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
_rename = ctypes.pythonapi.PyCapsule_SetName
_rename.argtypes = (ctypes.py_object, ctypes.c_char_p)
USED = b"used_dltensor"


@pytest.fixture
def machine():
    return Machine()


def consume(capsule):
    """Takes a capsule over: the managed tensor, and a function that gives it back."""
    name = _name(capsule)
    kind = VersionedTensor if name == b"dltensor_versioned" else ManagedTensor
    address = _pointer(capsule, name)
    managed = kind.from_address(address)
    _rename(capsule, USED)
    return managed, lambda: ctypes.CFUNCTYPE(None, ctypes.c_void_p)(managed.deleter)(address)


def test_the_array_interface(machine):
    array = FakeCudaArray(machine.standin, VALUES)
    interface = array.__cuda_array_interface__
    assert interface["shape"] == (3, 4)
    assert interface["typestr"] == "<f4"
    assert interface["data"] == (array.pointer, False)
    assert interface["version"] == 3
    assert interface["strides"] is None
    assert interface["stream"] == array.stream
    assert (array.numpy() == VALUES).all()
    array.close()
    del array
    assert machine.standin.leaks() == []


def test_arrays_by_columns(machine):
    array = FakeCudaArray(machine.standin, VALUES, order="F")
    assert array.__cuda_array_interface__["strides"] == (4, 12)
    assert (array.numpy() == VALUES).all()
    managed, give_back = consume(array.__dlpack__(stream=-1))
    assert managed.tensor.strides[:2] == [1, 3]
    give_back()


def test_a_consumer_waits_for_the_stream_of_the_array(machine):
    array, stream, kernel = FakeCudaArray(machine.standin, VALUES), machine.stream(), machine.kernel()
    target = machine.upload(np.zeros(12))
    launch = (kernel, array.pointer, target.ptr, 12, stream)
    with pytest.raises(StrictError, match="the producer of a fed array"):
        machine.launch(*launch)
    machine.runtime.streamWaitEvent(stream, machine.event(array.__cuda_array_interface__["stream"]))
    machine.launch(*launch)
    with pytest.raises(StrictError, match="nothing orders"):
        array.write(VALUES * 2)
    machine.runtime.streamSynchronize(stream)
    array.write(VALUES * 2)
    assert (machine.download(target.ptr, 12) == VALUES.ravel() + 1).all()
    assert (array.numpy() == VALUES * 2).all()


@pytest.mark.parametrize("max_version", [None, (0, 8), (1, 1)])
def test_dlpack(machine, max_version):
    array, stream, kernel = FakeCudaArray(machine.standin, VALUES), machine.stream(), machine.kernel()
    assert array.__dlpack_device__() == (2, 0)
    managed, give_back = consume(array.__dlpack__(stream=stream, max_version=max_version))
    assert isinstance(managed, VersionedTensor) == (max_version == (1, 1))
    tensor = managed.tensor
    assert (tensor.data, tensor.byte_offset, tensor.ndim) == (array.pointer, 0, 2)
    assert (tensor.device_type, tensor.device_id) == (2, 0)
    assert (tensor.code, tensor.bits, tensor.lanes) == (2, 32, 1)
    assert tensor.shape[:2] == [3, 4]
    target = machine.upload(np.zeros(12))
    machine.launch(kernel, tensor.data, target.ptr, 12, stream)
    machine.runtime.streamSynchronize(stream)
    assert (machine.download(target.ptr, 12) == VALUES.ravel() + 1).all()
    assert (array.exported, array.released) == (1, 0)
    give_back()
    assert array.released == 1


def test_the_memory_lives_until_the_consumer_gives_it_back(machine):
    array = FakeCudaArray(machine.standin, VALUES)
    managed, give_back = consume(array.__dlpack__(stream=1))
    array.close()
    del array
    gc.collect()
    assert (machine.download(managed.tensor.data, 12) == VALUES.ravel()).all()
    give_back()
    gc.collect()
    machine.runtime.deviceSynchronize()
    assert machine.standin.leaks() == []
    assert machine.standin.violations == []


def test_a_capsule_that_nobody_takes(machine):
    array = FakeCudaArray(machine.standin, VALUES)
    for max_version in (None, (1, 0)):
        del_me = array.__dlpack__(stream=-1, max_version=max_version)
        del del_me
    assert (array.exported, array.released) == (2, 2)


def test_without_a_stream_the_legacy_one_waits(machine):
    array = FakeCudaArray(machine.standin, VALUES)
    capsules = [array.__dlpack__(stream=-1)]
    with pytest.raises(StrictError, match="nothing orders"):
        machine.download(array.pointer, 12)
    capsules.append(array.__dlpack__())
    assert (machine.download(array.pointer, 12) == VALUES.ravel()).all()


def test_requests_that_cannot_be_met(machine):
    array = FakeCudaArray(machine.standin, VALUES)
    with pytest.raises(ValueError, match="stream 0"):
        array.__dlpack__(stream=0)
    with pytest.raises(BufferError):
        array.__dlpack__(stream=-1, dl_device=(1, 0))
    with pytest.raises(BufferError):
        array.__dlpack__(stream=-1, copy=True)
