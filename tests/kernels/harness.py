"""Runs the steps that a selector emits for one operation, straight from object code, without a runtime.

CUDA kernels run too, on the CPU, by ``tests/cuda/emulator.py``; a test's ``isa`` says which device it is for.

Every storage lies between guard bytes, results are poisoned before the run, and after it nothing but the
elements of the output views may have changed. Tiles run one by one in random order, in ranges, or at once.
"""

import ctypes
import functools
import itertools
from dataclasses import dataclass, field

import emulator
import llvmlite.binding as llvm
import numpy as np

from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import Storage, View
from onnxplan.kernels.cpu import registry
from onnxplan.kernels.cuda import registry as cuda_registry

GUARD = 256
POISON = 0xA5
DOT_PRODUCTS = {"avx512": "avx512vnni", "avx2": "avxvnni"}
SIGNATURE = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p
)


def make_target(isa, threads=2):
    """The test machine's target for an instruction set, or that of a GPU for a compute capability.

    ``avx512_words`` and ``avx2_words`` are targets without dot products of bytes, ``avx512_tiles`` is one
    with tiles of bytes and bfloat16, ``avx512_fast`` and ``sm_90_fast`` are such with ``math="fast"``.
    """
    if is_cuda(isa):
        math = "fast" if isa.endswith("_fast") else "strict"
        cache = (227 << 10, 50 << 20)
        return Target("cuda", isa.removesuffix("_fast"), 16, 255, cache, 132, math=math, alignment=256)
    name, _, variant = isa.partition("_")
    return Target(
        "cpu",
        name,
        {"avx512": 64, "avx2": 32}.get(name, 16),
        32 if name == "avx512" else 16,
        (32 << 10, 1 << 20),
        threads,
        dot_products=variant != "words"
        and bool(llvm.get_host_cpu_features().get(DOT_PRODUCTS.get(name, ""))),
        byte_tiles=variant in ("tiles", "fast", "parts"),
        bfloat16_tiles=variant in ("tiles", "fast", "parts"),
        float32_tiles=variant == "parts",
        math="fast" if variant == "fast" else "strict",
    )


def is_cuda(isa):
    return isa.startswith("sm_")


def selector(isa, threads=2):
    """The kernel selector for an instruction set or compute capability."""
    target = make_target(isa, threads)
    return (cuda_registry.CudaKernels if is_cuda(isa) else registry.CpuKernels)(target)


def available_isas():
    """All that kernels can be tested for here: the CPU's instruction sets, and CUDA on the CPU."""
    return (*cpu_isas(), "sm_90") if emulator.COMPILER else cpu_isas()


@functools.cache
def cpu_isas():
    """The instruction sets that CPU kernels can be tested for here, the best first."""
    llvm.initialize_native_target()
    features = llvm.get_host_cpu_features()
    if features.get("neon"):
        return ("neon",)
    found = [isa for isa, feature in (("avx512", "avx512f"), ("avx2", "avx2")) if features.get(feature)]
    return tuple(found) or ("generic",)


@dataclass(eq=False)
class Step:
    kernel: KernelSpec
    operands: tuple
    outputs: tuple
    parameters: tuple
    tiles: int
    flops: int
    bytes_moved: int
    scratch: int = 0
    in_place: tuple = ()
    anywhere: tuple = ()
    seconds: float | None = None


@dataclass(eq=False)
class Recorder:
    """A StepEmitter that keeps steps, temporaries and constants."""

    steps: list = field(default_factory=list)
    temporaries: list = field(default_factory=list)

    def temporary(self, dtype, size, name):
        storage = Storage(dtype, size, name)
        self.temporaries.append(storage)
        return storage

    def constant(self, sources, layout, make):
        array = np.ascontiguousarray(make(*[view.numpy() for view in sources]))
        from onnxplan.compiler.dtypes import DType

        return Storage(DType.from_numpy(array.dtype), array.size, layout, constant=array.reshape(-1))

    def step(
        self, kernel, operands, outputs, parameters, *,
        tiles, flops, bytes_moved, scratch=0, in_place=(), anywhere=(), seconds=None,
    ):  # fmt: skip
        assert all(isinstance(value, int) for value in parameters), parameters
        assert tiles >= 1
        assert KernelSpec.from_json(kernel.to_json()) == kernel
        self.steps.append(
            Step(
                kernel,
                operands,
                outputs,
                parameters,
                tiles,
                flops,
                bytes_moved,
                scratch,
                in_place,
                anywhere,
                seconds,
            )
        )


_numbers = itertools.count()


@functools.cache
def linker():
    cpu_isas()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), jit=True
    )
    return llvm.create_lljit_compiler(machine)


@functools.cache
def load_cuda_kernel(spec, isa):
    """The emulated kernel of a specification."""
    source = cuda_registry.build(spec, make_target(isa))
    return emulator.load(emulator.compile_source(source.text), source.symbol)


@functools.cache
def load_kernel(spec, isa):
    """The native function of a CPU kernel, compiled in this process."""
    built = registry.build(spec, make_target(isa))
    library = llvm.JITLibraryBuilder().add_object_img(built.code).add_current_process()
    # Some families export one name for all of their kernels.
    linked = library.export_symbol(built.symbol).link(linker(), f"{isa}.{built.symbol}.{next(_numbers)}")
    function = SIGNATURE(linked[built.symbol])
    function.library = linked
    return function


class Memory:
    """The bytes of one storage between guards; constants are filled in, all else is poison."""

    def __init__(self, storage, values=None):
        nbytes = storage.size * storage.dtype.itemsize
        raw = np.full(nbytes + 2 * GUARD + 64, POISON, np.uint8)
        start = GUARD + (-(raw.ctypes.data + GUARD)) % 64
        self.raw, self.start, self.nbytes = raw, start, nbytes
        self.elements = raw[start : start + nbytes].view(storage.dtype.numpy)
        values = storage.constant if values is None else values
        if values is not None:
            self.elements[...] = values
        self.before = raw.copy()

    @property
    def address(self):
        return self.raw.ctypes.data + self.start

    def check(self, written):
        """Raises if bytes outside of the ``written`` ones (a mask of the storage's bytes) have changed."""
        changed = self.raw != self.before
        changed[self.start : self.start + self.nbytes] &= ~written
        assert not changed.any(), f"bytes {np.flatnonzero(changed)[:8] - self.start} were overwritten"


def array_of(view, elements):
    """The elements of a view in the one-dimensional ``elements`` of its storage."""
    if view.size == 0:
        return np.empty(view.shape, elements.dtype)
    # NumPy cannot stride over some of the types of ml_dtypes themselves.
    size = elements.dtype.itemsize
    raw = elements[view.offset :].view(f"V{size}")
    strided = np.lib.stride_tricks.as_strided(raw, view.shape, [stride * size for stride in view.strides])
    return strided.view(elements.dtype)


def run_steps(steps, memories, isa, rng=None):
    """Runs recorded steps; with ``rng`` the tiles are cut into ranges that run in random order."""
    if is_cuda(isa):
        run_cuda_steps(steps, memories, isa)
        return
    for step in steps:
        function = load_kernel(step.kernel, isa)
        addresses = [
            memories[view.storage].address + view.offset * view.dtype.itemsize for view in step.operands
        ]
        operands = np.array([*addresses, 0], np.int64)
        parameters = np.array([*step.parameters, 0], np.int64)
        cuts = [0, step.tiles]
        if rng is not None:
            inner = rng.integers(0, step.tiles + 1, min(step.tiles, 6))
            cuts = sorted({0, step.tiles, *inner.tolist()})
        ranges = list(itertools.pairwise(cuts))
        if rng is not None:
            rng.shuffle(ranges)
        for first, last in ranges:
            scratch = np.full(step.scratch + 2 * GUARD + 64, POISON, np.uint8)
            start = GUARD + (-(scratch.ctypes.data + GUARD)) % 64
            function(
                operands.ctypes.data,
                parameters.ctypes.data,
                int(first),
                int(last),
                scratch.ctypes.data + start,
            )
            assert (scratch[:start] == POISON).all()
            assert (scratch[start + step.scratch :] == POISON).all()


def run_cuda_steps(steps, memories, isa):
    for step in steps:
        if step.kernel.family == "cublaslt":
            multiply(step, memories)
            continue
        kernel = load_cuda_kernel(step.kernel, isa)
        addresses = [
            memories[view.storage].address + view.offset * view.dtype.itemsize for view in step.operands
        ]
        words = np.array([*addresses, *step.parameters, 0], np.int64)
        assert kernel.words == max(1, words.size - 1), f"{step.kernel}: {words.size - 1} words are given"
        kernel.launch(step.tiles, step.kernel.variant[0], step.scratch, words.ctypes.data)


def multiply(step, memories):
    """What cuBLASLt does for a step, by NumPy; see ``onnxplan.kernels.cuda.matmul``."""
    trans_a, trans_b, epilogue = step.kernel.variant[3:]
    batch, m, n, k, *strides = step.parameters

    def matrices(view, rows, columns, row_stride, batch_stride):
        assert view.storage.size, view
        elements = memories[view.storage].elements
        window = View(view.storage, view.offset, (batch, rows, columns), (batch_stride, row_stride, 1))
        return array_of(window, elements)

    lda, ldb, ldd, batch_a, batch_b, batch_d = strides
    a = matrices(step.operands[0], *((k, m) if trans_a else (m, k)), lda, batch_a).astype(np.float64)
    b = matrices(step.operands[1], *((n, k) if trans_b else (k, n)), ldb, batch_b).astype(np.float64)
    total = (a.swapaxes(1, 2) if trans_a else a) @ (b.swapaxes(1, 2) if trans_b else b)
    if "bias" in epilogue:
        bias = step.operands[2]
        total += array_of(bias, memories[bias.storage].elements).astype(np.float64)
    if "relu" in epilogue:
        total = np.maximum(total, 0)
    d = matrices(step.operands[-1], m, n, ldd, batch_d)
    d[...] = total.astype(d.dtype)


def run_operation(operation, values, isa, rng=None, threads=2):
    """The outputs of ``operation`` as arrays; ``values`` maps storages of inputs to their elements."""
    recorder = Recorder()
    selector(isa, threads).select(operation, recorder)
    memories = {storage: Memory(storage, elements) for storage, elements in values.items()}
    temporaries = set(recorder.temporaries)
    for view in operation.views:
        if view.storage not in memories:
            memories[view.storage] = Memory(view.storage)
    for step in recorder.steps:
        for view in step.operands:
            if view.storage not in memories:
                memories[view.storage] = Memory(view.storage)
    run_steps(recorder.steps, memories, isa, rng)
    for storage, memory in memories.items():
        written = np.zeros(memory.nbytes, bool)
        if storage in temporaries:
            written[:] = True
        for view in operation.outputs:
            if view.storage is storage and view.size:
                marks = np.zeros(storage.size, bool)
                array_of(view, marks)[...] = True
                written |= np.repeat(marks, storage.dtype.itemsize)
        memory.check(written)
    return [array_of(view, memories[view.storage].elements).copy() for view in operation.outputs]


def dense(dtype, shape, name=""):
    """A dense view of a new storage."""
    return View.dense(Storage(dtype, int(np.prod(shape, dtype=np.int64)), name), tuple(shape))


def apply_op(op, arguments, result, isa):
    """One scalar operation of NumPy arrays of equal length, through the map kernel."""
    from onnxplan.compiler.dtypes import DType
    from onnxplan.compiler.expression import Expression, Instruction
    from onnxplan.compiler.primitives import MapReduce
    from onnxplan.compiler.program import Operation

    shape = arguments[0].shape
    types = [DType.from_numpy(array.dtype) for array in arguments]
    views = [dense(dtype, shape) for dtype in types]
    instructions = [Instruction("input", (number,), dtype) for number, dtype in enumerate(types)]
    instructions.append(Instruction(op, tuple(range(len(types))), result))
    expression = Expression(tuple(instructions), (len(types),))
    operation = Operation(MapReduce(expression, shape), tuple(views), (dense(result, shape),))
    values = {view.storage: array for view, array in zip(views, arguments, strict=True)}
    return run_operation(operation, values, isa)[0]
