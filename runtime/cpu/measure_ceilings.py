"""What the processor can do at most: multiply-adds in registers, and copies through memory.

Measured once on a machine and kept in the kernel store.
"""

from __future__ import annotations

import ctypes
import json
import logging
import platform
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.target import Target
from onnxplan.runtime.ceilings import Ceilings
from onnxplan.runtime.cpu.target import detect_target
from onnxplan.runtime.library import load_object, tool_key
from onnxplan.runtime.store import KernelStore, StoredCode, content_key

logger = logging.getLogger("onnxplan.profile")

COPY_BYTES = 128 << 20
"""Bytes that all threads together copy at a time, and at least four times the largest cache."""
PASSES = 50_000
DEPTH = 8
"""Multiply-adds of one chain in a pass."""
TILE_CHAINS = 4
"""Registers of sums of tiles; the other four are two tiles of each factor."""
REPEATS = 12


def stored_ceilings(store: KernelStore, threads: int, *, again: bool = False) -> Ceilings:
    """The ceilings with ``threads`` threads out of ``store``; measured (a second or two) where it has none.

    ``again`` measures in any case. They belong to a machine, an instruction set and a number of threads.
    """
    target = detect_target(threads)
    bytes_by = "tiles" if target.byte_tiles else "vectors" if target.dot_products else "words"
    parts = (platform.node(), tool_key(), target.isa, str(target.threads), bytes_by)
    key = content_key("ceilings", Path(__file__).read_bytes(), *parts)
    entry = None if again else store.get(key)
    if entry is not None:
        return Ceilings(*json.loads(entry.code))
    logger.info("measuring the ceilings of %s", counted_threads(target.threads))
    found = measure_ceilings(threads)
    store.put(key, StoredCode("ceilings", json.dumps(astuple(found)).encode()), "measured ceilings")
    return found


def counted_threads(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def measure_ceilings(threads: int, repeats: int = REPEATS) -> Ceilings:
    """The best of ``repeats`` short measurements with ``threads`` threads, for the chosen instruction set."""
    target = detect_target(threads)
    flops = _multiply_rate(target, repeats, quads=False)
    if target.byte_tiles:
        byte_operations = _tile_rate(target, repeats)
    else:
        # Without dot products each vector of bytes takes four instructions.
        byte_operations = _multiply_rate(target, repeats, quads=True) if target.dot_products else flops
    return Ceilings(flops, _copy_rate(target, repeats), byte_operations)


def _multiply_rate(target: Target, repeats: int, *, quads: bool) -> float:
    """Multiply-adds of independent vectors, enough of them to hide latency; each is two operations.

    With ``quads`` each lane is the sum of four products of bytes.
    """
    lanes, chains = target.vector_bytes // 4, 12 if target.vector_registers < 32 else 16
    address = load_object(_compile_multiplier(lanes, chains, quads=quads), "multiply")
    multiply = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)(address)
    results = [np.zeros(lanes, np.float32) for _ in range(target.threads)]
    seconds = _best_seconds([partial(multiply, PASSES, each.ctypes.data) for each in results], repeats)
    return (8 if quads else 2) * PASSES * DEPTH * chains * lanes * target.threads / seconds


def _tile_rate(target: Target, repeats: int) -> float:
    """Operations of products of tiles, 16 x 64 by 64 x 16 bytes each, that stay in registers."""
    address = load_object(_compile_tile_multiplier(), "multiply")
    multiply = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)(address)
    configurations = [_tile_configuration() for _ in range(target.threads)]
    calls = [partial(multiply, PASSES, each.ctypes.data) for each in configurations]
    return 2 * 16 * 16 * 64 * PASSES * DEPTH * TILE_CHAINS * target.threads / _best_seconds(calls, repeats)


def _tile_configuration() -> npt.NDArray[np.uint8]:
    """Palette 1 and eight tile registers of 16 rows of 64 bytes.

    Source: Intel, "Intel 64 and IA-32 Architectures Software Developer's Manual", ``LDTILECFG``.
    """
    record = np.zeros(64, np.uint8)
    record[0] = 1
    record[16:32:2] = 64
    record[48:56] = 16
    return record


def _copy_rate(target: Target, repeats: int) -> float:
    count = max(COPY_BYTES, 4 * target.cache_bytes[-1]) // 4
    source, result = np.ones(count, np.float32), np.zeros(count, np.float32)
    parts = zip(np.array_split(result, target.threads), np.array_split(source, target.threads), strict=True)
    seconds = _best_seconds([partial(np.copyto, *part) for part in parts], repeats)
    return 2 * source.nbytes / seconds


def _best_seconds(calls: Sequence[Callable[[], Any]], repeats: int) -> float:
    """The shortest time from when all threads, one for each call, begin until the last one ends."""
    best = float("inf")
    for _ in range(repeats):
        barrier = threading.Barrier(len(calls))
        times: list[tuple[float, float]] = []

        def work(call: Callable[[], Any], barrier: threading.Barrier, times: list[Any]) -> None:
            barrier.wait()
            start = time.perf_counter()
            call()
            times.append((start, time.perf_counter()))

        threads = [threading.Thread(target=work, args=(call, barrier, times)) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        starts, ends = zip(*times, strict=True)
        best = min(best, max(ends) - min(starts))
    return best


def _compile_multiplier(lanes: int, chains: int, *, quads: bool) -> bytes:
    """``multiply(passes, result)``: each pass is ``DEPTH`` multiply-adds to each of ``chains`` vectors."""
    import llvmlite.ir as ir

    from onnxplan.runtime.cpu.native_builder import WORD, compile_module

    vector = ir.VectorType(ir.IntType(32) if quads else ir.FloatType(), lanes)
    offsets = [ir.Constant(vector, [number if quads else float(number)] * lanes) for number in range(chains)]

    def build(module: Any) -> None:
        kind = ir.FunctionType(ir.VoidType(), [WORD, vector.as_pointer()])
        function = ir.Function(module, kind, "multiply")
        name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
        dot = ir.Function(module, ir.FunctionType(vector, [vector] * 3), name) if quads else None
        entry, loop, end = (function.append_basic_block(name) for name in ("entry", "loop", "end"))
        passes, result = function.args
        builder = ir.IRBuilder(entry)
        # Read from memory: with known numbers the loop would be computed when it is compiled.
        factor = builder.load(result, align=4)
        # Chains that begin alike would be merged.
        add = builder.add if quads else builder.fadd
        first = [add(factor, offset) for offset in offsets]
        builder.branch(loop)
        builder.position_at_end(loop)
        counter = builder.phi(WORD)
        totals = [builder.phi(vector) for _ in range(chains)]
        sums: list[Any] = list(totals)
        for _ in range(DEPTH):
            if quads:
                sums = [builder.call(dot, [total, factor, factor]) for total in sums]
                continue
            products = [builder.fmul(total, factor, flags=("contract",)) for total in sums]
            sums = [builder.fadd(product, factor, flags=("contract",)) for product in products]
        following = builder.add(counter, ir.Constant(WORD, 1))
        counter.add_incoming(ir.Constant(WORD, 0), entry)
        counter.add_incoming(following, loop)
        for phi, start, total in zip(totals, first, sums, strict=True):
            phi.add_incoming(start, entry)
            phi.add_incoming(total, loop)
        builder.cbranch(builder.icmp_signed("<", following, passes), loop, end)
        builder.position_at_end(end)
        builder.store(reduce(add, sums), result, align=4)
        builder.ret_void()

    return compile_module("onnxplan.ceilings", build)


def _compile_tile_multiplier() -> bytes:
    """``multiply(passes, configuration)``: each pass has ``DEPTH`` products for each chain."""
    import llvmlite.ir as ir

    from onnxplan.runtime.cpu.native_builder import WORD, compile_module

    number, pointer, nothing = ir.IntType(8), ir.IntType(8).as_pointer(), ir.VoidType()

    def build(module: Any) -> None:
        def instruction(name: str, *arguments: Any) -> Any:
            return ir.Function(module, ir.FunctionType(nothing, arguments), f"llvm.x86.{name}")

        configure, release = instruction("ldtilecfg", pointer), instruction("tilerelease")
        clear, multiply = instruction("tilezero", number), instruction("tdpbusd", number, number, number)
        function = ir.Function(module, ir.FunctionType(nothing, [WORD, pointer]), "multiply")
        entry, loop, end = (function.append_basic_block(name) for name in ("entry", "loop", "end"))
        passes, configuration = function.args
        builder = ir.IRBuilder(entry)
        builder.call(configure, [configuration])
        for register in range(2 * TILE_CHAINS):
            builder.call(clear, [number(register)])
        builder.branch(loop)
        builder.position_at_end(loop)
        counter = builder.phi(WORD)
        for _ in range(DEPTH):
            for sums in range(TILE_CHAINS):
                factors = (4 + sums // 2, 6 + sums % 2)
                builder.call(multiply, [number(register) for register in (sums, *factors)])
        following = builder.add(counter, ir.Constant(WORD, 1))
        counter.add_incoming(ir.Constant(WORD, 0), entry)
        counter.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, passes), loop, end)
        builder.position_at_end(end)
        builder.call(release, [])
        builder.ret_void()

    return compile_module("onnxplan.ceilings", build)
