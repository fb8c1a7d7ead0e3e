"""The stand-in's devices and contexts, its faults, and that it offers what CuPy does."""

from __future__ import annotations

import inspect
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from standin import StandIn, StrictError
from standin_errors import (
    ILLEGAL_ADDRESS,
    INSUFFICIENT_DRIVER,
    INVALID_CONTEXT,
    INVALID_HANDLE,
    INVALID_IMAGE,
    INVALID_VALUE,
    LAUNCH_OUT_OF_RESOURCES,
    NO_BINARY_FOR_GPU,
    NO_DEVICE,
    NOT_FOUND,
    NOT_INITIALIZED,
)
from standin_samples import Machine, kernel_text

ONES = np.ones(64, np.float32)


@pytest.fixture
def machine():
    return Machine()


def on_thread(function, *arguments):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *arguments).result()


def status_of(machine, call, *arguments):
    """The status a call of runtime, driver or NVRTC raises."""
    errors = machine.runtime.CUDARuntimeError, machine.driver.CUDADriverError, machine.nvrtc.NVRTCError
    with pytest.raises(errors) as caught:
        call(*arguments)
    return caught.value.status


@pytest.mark.parametrize("name", ["runtime", "driver", "nvrtc"])
def test_functions_have_the_signatures_of_cupys(name):
    module = getattr(StandIn(), name)
    offered = [name for name, value in vars(type(module)).items() if hasattr(value, "offered")]
    assert len(offered) >= 7
    for name in offered:
        text = getattr(module.real, name).__doc__.splitlines()[0]
        parameters = re.fullmatch(rf"{name}\((.*)\)( -> .+)?", text)[1]
        wanted = [parameter.split()[-1].split("=") for parameter in parameters.split(", ") if parameter]
        found = list(inspect.signature(getattr(module, name)).parameters.values())
        assert [parameter.name for parameter in found] == [name for name, *_ in wanted]
        assert [bool(default) for _, *default in wanted] == [
            parameter.default is not parameter.empty for parameter in found
        ]


def test_classes_and_constants_are_cupys(machine):
    from cupy_backends.cuda.api import driver, runtime
    from cupy_backends.cuda.libs import nvrtc

    assert machine.runtime.CUDARuntimeError is runtime.CUDARuntimeError
    assert machine.driver.CUDADriverError is driver.CUDADriverError
    assert machine.nvrtc.NVRTCError is nvrtc.NVRTCError
    assert machine.runtime.memcpyHostToDevice == 1
    with pytest.raises(AttributeError, match="does not offer"):
        machine.runtime.mallocManaged(8)
    with pytest.raises(AttributeError):
        machine.runtime.no_such_thing(8)


def test_no_driver():
    machine = Machine(driver_version=0)
    assert machine.runtime.driverGetVersion() == 0
    assert status_of(machine, machine.runtime.getDeviceCount) == INSUFFICIENT_DRIVER
    assert machine.runtime.streamQuery(0) == INSUFFICIENT_DRIVER
    with pytest.raises(RuntimeError, match=r"libcuda\.so\.1"):
        machine.driver.ctxGetCurrent()
    assert machine.cubin().startswith(b"struct"), "compiling needs no driver"


def test_driver_too_old_and_no_device():
    machine = Machine(driver_version=12040)
    assert machine.runtime.driverGetVersion() == 12040
    assert status_of(machine, machine.runtime.getDeviceCount) == INSUFFICIENT_DRIVER
    machine = Machine(devices=0)
    assert status_of(machine, machine.runtime.getDeviceCount) == NO_DEVICE
    assert Machine(driver_version=12040, cuda_version=12040).runtime.getDeviceCount() == 1


def test_device_facts():
    machine = Machine(devices=2, compute_capability=(8, 0), total_bytes=1 << 20)
    machine.standin.devices[1].attributes[machine.runtime.cudaDevAttrMultiProcessorCount] = 77
    assert machine.runtime.getDeviceCount() == 2
    assert [machine.runtime.deviceGetAttribute(16, device) for device in (0, 1)] == [4, 77]
    assert machine.runtime.deviceGetAttribute(75, 0) == 8
    assert machine.runtime.getDeviceProperties(1)["major"] == 8
    assert machine.runtime.getDeviceProperties(1)["totalGlobalMem"] == 1 << 20
    assert status_of(machine, machine.runtime.getDeviceProperties, 2) == 101
    assert status_of(machine, machine.runtime.setDevice, 2) == 101


def test_the_current_device_is_the_threads():
    machine = Machine(devices=2)
    machine.runtime.setDevice(1)
    memory = machine.standin.allocate(64)
    assert memory.device_id == 1
    assert machine.runtime.pointerGetAttributes(memory.ptr).device == 1
    assert on_thread(machine.runtime.getDevice) == 0
    assert on_thread(machine.standin.allocate, 64).device_id == 0


def test_a_device_number_can_be_required():
    machine = Machine(devices=2, device_numbers_required=True)
    machine.standin.allocate(64)
    with pytest.raises(StrictError, match="has not called setDevice"):
        on_thread(machine.standin.allocate, 64)
    with pytest.raises(StrictError, match="has not called setDevice"):
        on_thread(machine.runtime.streamCreate)


def test_the_driver_wants_a_context(machine):
    kernel, stream, block = machine.kernel(), machine.stream(), machine.upload(ONES)
    launch = (kernel, block.ptr, block.ptr, 64, stream)

    def with_context():
        machine.runtime.setDevice(0)
        machine.launch(*launch)

    assert status_of(machine, on_thread, machine.launch, *launch) == INVALID_CONTEXT
    on_thread(with_context)
    machine.runtime.streamSynchronize(stream)


def test_streams_kernels_and_events_belong_to_devices():
    machine = Machine(devices=2)
    kernel, stream, block = machine.kernel(), machine.stream(), machine.upload(ONES)
    event = machine.event(stream)
    machine.runtime.setDevice(1)
    other = machine.stream()
    assert status_of(machine, machine.launch, kernel, block.ptr, block.ptr, 64, stream) == INVALID_HANDLE
    assert status_of(machine, machine.launch, kernel, block.ptr, block.ptr, 64, other) == INVALID_HANDLE
    assert status_of(machine, machine.runtime.eventRecord, event, other) == INVALID_HANDLE
    machine.runtime.streamWaitEvent(other, event)
    machine.runtime.setDevice(0)
    machine.launch(kernel, block.ptr, block.ptr, 64, stream)
    machine.runtime.streamSynchronize(stream)


def test_launch_limits(machine):
    kernel, stream, block = machine.kernel(), machine.stream(), machine.upload(ONES)
    launch = (kernel, block.ptr, block.ptr, 64, stream)

    def status(**options):
        return status_of(machine, lambda: machine.launch(*launch, **options))

    assert status(blocks=0) == INVALID_VALUE
    assert status(threads=129) == LAUNCH_OUT_OF_RESOURCES
    assert status(shared=(48 << 10) + 1) == INVALID_VALUE
    attribute = machine.driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    assert status_of(machine, machine.driver.funcSetAttribute, kernel, attribute, 1 << 20) == INVALID_VALUE
    machine.driver.funcSetAttribute(kernel, attribute, 100 << 10)
    machine.launch(*launch, shared=100 << 10)
    machine.runtime.streamSynchronize(stream)
    assert machine.driver.funcGetAttribute(attribute, kernel) == 100 << 10


def test_modules_and_what_they_are_compiled_for(machine):
    load = machine.driver.moduleLoadData
    assert status_of(machine, load, b"no cubin") == INVALID_IMAGE
    for architecture in ("sm_80", "sm_100"):
        assert status_of(machine, load, machine.cubin(architecture=architecture)) == NO_BINARY_FOR_GPU
    module = load(machine.cubin(architecture="sm_90"))
    assert status_of(machine, machine.driver.moduleGetFunction, module, "other") == NOT_FOUND
    assert machine.standin.counters.module_loads == 1
    with pytest.raises(TypeError):
        load("text")


def test_compilation(machine):
    nvrtc = machine.nvrtc
    program = nvrtc.createProgram(kernel_text("onnxplan_add_one"), "kernel.cu", (), ())
    assert status_of(machine, nvrtc.getCUBIN, program) == 4
    assert status_of(machine, nvrtc.compileProgram, program, ("-arch=sm_12",)) == 5
    assert status_of(machine, nvrtc.compileProgram, program, ()) == 5
    assert status_of(machine, nvrtc.compileProgram, program, ("-arch=sm_90", "--no-such-option")) == 5
    assert "no-such-option" in nvrtc.getProgramLog(program)
    machine.standin.faults.fail_compilation("kernel.cu(3): error: expected a ;")
    assert status_of(machine, nvrtc.compileProgram, program, ("-arch=sm_90",)) == 6
    assert nvrtc.getProgramLog(program) == "kernel.cu(3): error: expected a ;"
    nvrtc.compileProgram(program, ("-arch=compute_90",))
    assert status_of(machine, nvrtc.getCUBIN, program) == 4
    nvrtc.compileProgram(program, ("-arch=sm_90",))
    assert nvrtc.getCUBIN(program)
    assert nvrtc.options[-1] == ("-arch=sm_90",)
    nvrtc.destroyProgram(program)
    with pytest.raises(StrictError, match="after it was destroyed"):
        nvrtc.getProgramLog(program)


def test_compiled_kernels_are_never_taken_for_real_ones(machine):
    from cupy_backends.cuda.libs import nvrtc

    emulated = StandIn().nvrtc.getVersion()
    assert len({nvrtc.getVersion(), emulated, machine.nvrtc.getVersion()}) == 3
    assert emulated == StandIn().nvrtc.getVersion()


def test_texts_that_do_not_compile_leave_a_log():
    from emulator import compile_source, load

    machine = Machine(compile_source=compile_source, load_kernel=load)
    text = kernel_text("onnxplan_add_one").replace("+ 1.0f;", "+ undeclared;")
    program = machine.nvrtc.createProgram(text, "kernel.cu", (), ())
    assert status_of(machine, machine.nvrtc.compileProgram, program, ("-arch=sm_90",)) == 6
    assert "undeclared" in machine.nvrtc.getProgramLog(program)


def test_a_kernel_that_fails_kills_the_context(machine):
    kernel, stream, block = machine.kernel(), machine.stream(), machine.upload(ONES)
    machine.standin.faults.fail_kernel(nth=2)
    for _ in range(3):
        machine.launch(kernel, block.ptr, block.ptr, 64, stream)
    event = machine.event(stream)
    assert status_of(machine, machine.runtime.streamSynchronize, stream) == ILLEGAL_ADDRESS
    assert status_of(machine, machine.runtime.memGetInfo) == ILLEGAL_ADDRESS
    assert status_of(machine, machine.launch, kernel, block.ptr, block.ptr, 64, stream) == ILLEGAL_ADDRESS
    assert status_of(machine, machine.standin.allocate, 8) == ILLEGAL_ADDRESS
    assert machine.runtime.eventQuery(event) == ILLEGAL_ADDRESS
    assert status_of(machine, on_thread, machine.runtime.streamCreate) == ILLEGAL_ADDRESS
    assert machine.standin.counters.executions == 1
    assert machine.standin.violations == []


def test_a_reset_device_is_new(machine):
    kernel, stream, block = machine.kernel(), machine.stream(), machine.upload(ONES)
    pinned, _ = machine.pinned(ONES)
    machine.standin.faults.fail_kernel(719)
    machine.launch(kernel, block.ptr, block.ptr, 64, stream)
    assert status_of(machine, machine.runtime.deviceSynchronize) == 719
    machine.standin.reset_device(0)
    assert machine.standin.leaks() == []
    with pytest.raises(StrictError, match="after it was destroyed"):
        machine.runtime.streamSynchronize(stream)
    del block
    assert "freed after its device was reset" in machine.standin.violations[-1]
    with pytest.raises(StrictError, match="was freed"):
        machine.runtime.memcpy(machine.standin.allocate(256).ptr, pinned, 256, 1)
    fresh, target = machine.upload(ONES), machine.upload(ONES)
    stream = machine.stream()
    machine.launch(machine.kernel(), fresh.ptr, target.ptr, 64, stream)
    machine.runtime.streamSynchronize(stream)
    assert machine.download(target.ptr, 64)[0] == 2


def test_calls_fail_as_asked(machine):
    machine.standin.faults.fail_call("hostAlloc", 2, nth=2)
    machine.runtime.hostAlloc(8, 0)
    assert status_of(machine, machine.runtime.hostAlloc, 8, 0) == 2
    machine.runtime.hostAlloc(8, 0)
    machine.standin.faults.fail_call("launchKernel", LAUNCH_OUT_OF_RESOURCES)
    kernel, stream, block = machine.kernel(), machine.stream(), machine.upload(ONES)
    launch = (kernel, block.ptr, block.ptr, 64, stream)
    assert status_of(machine, machine.launch, *launch) == LAUNCH_OUT_OF_RESOURCES
    machine.launch(*launch)
    machine.runtime.streamSynchronize(stream)


def test_kernels_compute_wrongly_as_asked(machine):
    kernel, stream, block = machine.kernel(), machine.stream(), machine.upload(ONES)
    machine.standin.faults.corrupt_kernel()
    target = machine.upload(ONES)
    for wrong in (True, False):
        machine.launch(kernel, block.ptr, target.ptr, 64, stream)
        machine.runtime.streamSynchronize(stream)
        assert (machine.download(target.ptr, 64)[0] != 2) == wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_no_cuda(machine):
    assert threading.current_thread() is threading.main_thread()
    child = os.fork()
    if not child:
        try:
            machine.runtime.memGetInfo()
        except machine.runtime.CUDARuntimeError as error:
            os._exit(error.status)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == NOT_INITIALIZED
