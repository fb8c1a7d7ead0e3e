"""The stand-in's cuBLASLt: descriptors of the real library, handles, heuristics and products in Python.

Descriptors, layouts and preferences are created, set, read and destroyed by the real library, which works
without a driver. What is computed is read back from them, so nothing is taken from the caller's word.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_int, c_int64, c_size_t, c_uint64, c_void_p
from dataclasses import replace
from typing import Any

from standin_errors import CAPTURE_STATUSES, CudaStatus, StrictError
from standin_products import Algorithm, Matrix, Product, WorkspaceLimits, launch

SUCCESS, NOT_INITIALIZED, INVALID_VALUE, EXECUTION_FAILED = 0, 1, 7, 13
CREATED = ("MatmulDesc", "MatrixLayout", "MatmulPreference")
PROTOTYPES = {
    "cublasLtCreate": (c_void_p,),
    "cublasLtDestroy": (c_void_p,),
    "cublasLtMatmulAlgoGetHeuristic": (*[c_void_p] * 7, c_int, c_void_p, c_void_p),
    "cublasLtMatmul": (*[c_void_p] * 14, c_size_t, c_void_p),
    "cublasLtMatmulDescCreate": (c_void_p, c_int, c_int),
    "cublasLtMatrixLayoutCreate": (c_void_p, c_int, c_uint64, c_uint64, c_int64),
    "cublasLtMatmulPreferenceCreate": (c_void_p,),
    **{f"cublasLt{name}Destroy": (c_void_p,) for name in CREATED},
    **{f"cublasLt{name}SetAttribute": (c_void_p, c_int, c_void_p, c_size_t) for name in CREATED},
    **{f"cublasLt{name}GetAttribute": (c_void_p, c_int, c_void_p, c_size_t, c_void_p) for name in CREATED},
}


class HeuristicResult(ctypes.Structure):
    """``cublasLtMatmulHeuristicResult_t``."""

    _fields_ = (
        ("algorithm", c_uint64 * 8),
        ("workspace_bytes", c_size_t),
        ("state", c_int),
        ("waves", ctypes.c_float),
        ("reserved", c_int * 4),
    )


class LibraryFunction:
    """A function of the library. It takes what a ctypes function with the C prototype takes.

    ``body`` gets C values, pointers as integers or None, and returns a status.
    """

    def __init__(self, name: str, types: tuple[Any, ...], body: Callable[..., int]) -> None:
        self.__name__ = name
        self._types = types
        self.argtypes: tuple[Any, ...] = types
        self.restype: Any = c_int
        self._body = body

    def __call__(self, *arguments: Any) -> int:
        types = self._types
        if len(arguments) != len(types) or len(tuple(self.argtypes)) != len(types):
            raise TypeError(f"{self.__name__} takes {len(types)} arguments, not {len(arguments)}")
        raised: list[BaseException] = []

        def body(*values: Any) -> int:
            try:
                return self._body(*values)
            except BaseException as error:
                raised.append(error)
                return EXECUTION_FAILED

        # Through C, so that the caller's arguments are converted as they are for the real library.
        bare = ctypes.CFUNCTYPE(c_int, *types)(body)
        caller = ctypes.CFUNCTYPE(c_int, *self.argtypes)(ctypes.cast(bare, c_void_p).value)
        status = caller(*arguments)
        if raised:
            raise raised[0]
        return status


class CublasLt:
    """The library object: what ``ctypes.CDLL`` would give."""

    def __init__(self, standin: Any) -> None:
        self._standin = standin
        self._real: ctypes.CDLL | None = None
        self._objects: dict[int, str] = {}
        self._destroyed: dict[int, str] = {}
        self._handles: dict[int, int] = {}
        self._functions: dict[str, LibraryFunction] = {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in ("cublasLtGetVersion", "cublasLtGetStatusName", "cublasLtGetStatusString"):
            return getattr(self._library(), name)
        if name not in PROTOTYPES:
            raise AttributeError(f"the stand-in does not offer {name}")
        if name not in self._functions:
            self._functions[name] = LibraryFunction(name, PROTOTYPES[name], self._body(name))
        return self._functions[name]

    def leaks(self) -> list[str]:
        """Handles and descriptors that exist."""
        handles = [f"cuBLASLt handle {handle:#x}" for handle in self._handles]
        return handles + [f"cublasLt{kind} {address:#x}" for address, kind in self._objects.items()]

    def drop_device(self, ordinal: int) -> None:
        self._handles = {handle: device for handle, device in self._handles.items() if device != ordinal}

    def _library(self) -> ctypes.CDLL:
        if self._real is None:
            from cuda.pathfinder import load_nvidia_dynamic_lib

            self._real = ctypes.CDLL(load_nvidia_dynamic_lib("cublasLt").abs_path)
            for name, types in PROTOTYPES.items():
                getattr(self._real, name).argtypes = types
        return self._real

    def _body(self, name: str) -> Callable[..., int]:
        own = {
            "cublasLtCreate": self._create,
            "cublasLtDestroy": self._destroy,
            "cublasLtMatmulAlgoGetHeuristic": self._heuristic,
            "cublasLtMatmul": self._matmul,
        }
        if name in own:
            return lambda *values: self._guarded(lambda: own[name](*values))
        kind = name.removeprefix("cublasLt")
        for suffix in ("Create", "Destroy", "SetAttribute", "GetAttribute"):
            if kind.endswith(suffix):
                return self._descriptor_body(name, kind.removesuffix(suffix), suffix)
        raise AttributeError(name)

    def _guarded(self, body: Callable[[], int]) -> int:
        """Runs a body as the stand-in's calls run; CUDA's statuses become cuBLAS's."""

        class Outside:
            @staticmethod
            def error(status: int, why: str) -> CudaStatus:
                return CudaStatus(status, why)

        try:
            return self._standin.guarded(Outside, body)
        except CudaStatus as status:
            if status.status in CAPTURE_STATUSES:
                raise StrictError(status.why) from None
            return EXECUTION_FAILED

    def _descriptor_body(self, name: str, kind: str, action: str) -> Callable[..., int]:
        def body(address: int, *rest: Any) -> int:
            real = getattr(self._library(), name)
            if action != "Create":
                self._check_object(address, kind)
            status = real(address, *rest)
            if status == SUCCESS and action == "Create":
                created = c_void_p.from_address(address).value
                self._objects[created] = kind
                self._destroyed.pop(created, None)
            elif status == SUCCESS and action == "Destroy":
                self._destroyed[address] = self._objects.pop(address)
            return status

        return lambda *values: self._guarded(lambda: body(*values))

    def _check_object(self, address: int | None, kind: str) -> None:
        if self._objects.get(address) != kind:
            was = " any more" if self._destroyed.get(address) == kind else ""
            raise StrictError(f"{address or 0:#x} is no cublasLt{kind}{was}")

    def _create(self, out: int) -> int:
        standin = self._standin
        standin.admit_context(standin.runtime)
        standin.check_unsafe("cublasLtCreate")
        handle = standin.new_handle()
        self._handles[handle] = standin.current_device("cublasLtCreate").ordinal
        c_void_p.from_address(out).value = handle
        return SUCCESS

    def _destroy(self, handle: int) -> int:
        self._standin.check_unsafe("cublasLtDestroy")
        return NOT_INITIALIZED if self._handles.pop(handle, None) is None else SUCCESS

    def _heuristic(
        self,
        handle: int,
        descriptor: int,
        a: int,
        b: int,
        c: int,
        d: int,
        preference: int,
        wanted: int,
        results: int,
        found: int,
    ) -> int:
        standin = self._standin
        if handle not in self._handles:
            return NOT_INITIALIZED
        standin.admit_context(standin.runtime)
        standin.check_unsafe("cublasLtMatmulAlgoGetHeuristic")
        standin.counters.heuristics += 1
        c_int.from_address(found).value = 0
        if wanted < 1:
            return INVALID_VALUE
        product = self._product(descriptor, a, b, c, d)
        status = product.problem()
        if status:
            return status
        limits = self._limits(preference)
        count = min(wanted, len(standin.algorithms))
        for number in range(count):
            result = HeuristicResult.from_address(results + number * ctypes.sizeof(HeuristicResult))
            algorithm = Algorithm.choose(product, limits, number)
            result.algorithm[:] = algorithm.words()
            result.workspace_bytes = algorithm.workspace_bytes
            result.state = SUCCESS
            result.waves = 1.0
        c_int.from_address(found).value = count
        return SUCCESS

    def _matmul(
        self,
        handle: int,
        descriptor: int,
        alpha: int,
        a: int,
        a_layout: int,
        b: int,
        b_layout: int,
        beta: int,
        c: int,
        c_layout: int,
        d: int,
        d_layout: int,
        algorithm: int | None,
        workspace: int | None,
        workspace_bytes: int,
        stream: int | None,
    ) -> int:
        standin = self._standin
        if handle not in self._handles:
            return NOT_INITIALIZED
        standin.admit_context(standin.runtime)
        target = standin.stream(stream or 0)
        if self._handles[handle] != target.device:
            raise StrictError(f"a cuBLASLt handle of device {self._handles[handle]} is used on {target}")
        product = self._product(descriptor, a_layout, b_layout, c_layout, d_layout)
        status = product.problem()
        if status:
            return status
        if algorithm is None:
            # The library then asks its heuristic itself.
            standin.check_unsafe("cublasLtMatmul without an algorithm")
            chosen = Algorithm.choose(product, WorkspaceLimits(workspace_bytes, (16,) * 4))
        else:
            chosen = Algorithm.of_words(tuple((c_uint64 * 8).from_address(algorithm)))
        work = launch(
            standin.memory, product, chosen, alpha, a, b, beta, c, d, workspace or 0, workspace_bytes
        )
        if isinstance(work, int):
            return work
        standin.counters.products += 1
        accesses = standin.in_arenas(target, work.label, work.accesses)
        widened = replace(work, accesses=accesses, over=lambda: self._pass_time(chosen.number))
        standin.submit(target, widened, work.accesses)
        return SUCCESS

    def _pass_time(self, number: int) -> None:
        self._standin.clock += self._standin.algorithms[number]

    def _product(self, descriptor: int, a: int, b: int, c: int, d: int) -> Product:
        self._check_object(descriptor, "MatmulDesc")

        def read(attribute: int, kind: type) -> int:
            return self._read("MatmulDesc", descriptor, attribute, kind)

        return Product(
            compute=read(0, c_int),
            scale=read(1, c_int),
            pointer_mode=read(2, c_int),
            transposes=(read(3, c_int), read(4, c_int), read(5, c_int)),
            epilogue=read(7, c_int),
            bias=read(8, c_void_p),
            bias_stride=read(10, c_int64),
            bias_type=read(26, c_int),
            a=self._matrix(a),
            b=self._matrix(b),
            c=self._matrix(c),
            d=self._matrix(d),
        )

    def _matrix(self, layout: int) -> Matrix:
        self._check_object(layout, "MatrixLayout")

        def read(attribute: int, kind: type) -> int:
            return self._read("MatrixLayout", layout, attribute, kind)

        return Matrix(
            read(0, c_int),
            read(1, c_int),
            read(2, c_uint64),
            read(3, c_uint64),
            read(4, c_int64),
            read(5, c_int),
            read(6, c_int64),
        )

    def _limits(self, preference: int) -> WorkspaceLimits:
        self._check_object(preference, "MatmulPreference")
        alignments = tuple(
            self._read("MatmulPreference", preference, number, ctypes.c_uint32) for number in (5, 6, 7, 8)
        )
        return WorkspaceLimits(self._read("MatmulPreference", preference, 1, c_uint64), alignments)

    def _read(self, kind: str, address: int, attribute: int, c_type: type) -> int:
        value, written = c_type(), c_size_t()
        read = getattr(self._library(), f"cublasLt{kind}GetAttribute")
        status = read(address, attribute, ctypes.byref(value), ctypes.sizeof(value), ctypes.byref(written))
        if status or written.value != ctypes.sizeof(value):
            raise StrictError(f"attribute {attribute} of a cublasLt{kind} cannot be read: status {status}")
        return value.value or 0
