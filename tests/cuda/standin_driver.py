"""The stand-in's ``cupy_backends.cuda.api.driver``: modules, kernels and their launches."""

from __future__ import annotations

import ctypes
import re

from cupy_backends.cuda.api import driver as real_driver
from cupy_backends.cuda.api import runtime as real_runtime
from standin_errors import (
    INVALID_HANDLE,
    INVALID_VALUE,
    LAUNCH_OUT_OF_RESOURCES,
    NO_BINARY_FOR_GPU,
    NOT_FOUND,
    CudaStatus,
    StrictError,
    driver_error,
)
from standin_kernels import Function, KernelModule, Launch, unpack_cubin
from standin_module import Module, function
from standin_properties import attribute


class Driver(Module):
    real = real_driver
    error_class = real_driver.CUDADriverError
    error = staticmethod(driver_error)

    def no_driver(self) -> Exception:
        return RuntimeError(
            "CuPy failed to load libcuda.so.1: OSError: libcuda.so.1:"
            " cannot open shared object file: No such file or directory"
        )

    @function(needs="nothing")
    def get_build_version(self) -> int:
        return real_driver.get_build_version()

    @function(needs="driver")
    def ctxGetCurrent(self) -> int:
        standin = self.standin
        return 0x4000_0000 + standin.current_device().ordinal if standin.has_context() else 0

    @function()
    def ctxGetDevice(self) -> int:
        return self.standin.current_device().ordinal

    @function(unsafe=True)
    def moduleLoadData(self, image: bytes) -> int:
        if not isinstance(image, bytes):
            raise TypeError(
                f"Argument 'image' has incorrect type (expected bytes, got {type(image).__name__})"
            )
        standin = self.standin
        code, architecture, text = unpack_cubin(image)
        device = standin.current_device("moduleLoadData")
        if not runs_on(architecture, device.compute_capability):
            raise CudaStatus(NO_BINARY_FOR_GPU, f"a cubin for {architecture}")
        standin.counters.module_loads += 1
        return standin.add_handle(KernelModule(standin.new_handle(), device.ordinal, code, text))

    @function(unsafe=True)
    def moduleUnload(self, module: int) -> None:
        standin = self.standin
        loaded = standin.handle(module, KernelModule)
        for stream in standin.scheduler.streams.values():
            if stream.device == loaded.device and stream.pending:
                raise StrictError(f"{loaded} is unloaded while {stream} has work to do")
        loaded.loaded = False
        standin.destroy_handle(module)

    @function()
    def moduleGetFunction(self, module: int, funcname: str) -> int:
        standin = self.standin
        loaded = standin.handle(module, KernelModule)
        kernel = loaded.functions.get(funcname)
        if kernel is None:
            if not re.search(rf"\b{re.escape(funcname)}\s*\(", loaded.text):
                raise CudaStatus(NOT_FOUND, f"{funcname} is not in the module")
            code = standin.load_kernel(loaded.code, funcname)
            kernel = loaded.functions[funcname] = Function(standin.new_handle(), loaded, funcname, code)
            standin.functions[kernel.handle] = kernel
        return kernel.handle

    @function()
    def funcGetAttribute(self, attribute: int, f: int) -> int:
        kernel = self._function(f)
        values = {
            real_driver.CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: kernel.kernel.threads,
            real_driver.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: 0,
            real_driver.CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES: 0,
            real_driver.CU_FUNC_ATTRIBUTE_NUM_REGS: 32,
            real_driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: kernel.shared_limit,
        }
        return values.get(attribute, -1)

    @function()
    def funcSetAttribute(self, f: int, attribute: int, value: int) -> None:
        kernel = self._function(f)
        if attribute == real_driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
            if not 0 <= value <= self._shared_opt_in(kernel):
                raise CudaStatus(INVALID_VALUE, f"{value} bytes of shared memory")
            kernel.shared_limit = value
        elif attribute != real_driver.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
            raise CudaStatus(INVALID_VALUE, f"function attribute {attribute}")

    @function()
    def launchKernel(
        self,
        f: int,
        grid_dim_x: int,
        grid_dim_y: int,
        grid_dim_z: int,
        block_dim_x: int,
        block_dim_y: int,
        block_dim_z: int,
        shared_mem_bytes: int,
        stream: int,
        kernel_params: int,
        extra: int,
    ) -> None:
        standin = self.standin
        kernel, target = self._function(f), standin.stream(stream)
        device = standin.current_device("launchKernel").ordinal
        if not target.device == kernel.device == device:
            raise CudaStatus(INVALID_HANDLE, f"{target}, {kernel.symbol} and the current device do not match")
        if not 1 <= grid_dim_x < 2**31 or not 1 <= block_dim_x <= 1024:
            raise CudaStatus(INVALID_VALUE, f"a grid of {grid_dim_x} blocks of {block_dim_x} threads")
        if (grid_dim_y, grid_dim_z, block_dim_y, block_dim_z) != (1, 1, 1, 1):
            raise StrictError("kernels of onnxplan have grids and blocks of one dimension")
        if block_dim_x > kernel.kernel.threads:
            raise CudaStatus(
                LAUNCH_OUT_OF_RESOURCES,
                f"{block_dim_x} threads, {kernel.symbol} is compiled for {kernel.kernel.threads}",
            )
        if not 0 <= shared_mem_bytes <= kernel.shared_limit:
            raise CudaStatus(INVALID_VALUE, f"{shared_mem_bytes} bytes of shared memory")
        if extra or not kernel_params:
            raise CudaStatus(INVALID_VALUE, "arguments are passed by kernel_params")
        words = read_words(kernel_params, kernel.kernel.words)
        exact = kernel.accesses(standin, words)
        accesses = standin.in_arenas(target, kernel.symbol, exact)
        standin.counters.launches += 1
        launch = Launch(standin, kernel, grid_dim_x, block_dim_x, shared_mem_bytes, words, accesses)
        standin.submit(target, launch, exact)

    @function()
    def occupancyMaxActiveBlocksPerMultiprocessor(
        self, func: int, blockSize: int, dynamicSMemSize: int
    ) -> int:
        kernel = self._function(func)
        if blockSize > kernel.kernel.threads or dynamicSMemSize > kernel.shared_limit:
            return 0
        shared = (228 << 10) // (dynamicSMemSize + (1 << 10))
        return min(32, 2048 // max(32, blockSize), shared)

    def _function(self, handle: int) -> Function:
        kernel = self.standin.functions.get(handle)
        if kernel is None:
            raise CudaStatus(INVALID_HANDLE, f"{handle:#x} is no function")
        if not kernel.module.loaded:
            raise StrictError(f"{kernel.symbol} is used after its module was unloaded")
        return kernel

    def _shared_opt_in(self, kernel: Function) -> int:
        device = self.standin.devices[kernel.device]
        return attribute(device, real_runtime.cudaDevAttrMaxSharedMemoryPerBlockOptin)


def read_words(kernel_params: int, count: int) -> tuple[int, ...]:
    """The 64-bit words that the first pointer of an array of pointers points to."""
    argument = ctypes.c_void_p.from_address(kernel_params).value
    if not argument:
        raise CudaStatus(INVALID_VALUE, "no address of the argument")
    return tuple((ctypes.c_longlong * count).from_address(argument))


def runs_on(architecture: str, capability: tuple[int, int]) -> bool:
    """Whether a cubin for ``sm_..`` runs on a device: of its major, and no newer minor."""
    number, letter = re.fullmatch(r"sm_(\d+)([af]?)", architecture).groups()
    major, minor = int(number) // 10, int(number) % 10
    if letter == "a":
        return (major, minor) == capability
    return major == capability[0] and minor <= capability[1]
