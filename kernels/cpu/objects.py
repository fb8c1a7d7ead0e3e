"""From LLVM IR, or from Python through numba, to relocatable object code for a target.

An object exports one function with the signature of :class:`onnxplan.compiler.plan.Step`, is position
independent and needs nothing but ``memcpy``, ``memmove`` and ``memset``, so a process loads it with llvmlite
alone. It is of the small code model: a loader must place its sections within 2 GiB of each other.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from collections.abc import Callable, Collection
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from onnxplan.compiler.errors import CompilerError
from onnxplan.compiler.plan import KernelSpec, Variant
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target

ALLOWED_UNDEFINED = frozenset(["memcpy", "memmove", "memset"])


@dataclass(frozen=True, slots=True)
class ObjectCode:
    """A relocatable object and the name of the kernel function in it."""

    symbol: str
    code: bytes


def kernel_symbol(family: str, variant: Variant) -> str:
    """A function name that is equal exactly for equal kernels."""
    digest = hashlib.sha256(KernelSpec(family, variant).key.encode()).hexdigest()
    return f"{family}_{digest[:24]}"


@functools.cache
def machine_description(isa: str) -> tuple[str, str, str]:
    """LLVM's ``(triple, processor, features)`` that kernels for ``isa`` are compiled with on this machine.

    The processor is the host's, so that instructions are scheduled for it; features beyond ``isa`` are
    masked. Equal descriptions give interchangeable objects. Raises ``ValueError`` if the host lacks ``isa``.
    """
    _initialize()
    triple, processor = llvm.get_process_triple(), llvm.get_host_cpu_name()
    features: dict[str, bool] = dict(llvm.get_host_cpu_features())
    if isa == "avx512":
        needed = ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd", "fma", "f16c"]
    elif isa == "avx2":
        needed = ["avx2", "fma", "f16c"]
        features = {
            name: on and not name.startswith(("avx512", "avx10", "amx")) for name, on in features.items()
        }
    elif isa == "neon":
        needed = ["neon"]
    elif isa == "generic":
        needed = []
        if triple.startswith("x86_64"):
            needed = ["sse4.1"]
            processor, features = "x86-64-v2", {}
    else:
        raise ValueError(f"unknown instruction set {isa!r}")
    missing = [name for name in needed if not llvm.get_host_cpu_features().get(name)]
    if missing:
        raise ValueError(f"this processor ({processor}) lacks {', '.join(missing)}, which {isa} needs")
    text = ",".join(("+" if on else "-") + name for name, on in sorted(features.items()))
    return triple, processor, text


@functools.cache
def target_machine(isa: str) -> Any:
    """The llvmlite ``TargetMachine`` for ``isa``: position-independent code, small code model."""
    triple, processor, features = machine_description(isa)
    return llvm.Target.from_triple(triple).create_target_machine(
        cpu=processor, features=features, opt=3, reloc="pic", codemodel="small"
    )


def compile_module(
    module: ir.Module,
    symbol: str,
    target: Target,
    *,
    vectorize: bool = False,
    light: bool = False,
    number_values: bool = False,
) -> ObjectCode:
    """Optimises ``module`` and emits its object code; ``symbol`` is the function that it exports.

    ``vectorize`` turns on LLVM's loop and SLP vectorisers, for modules that do not spell out vectors.
    ``light`` runs few passes and unrolls no loops, for modules that are written as they should run;
    ``number_values`` adds the removal of what such a module computes more than once. Raises
    :class:`CompilerError` if the IR is invalid or the object would need symbols of other libraries.
    """
    for function in module.functions:
        if not function.is_declaration:
            _prefer_full_vectors(function.attributes, target)
    return _compile_text(
        str(module), symbol, target, vectorize, _light_passes(number_values) if light else None
    )


def compile_numba(
    function: Callable[[int, int, int, int, int], None],
    target: Target,
    symbol: str,
    *,
    fastmath: bool | Collection[str] = False,
) -> ObjectCode:
    """Object code of ``function(operands, parameters, first, last, scratch)``, all of them ``intp``.

    ``function`` is plain Python that numba compiles in nopython mode without Python's error checks. numba's
    optimised IR for the host is lowered again for ``target``. ``fastmath`` is numba's option of that name.
    Raises :class:`CompilerError` if the object would need symbols of other libraries (the NRT, libm).
    """
    import numba
    from numba import types

    signature = types.void(types.intp, types.intp, types.intp, types.intp, types.intp)
    flags = fastmath if isinstance(fastmath, bool) else set(fastmath)
    cfunc: Any = numba.cfunc
    compiled = cfunc(signature, error_model="numpy", boundscheck=False, fastmath=flags)(function)
    parsed = _parse(compiled._library.get_llvm_str(), symbol)
    for definition in parsed.functions:
        if definition.name == compiled._wrapper_name:
            definition.name = symbol
        elif not definition.is_declaration:
            definition.linkage = "internal"
    for variable in parsed.global_variables:
        if not variable.is_declaration and str(variable.linkage) != "Linkage.private":
            variable.linkage = "internal"
    return _compile_text(str(parsed), symbol, target, True, None)


def _compile_text(text: str, symbol: str, target: Target, vectorize: bool, passes: Any) -> ObjectCode:
    """``passes`` is a pass manager, or ``None`` for LLVM's own pipeline."""
    machine = target_machine(target.isa)
    parsed = _parse(text, symbol)
    parsed.triple = machine.triple
    parsed.data_layout = str(machine.target_data)
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = vectorize
    options.slp_vectorization = vectorize
    builder = llvm.create_pass_builder(machine, options)
    (passes or builder.getModulePassManager()).run(parsed, builder)
    code = machine.emit_object(parsed)
    missing = undefined_symbols(code) - ALLOWED_UNDEFINED
    if missing:
        raise CompilerError(f"kernel {symbol} needs symbols that no kernel may use: {sorted(missing)}")
    return ObjectCode(symbol, code)


def _light_passes(number_values: bool) -> Any:
    """What turns locals into registers and tidies up; the code generator does the rest."""
    passes = llvm.create_new_module_pass_manager()
    passes.add_sroa_pass()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    passes.add_loop_rotate_pass()
    if number_values:
        passes.add_new_gvn_pass()
        passes.add_instruction_combine_pass()
        passes.add_aggressive_dce_pass()
    passes.add_simplify_cfg_pass()
    return passes


def _parse(text: str, symbol: str) -> Any:
    _initialize()
    try:
        parsed = llvm.parse_assembly(text)
        parsed.verify()
    except RuntimeError as error:
        raise CompilerError(f"kernel {symbol}: invalid IR: {error}") from error
    return parsed


def _prefer_full_vectors(attributes: set[str], target: Target) -> None:
    """Without these attributes LLVM splits 512-bit vectors for processors that clock down on them."""
    if target.isa == "avx512":
        # llvmlite's own ``add`` knows no attributes with values.
        set.add(attributes, '"prefer-vector-width"="512"')
        set.add(attributes, '"min-legal-vector-width"="512"')


@functools.cache
def _initialize() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()


def undefined_symbols(code: bytes) -> set[str]:
    """Names that an object leaves to the linker. Empty for formats other than little-endian ELF64.

    Source: System V Application Binary Interface, https://refspecs.linuxfoundation.org/elf/gabi4+/ch4.symtab.html
    """
    if code[:6] != b"\x7fELF\x02\x01":
        return set()
    (section_offset,) = struct.unpack_from("<Q", code, 0x28)
    entry_size, count = struct.unpack_from("<HH", code, 0x3A)
    sections = [
        struct.unpack_from("<IIQQQQIIQQ", code, section_offset + i * entry_size) for i in range(count)
    ]
    found: set[str] = set()
    for _, kind, _, _, offset, size, link, _, _, symbol_size in sections:
        if kind != 2:
            continue
        strings = sections[link][4]
        for position in range(offset, offset + size, symbol_size):
            name, _, _, section = struct.unpack_from("<IBBH", code, position)
            if name and section == 0:
                start = strings + name
                found.add(code[start : code.index(b"\0", start)].decode())
    return found
