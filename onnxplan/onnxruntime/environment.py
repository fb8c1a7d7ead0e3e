"""What onnxruntime offers about itself: versions, logging, telemetry."""

from __future__ import annotations

import logging
import platform
from typing import Any

VERSION = "1.32.0"
"""The version of onnxruntime whose interface this is."""

_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)


def get_version_string() -> str:
    return VERSION


def get_build_info() -> str:
    from importlib.metadata import version

    return f"ORT Build Info: onnxplan {version('onnxplan')}, interface of onnxruntime {VERSION}"


def set_default_logger_severity(severity: int, /) -> None:
    """Sets the level of the logger ``onnxplan``: 0 verbose, 1 info, 2 warning, 3 error, 4 fatal."""
    if not 0 <= severity < len(_LEVELS):
        raise RuntimeError("Invalid logging severity. 0:Verbose, 1:Info, 2:Warning, 3:Error, 4:Fatal")
    logging.getLogger("onnxplan").setLevel(_LEVELS[severity])


def set_default_logger_verbosity(verbosity: int, /) -> None:
    """Does nothing: there are no levels below that of verbose messages."""


def set_global_thread_pool_sizes(intra_op: int, inter_op: int, /) -> None:
    """Does nothing: all sessions share the threads of the process."""


def enable_telemetry_events() -> None:
    """Does nothing: onnxplan sends nothing anywhere."""


def disable_telemetry_events() -> None:
    """Does nothing: onnxplan sends nothing anywhere."""


def has_collective_ops() -> bool:
    return False


def preload_dlls(cuda: bool = True, cudnn: bool = True, msvc: bool = True, directory: Any = None) -> None:
    """Does nothing: libraries are loaded where sessions need them."""


def print_debug_info() -> None:
    """Prints versions; ``onnxplan doctor`` tells more."""
    print(get_build_info())
    print("platform:", platform.platform())
