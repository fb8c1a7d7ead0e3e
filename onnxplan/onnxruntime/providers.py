"""Execution providers: which there are, and which device of onnxplan serves those that a caller names."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from onnxplan.compiler.errors import DeviceUnavailableError
from onnxplan.compiler.records import dataclass
from onnxplan.onnxruntime.errors import UnsupportedFeatureError
from onnxplan.runtime.devices import open_device

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
ALL_PROVIDERS = (
    "TensorrtExecutionProvider",
    CUDA,
    "MIGraphXExecutionProvider",
    "OpenVINOExecutionProvider",
    "DnnlExecutionProvider",
    "VitisAIExecutionProvider",
    "QNNExecutionProvider",
    "NnapiExecutionProvider",
    "VSINPUExecutionProvider",
    "JsExecutionProvider",
    "CoreMLExecutionProvider",
    "DmlExecutionProvider",
    "RknpuExecutionProvider",
    "WebNNExecutionProvider",
    "WebGpuExecutionProvider",
    "XnnpackExecutionProvider",
    "CANNExecutionProvider",
    "AzureExecutionProvider",
    CPU,
)
CUDA_HINTS = frozenset(
    {
        "arena_extend_strategy",
        "cudnn_conv1d_pad_to_nc1d",
        "cudnn_conv_algo_search",
        "cudnn_conv_use_max_workspace",
        "do_copy_in_default_stream",
        "enable_cuda_graph",
        "enable_skip_layer_norm_strict_mode",
        "fuse_conv_bias",
        "prefer_nhwc",
        "sdpa_kernel",
        "tunable_op_enable",
        "tunable_op_max_tuning_duration_ms",
        "tunable_op_tuning_enable",
        "use_ep_level_unified_stream",
        "use_tf32",
    }
)
"""Options of the CUDA provider that tune, and change nothing here. Float32 arithmetic stays in float32."""
CUDA_REFUSED = frozenset(
    {
        "gpu_external_alloc",
        "gpu_external_empty_cache",
        "gpu_external_free",
        "has_user_compute_stream",
        "user_compute_stream",
    }
)
_OFF = ("", "0", "None")

Provider = str | tuple[str, dict[Any, Any]]


@functools.cache
def cuda_failure() -> str | None:
    """Why no CUDA device can be used; ``None`` where one can, which is tried once."""
    try:
        open_device("cuda")
    except DeviceUnavailableError as error:
        return str(error)
    return None


def get_all_providers() -> list[str]:
    """The names of all providers that onnxruntime knows, the preferred ones first."""
    return list(ALL_PROVIDERS)


def get_available_providers() -> list[str]:
    """The names of the providers that sessions can have here: the CPU's, and CUDA's where a device works."""
    return [CPU] if cuda_failure() else [CUDA, CPU]


def get_device() -> str:
    """``GPU`` where a CUDA device works, else ``CPU``."""
    return "CPU" if cuda_failure() else "GPU"


def check_and_normalize_provider_args(
    providers: Sequence[Provider] | None,
    provider_options: Sequence[dict[Any, Any]] | None,
    available_provider_names: Sequence[str],
) -> tuple[list[str], list[dict[str, str]]]:
    """Names and options of the providers asked for, in order and without repetitions.

    Raises ``ValueError`` for arguments that do not fit together; warns of providers that are not available.
    """
    if providers is None:
        return [], []
    if not isinstance(providers, Sequence):
        raise ValueError("'providers' should be a sequence.")
    if provider_options is not None:
        pairs = _paired(providers, provider_options)
    else:
        pairs = [_pair(provider) for provider in providers]
    chosen: dict[str, dict[str, str]] = {}
    for name, options in pairs:
        if name not in available_provider_names:
            warnings.warn(
                f"Specified provider '{name}' is not in available provider names."
                f"Available providers: '{', '.join(available_provider_names)}'",
                stacklevel=4,
            )
        if name in chosen:
            warnings.warn(f"Duplicate provider '{name}' encountered, ignoring.", stacklevel=4)
            continue
        chosen[name] = {str(key): str(value) for key, value in options.items()}
    return list(chosen), list(chosen.values())


def _paired(providers: Sequence[Provider], options: Sequence[Any]) -> list[tuple[str, dict[Any, Any]]]:
    if not isinstance(options, Sequence):
        raise ValueError("'provider_options' should be a sequence.")
    if len(providers) != len(options):
        raise ValueError("'providers' and 'provider_options' should be the same length if both are given.")
    if not all(isinstance(provider, str) for provider in providers):
        raise ValueError("Only string values for 'providers' are supported if 'provider_options' is given.")
    if not all(isinstance(item, dict) for item in options):
        raise ValueError("'provider_options' values must be dicts.")
    return [(str(name), item) for name, item in zip(providers, options, strict=True)]


def _pair(provider: Any) -> tuple[str, dict[Any, Any]]:
    match provider:
        case str():
            return provider, {}
        case (str(name), dict(options)) if isinstance(provider, tuple):
            return name, options
    raise ValueError("'providers' values must be either strings or (string, dict) tuples.")


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a session runs: the device's name in onnxplan, and the providers that it is said to have."""

    device: str
    providers: tuple[str, ...]
    options: Mapping[str, Mapping[str, str]]
    memory_limit: int | None = None


def place(names: Sequence[str], options: Sequence[Mapping[str, str]], *, fallback: bool) -> Placement:
    """The placement for providers as :func:`check_and_normalize_provider_args` gives them.

    The first one that is available decides. Those that are not are left out, unless ``fallback`` is false
    and they come before the CPU, which would be all that is left: then ``RuntimeError`` says why. It is
    raised for names and options of no provider too.
    """
    for name in names:
        if name not in ALL_PROVIDERS:
            raise RuntimeError(f"Unknown Provider Type: {name}")
    available = get_available_providers()
    kept = {name: item for name, item in zip(names, options, strict=True) if name in available}
    if CUDA not in kept and not fallback:
        preferred = names[: names.index(CPU)] if CPU in names else names
        missing = [name for name in preferred if name not in kept]
        if CUDA in missing:
            raise DeviceUnavailableError(f"{CUDA}: {cuda_failure()}")
        if missing:
            raise DeviceUnavailableError(f"{missing[0]} is not available in onnxplan; it has {available}")
    kept.setdefault(CPU, {})
    given: dict[str, Mapping[str, str]] = {name: {} for name in kept}
    memory_limit = None
    if CUDA in kept:
        given[CUDA] = {"device_id": "0", **kept[CUDA]}
        memory_limit = _check_cuda(given[CUDA])
    device = f"cuda:{given[CUDA]['device_id']}" if next(iter(kept)) == CUDA else "cpu"
    return Placement(device, tuple(kept), given, memory_limit if device != "cpu" else None)


def _check_cuda(options: Mapping[str, str]) -> int | None:
    """The memory limit that options of the CUDA provider set."""
    limit = None
    for name, value in options.items():
        if name == "gpu_mem_limit":
            limit = int(value)
        elif name == "device_id":
            if not value.isdecimal():
                raise RuntimeError(f"the CUDA provider's device_id must be a number, not {value!r}")
        elif name in CUDA_REFUSED:
            if value not in _OFF:
                raise UnsupportedFeatureError(
                    f"onnxplan.onnxruntime does not support the option {name!r} of {CUDA}"
                )
        elif name not in CUDA_HINTS:
            raise RuntimeError(f"Unknown provider option: {name!r} of {CUDA}")
    # onnxruntime's default is the largest number there is.
    return limit if limit is not None and 0 < limit < (1 << 62) else None
