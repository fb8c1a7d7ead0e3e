"""Options of sessions and runs: what they mean here, and which of them are hints that change nothing."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any, Generic, TypeVar, overload

from onnxplan.onnxruntime.enumerations import ExecutionMode, ExecutionOrder, GraphOptimizationLevel
from onnxplan.onnxruntime.errors import InvalidArgument
from onnxplan.onnxruntime.unsupported import refuse, unsupported_function
from onnxplan.onnxruntime.values import OrtValue
from onnxplan.runtime.cancellation import CancelFlag

SESSION_HINTS = {
    "enable_cpu_mem_arena": "buffers are placed by the plan; there is no arena to switch off",
    "enable_mem_pattern": "as above",
    "enable_mem_reuse": "as above",
    "execution_mode": "one run shares its steps among the threads in either mode",
    "execution_order": "the plan's order is the compiler's",
    "inter_op_num_threads": "there is one team of threads",
    "log_severity_level": "sessions log nothing; `set_default_logger_severity` sets the level for all",
    "log_verbosity_level": "as above",
    "logid": "as above",
    "use_deterministic_compute": "results are always the same",
    "use_per_session_threads": "threads belong to the process",
}
"""Attributes of SessionOptions that are kept and change nothing, and why."""

RUN_HINTS = {
    "log_severity_level": "runs log nothing",
    "log_verbosity_level": "as above",
    "logid": "as above",
    "only_execute_path_to_fetches": "nothing else is ever executed",
}
"""Attributes of RunOptions that are kept and change nothing, and why."""

SESSION_CONFIG_HINTS = frozenset(
    {
        "mlas.disable_kleidiai",
        "mlas.enable_gemm_fastmath_arm64_bfloat16",
        "mlas.use_lut_gemm",
        "optimization.disable_specified_optimizers",
        "optimization.enable_cast_chain_elimination",
        "optimization.enable_gelu_approximation",
        "optimization.enable_memory_optimizer",
        "optimization.enable_memory_probe_recompute_config",
        "optimization.minimal_build_optimizations",
        "session.allow_released_opsets_only",
        "session.debug_layout_transformation",
        "session.disable_aot_function_inlining",
        "session.disable_double_qdq_remover",
        "session.disable_prepacking",
        "session.disable_qdq_constant_folding",
        "session.disable_quant_qdq",
        "session.dynamic_block_base",
        "session.enable_quant_qdq_cleanup",
        "session.force_spinning_stop",
        "session.graph_optimizations_loop_level",
        "session.inter_op.allow_spinning",
        "session.intra_op.allow_spinning",
        "session.intra_op_thread_affinities",
        "session.node_partition_config_file",
        "session.qdq_matmulnbits_accuracy_level",
        "session.qdqisint8allowed",
        "session.record_ep_graph_assignment_info",
        "session.save_external_prepacked_constant_initializers",
        "session.set_denormal_as_zero",
        "session.strict_shape_type_inference",
        "session.use_device_allocator_for_initializers",
        "session.use_env_allocators",
        "session.use_ort_model_bytes_directly",
        "session.use_ort_model_bytes_for_initializers",
    }
)
"""Configuration entries of sessions that tune, and change nothing here."""

RUN_CONFIG_HINTS = frozenset({"disable_synchronize_execution_providers", "gpu_graph_id"})
SHRINK_MEMORY = "memory.enable_memory_arena_shrinkage"
DISABLE_CPU_FALLBACK = "session.disable_cpu_ep_fallback"
MODEL_FORMAT = "session.load_model_format"
MAX_KEY = 1024

T = TypeVar("T")


def _warn_of(key: str, stacklevel: int) -> None:
    warnings.warn(
        f"onnxplan.onnxruntime: the configuration entry {key!r} has no effect", stacklevel=stacklevel + 1
    )


class _Option(Generic[T]):
    """An attribute that takes values of one type only, as those of onnxruntime's extension classes do."""

    def __init__(self, kind: type[T], default: T, text: str) -> None:
        self._kind = kind
        self.default = default
        self.__doc__ = text

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> _Option[T]: ...
    @overload
    def __get__(self, instance: Any, owner: type) -> T: ...
    def __get__(self, instance: Any, owner: type) -> T | _Option[T]:
        if instance is None:
            return self
        value: T = instance._values.get(self._name, self.default)
        return value

    def __set__(self, instance: Any, value: Any) -> None:
        kind: type = self._kind
        if kind is bool and isinstance(value, int):
            value = bool(value)
        elif kind is int and not isinstance(value, float) and hasattr(value, "__index__"):
            value = int(value)
        elif not isinstance(value, kind):
            raise TypeError(
                f"incompatible function arguments: {type(instance).__name__}.{self._name} takes "
                f"{kind.__name__}, not {value!r}"
            )
        instance._values[self._name] = value


class _Configured:
    """Entries of configuration by their keys."""

    __slots__ = ("_entries", "_values")

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._entries: dict[str, str] = {}

    def _add(self, key: str, value: str) -> None:
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(
                f"incompatible function arguments: a key and a value of type str, not {key!r}, {value!r}"
            )
        if not 0 < len(key) <= MAX_KEY:
            raise RuntimeError(f"Config key is empty or longer than maximum length {MAX_KEY}")
        self._entries[key] = value

    def _get(self, key: str) -> str:
        try:
            return self._entries[key]
        except KeyError:
            kind = type(self).__name__
            raise RuntimeError(f"{kind} does not have configuration with key: {key}") from None


class SessionOptions(_Configured):
    """What a session is made with. ``SESSION_HINTS`` lists the attributes that change nothing."""

    __slots__ = ("_denotations", "_dimensions", "_initializers", "_providers")

    enable_cpu_mem_arena = _Option(bool, True, "A hint without effect.")
    enable_mem_pattern = _Option(bool, True, "A hint without effect.")
    enable_mem_reuse = _Option(bool, True, "A hint without effect.")
    enable_profiling = _Option(bool, False, "Record the runs; ``end_profiling`` writes them to a file.")
    execution_mode = _Option(ExecutionMode, ExecutionMode.ORT_SEQUENTIAL, "A hint without effect.")
    execution_order = _Option(ExecutionOrder, ExecutionOrder.DEFAULT, "A hint without effect.")
    graph_optimization_level = _Option(
        GraphOptimizationLevel,
        GraphOptimizationLevel.ORT_ENABLE_ALL,
        "``ORT_DISABLE_ALL`` plans node by node, all others with all passes.",
    )
    inter_op_num_threads = _Option(int, 0, "A hint without effect.")
    intra_op_num_threads = _Option(int, 0, "Threads of one run; 0 for the cores this process may use.")
    log_severity_level = _Option(int, -1, "A hint without effect.")
    log_verbosity_level = _Option(int, 0, "A hint without effect.")
    logid = _Option(str, "", "A hint without effect.")
    optimized_model_filepath = _Option(str, "", "Not supported: sessions refuse it.")
    profile_file_prefix = _Option(str, "onnxruntime_profile_", "What names of profiles begin with.")
    use_deterministic_compute = _Option(bool, False, "Always so.")
    use_per_session_threads = _Option(bool, True, "A hint without effect.")

    def __init__(self) -> None:
        super().__init__()
        self._dimensions: dict[str, int] = {}
        self._denotations: dict[str, int] = {}
        self._initializers: dict[str, OrtValue] = {}
        self._providers: list[tuple[str, dict[str, str]]] = []

    def add_session_config_entry(self, key: str, value: str, /) -> None:
        """Sets a configuration entry; ``SESSION_CONFIG_HINTS`` lists those that change nothing."""
        self._add(key, value)

    def get_session_config_entry(self, key: str, /) -> str:
        return self._get(key)

    def add_free_dimension_override_by_name(self, name: str, size: int, /) -> None:
        """Fixes the symbolic dimension ``name`` of inputs to ``size``."""
        self._dimensions[name] = int(size)

    def add_free_dimension_override_by_denotation(self, denotation: str, size: int, /) -> None:
        """Fixes the dimensions of inputs that are denoted so (``DATA_BATCH``) to ``size``."""
        self._denotations[denotation] = int(size)

    def add_initializer(self, name: str, value: OrtValue, /) -> None:
        """Replaces the model's initializer ``name``; the memory of ``value`` is read in place."""
        if not isinstance(value, OrtValue):
            raise RuntimeError("The provided Python object must be an OrtValue")
        self._initializers[name] = value

    def add_provider(self, name: str, options: Mapping[str, str], /) -> None:
        """Adds a provider after those added before; those that a session is given replace them."""
        from onnxplan.onnxruntime.providers import ALL_PROVIDERS, get_available_providers

        if name not in ALL_PROVIDERS:
            raise RuntimeError(f"Unknown Provider Type: {name}")
        if name not in get_available_providers():
            raise InvalidArgument(
                f"Failed to add provider of type {name!r} to SessionOptions: it is not available"
            )
        self._providers.append((name, dict(options)))

    def has_providers(self) -> bool:
        return bool(self._providers)

    def check(self) -> None:
        """Raises ``UnsupportedFeatureError`` for what sessions cannot do, and warns of unknown entries."""
        if self.optimized_model_filepath:
            refuse("SessionOptions.optimized_model_filepath")
        if self._entries.get(MODEL_FORMAT, "ONNX").upper() != "ONNX":
            refuse(f"models in onnxruntime's own format ({MODEL_FORMAT})")
        if self._entries.get("ep.context_enable", "0") == "1":
            refuse("the configuration entry ep.context_enable")
        for key in self._entries:
            if key not in SESSION_CONFIG_HINTS | {DISABLE_CPU_FALLBACK, MODEL_FORMAT, "ep.context_enable"}:
                _warn_of(key, stacklevel=4)

    @property
    def _disables_cpu_fallback(self) -> bool:
        return self._entries.get(DISABLE_CPU_FALLBACK, "0") == "1"

    def __getstate__(self) -> dict[str, Any]:
        names = ("_values", "_entries", "_dimensions", "_denotations", "_initializers", "_providers")
        return {name: copy.copy(getattr(self, name)) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    add_external_initializers = unsupported_function("SessionOptions.add_external_initializers")
    add_external_initializers_from_files_in_memory = unsupported_function(
        "SessionOptions.add_external_initializers_from_files_in_memory"
    )
    add_provider_for_devices = unsupported_function("SessionOptions.add_provider_for_devices")
    clear_ep_context_data_read_func = unsupported_function("SessionOptions.clear_ep_context_data_read_func")
    register_custom_ops_library = unsupported_function("SessionOptions.register_custom_ops_library")
    set_ep_context_data_read_func = unsupported_function("SessionOptions.set_ep_context_data_read_func")
    set_load_cancellation_flag = unsupported_function("SessionOptions.set_load_cancellation_flag")
    set_provider_selection_policy = unsupported_function("SessionOptions.set_provider_selection_policy")
    set_provider_selection_policy_delegate = unsupported_function(
        "SessionOptions.set_provider_selection_policy_delegate"
    )


class RunOptions(_Configured):
    """Options of single runs. ``RUN_HINTS`` lists the attributes that change nothing."""

    __slots__ = ("_flag",)

    log_severity_level = _Option(int, -1, "A hint without effect.")
    log_verbosity_level = _Option(int, 0, "A hint without effect.")
    logid = _Option(str, "", "A hint without effect.")
    only_execute_path_to_fetches = _Option(bool, False, "Always so.")

    def __init__(self) -> None:
        super().__init__()
        self._flag = CancelFlag()

    @property
    def terminate(self) -> bool:
        """Set to True, it stops the runs that use these options before their next step, and later ones."""
        return self._flag.is_set

    @terminate.setter
    def terminate(self, value: bool) -> None:
        if value:
            self._flag.set()
        elif self._flag.is_set:
            # Runs that were told to stop keep the flag that is set.
            self._flag = CancelFlag()

    def add_run_config_entry(self, key: str, value: str, /) -> None:
        """Sets a configuration entry; ``RUN_CONFIG_HINTS`` lists those that change nothing."""
        self._add(key, value)
        if key not in RUN_CONFIG_HINTS | {SHRINK_MEMORY}:
            _warn_of(key, stacklevel=2)

    def get_run_config_entry(self, key: str, /) -> str:
        return self._get(key)

    @property
    def _shrinks_memory(self) -> bool:
        return bool(self._entries.get(SHRINK_MEMORY))

    add_active_adapter = unsupported_function("RunOptions.add_active_adapter")
