"""Loads object code into the process: with a linker of our own where it can, else with LLVM's.

Neither numba nor, on Linux for x86-64, llvmlite is imported for it.
"""

from __future__ import annotations

import itertools
import logging
import sys
import threading
from collections.abc import Mapping
from typing import Any

from onnxplan.runtime.executable import MAPS_IMAGES, map_image
from onnxplan.runtime.image import Image

logger = logging.getLogger("onnxplan.store")


class ObjectLoader:
    """Links objects, each in a name space of its own: equal symbols in two objects do not meet.

    Loaded code stays as long as the process lives. Undefined symbols are looked up in ``imports`` of the
    call and then in the process (``memset`` and the like).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._linker: Any = None
        self._kept: list[Any] = []

    def load(
        self, code: bytes, symbols: tuple[str, ...], imports: Mapping[str, int] | None = None
    ) -> tuple[int, ...]:
        """The addresses of ``symbols`` in ``code``; ``RuntimeError`` where it cannot be linked."""
        image = _linked(code)
        if image is not None:
            return load_image(image, symbols, imports or {})
        with self._lock:
            # JITLink is weakest on Windows (COFF), where RuntimeDyld is the proven linker.
            link = self._link_with_mcjit if sys.platform == "win32" else self._link_with_orc
            addresses, owner = link(code, symbols, imports or {})
            self._kept.append(owner)
        if not all(addresses):
            raise RuntimeError(f"object code lacks {', '.join(symbols)}")
        return addresses

    def reset_lock(self) -> None:
        """For the child of a fork, where the thread that held the lock does not exist."""
        self._lock = threading.Lock()

    def _link_with_orc(
        self, code: bytes, symbols: tuple[str, ...], imports: Mapping[str, int]
    ) -> tuple[tuple[int, ...], Any]:
        import llvmlite.binding as llvm

        if self._linker is None:
            self._linker = llvm.create_lljit_compiler(_target_machine())
        builder = llvm.JITLibraryBuilder().add_object_img(code).add_current_process()
        for name, address in imports.items():
            builder.import_symbol(name, address)
        for symbol in symbols:
            builder.export_symbol(symbol)
        library = builder.link(self._linker, f"onnxplan{next(self._numbers)}")
        return tuple(library[symbol] for symbol in symbols), library

    def _link_with_mcjit(
        self, code: bytes, symbols: tuple[str, ...], imports: Mapping[str, int]
    ) -> tuple[tuple[int, ...], Any]:
        import llvmlite.binding as llvm

        for name, address in imports.items():
            llvm.add_symbol(name, address)
        machine = _target_machine()
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        return tuple(engine.get_function_address(symbol) for symbol in symbols), engine


def load_image(image: Image, symbols: tuple[str, ...], imports: Mapping[str, int]) -> tuple[int, ...]:
    """The addresses of ``symbols`` in a copy of ``image``; ``RuntimeError`` where it lacks one."""
    missing = [symbol for symbol in symbols if symbol not in image.exports]
    if missing:
        raise RuntimeError(f"object code lacks {', '.join(missing)}")
    address = map_image(image, imports)
    return tuple(address + image.exports[symbol] for symbol in symbols)


def _linked(code: bytes) -> Image | None:
    """The image of object code, or ``None`` where LLVM's linker must make it run."""
    if not MAPS_IMAGES:
        return None
    # Not needed where code comes from artifacts.
    from onnxplan.runtime.elf import ElfError, link

    try:
        return link(code)
    except ElfError as error:
        logger.debug("left to LLVM's linker: %s", error)
        return None


def _target_machine() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), jit=True
    )
