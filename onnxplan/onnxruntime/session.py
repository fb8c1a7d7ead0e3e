"""Sessions of onnxruntime's interface."""

from __future__ import annotations

import copy
import os
import time
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onnxplan.compiler.errors import OnnxPlanError
from onnxplan.onnxruntime.asynchronous import submit
from onnxplan.onnxruntime.binding import IOBinding
from onnxplan.onnxruntime.core import Core, host_value
from onnxplan.onnxruntime.devices import OrtDevice
from onnxplan.onnxruntime.errors import EPFail, InvalidArgument, StatusError
from onnxplan.onnxruntime.feeds import read_feeds
from onnxplan.onnxruntime.options import RunOptions, SessionOptions
from onnxplan.onnxruntime.profiling import Profile, node_observer
from onnxplan.onnxruntime.providers import (
    CPU,
    CUDA,
    Provider,
    check_and_normalize_provider_args,
    get_available_providers,
    place,
)
from onnxplan.onnxruntime.types import ModelMetadata, NodeArg
from onnxplan.onnxruntime.unsupported import refuse, unsupported_function
from onnxplan.onnxruntime.values import OrtValue, OrtValueVector
from onnxplan.runtime.cancellation import Cancelled

_KEYWORDS = frozenset({"disabled_optimizers", "enable_fallback", "read_config_from_model"})


class InferenceSession:
    """A model, ready to run: onnxruntime's interface to :class:`onnxplan.InferenceSession`.

    ``path_or_bytes`` is a path, the bytes of a model, or the path of a compiled artifact. The first of
    ``providers`` that is available decides on the device. ``enable_fallback=0`` raises where that would be
    the CPU instead of a device that was named.

    Sessions pickle as what they were made of, with the attributes that subclasses add.
    """

    def __init__(
        self,
        path_or_bytes: str | bytes | os.PathLike[str],
        sess_options: SessionOptions | None = None,
        providers: Sequence[Provider] | None = None,
        provider_options: Sequence[dict[Any, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(path_or_bytes, str | os.PathLike):
            self._model_path: str | None = os.fspath(path_or_bytes)
            self._model_bytes: bytes | None = None
        elif isinstance(path_or_bytes, bytes):
            self._model_path, self._model_bytes = None, path_or_bytes
        else:
            raise TypeError(f"Unable to load from type '{type(path_or_bytes)}'")
        if not isinstance(sess_options, SessionOptions | None):
            raise TypeError(
                f"__init__(): incompatible constructor arguments: {sess_options!r} is no SessionOptions"
            )
        for name in kwargs.keys() - _KEYWORDS:
            warnings.warn(f"onnxplan.onnxruntime: the argument {name!r} has no effect", stacklevel=2)
        if int(kwargs.get("read_config_from_model", 0)):
            refuse("the argument read_config_from_model")
        self._enable_fallback = int(kwargs.get("enable_fallback", 1)) == 1
        self._sess_options_initial = sess_options
        self._fallback_providers = [CPU]
        try:
            self._create(providers, provider_options)
        except (ValueError, RuntimeError) as error:
            strict = sess_options is not None and sess_options._disables_cpu_fallback
            if strict or not self._enable_fallback or isinstance(error, NotImplementedError):
                raise
            print("*************** EP Error ***************")
            print(f"EP Error {error} when using {providers}")
            print(f"Falling back to {self._fallback_providers} and retrying.")
            print("****************************************")
            self._create(self._fallback_providers, None)
            # Fall back only once.
            self.disable_fallback()

    def _create(
        self, providers: Sequence[Provider] | None, provider_options: Sequence[dict[Any, Any]] | None
    ) -> None:
        options = copy.copy(self._sess_options_initial) or SessionOptions()
        options.check()
        names, settings = check_and_normalize_provider_args(
            providers, provider_options, get_available_providers()
        )
        if options._providers and names:
            warnings.warn(
                "Specified 'providers'/'provider_options' when creating InferenceSession but SessionOptions "
                "has already been configured with providers. InferenceSession will only use the providers "
                "passed to InferenceSession().",
                stacklevel=3,
            )
        elif options._providers:
            names, settings = (
                [name for name, _ in options._providers],
                [item for _, item in options._providers],
            )
        placement = place(
            names, settings, fallback=self._enable_fallback and not options._disables_cpu_fallback
        )
        profile = Profile(options.profile_file_prefix) if options.enable_profiling else None
        begin = time.perf_counter_ns()
        source = self._model_path if self._model_path is not None else self._model_bytes
        assert source is not None
        self._sess = Core(source, options, placement)
        if profile is not None:
            profile.add("session_initialization", begin)
            weakref.finalize(self, profile.write)
        self._profile = profile
        self._profiling_start_time_ns = 0 if profile is None else profile.start_ns
        self._sess_options = options
        self._providers = list(placement.providers)
        self._provider_options = {name: dict(item) for name, item in placement.options.items()}
        self._inputs_meta = self._sess.inputs_meta
        self._outputs_meta = self._sess.outputs_meta
        self._overridable_initializers = self._sess.overridable_initializers
        self._model_meta = self._sess.model_meta
        self._output_names = list(self._sess.output_names)

    # What is known of the model

    def get_session_options(self) -> SessionOptions:
        return self._sess_options

    def get_inputs(self) -> list[NodeArg]:
        """The inputs that must be fed."""
        return self._inputs_meta

    def get_outputs(self) -> list[NodeArg]:
        return self._outputs_meta

    def get_overridable_initializers(self) -> list[NodeArg]:
        """The inputs that have a default."""
        return self._overridable_initializers

    def get_modelmeta(self) -> ModelMetadata:
        return self._model_meta

    # Where it runs

    def get_providers(self) -> list[str]:
        return self._providers

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return self._provider_options

    def set_providers(
        self,
        providers: Sequence[Provider] | None = None,
        provider_options: Sequence[dict[Any, Any]] | None = None,
    ) -> None:
        """Makes the session anew, with these providers."""
        self._create(providers, provider_options)

    def disable_fallback(self) -> None:
        """Runs that fail on a device raise, and ``set_providers`` does for devices that are not there."""
        self._enable_fallback = False

    def enable_fallback(self) -> None:
        """The first run that fails for a reason of its device moves the session to the CPU."""
        self._enable_fallback = True

    # Running

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: RunOptions | None = None,
    ) -> list[Any]:
        """The outputs called ``output_names`` (all where there are none), in that order, as NumPy arrays.

        ``input_feed`` maps the names of inputs to arrays of just their types, nested lists, or values of type
        :class:`OrtValue`.
        """
        if (
            run_options is None
            and self._profile is None
            and (not output_names or output_names == self._output_names)
        ):
            try:
                results = self._sess.try_run(input_feed)
            except (OnnxPlanError, Cancelled):
                # The other way raises it as onnxruntime does.
                results = None
            if results is not None:
                return results
        self._validate_input(list(input_feed.keys()))
        names = self._names_of(output_names)
        results = self._outputs(names, read_feeds(input_feed, self._sess.types), run_options)
        return [host_value(value) for value in results]

    def run_async(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        callback: Callable[[list[Any], Any, str], Any],
        user_data: Any,
        run_options: RunOptions | None = None,
    ) -> None:
        """Runs on another thread, which then calls ``callback(outputs, user_data, error)``.

        ``error`` is empty, or says why there are no outputs. Any number of threads will do.
        """
        self._validate_input(list(input_feed.keys()))
        names = self._names_of(output_names)
        failure: StatusError | None = None
        feeds: dict[str, Any] = {}
        try:
            feeds = read_feeds(input_feed, self._sess.types)
        except StatusError as error:
            failure = error

        def work() -> None:
            results: list[Any] = []
            message = "" if failure is None else failure.message
            if failure is None:
                try:
                    results = [host_value(value) for value in self._outputs(names, feeds, run_options)]
                except StatusError as error:
                    message = error.message
                except Exception as error:
                    message = str(error)
            callback(results, user_data, message)

        submit(work)

    def run_with_ort_values(
        self,
        output_names: Sequence[str] | None,
        input_dict_ort_values: Mapping[str, OrtValue],
        run_options: RunOptions | None = None,
    ) -> list[OrtValue]:
        """The same from and to :class:`OrtValue`. Outputs are on the host."""
        self._validate_input(list(input_dict_ort_values.keys()))
        values = {name: value._get_c_value() for name, value in input_dict_ort_values.items()}
        names = self._names_of(output_names)
        results = self._outputs(names, read_feeds(values, self._sess.types), run_options)
        return [OrtValue._of(value) for value in results]

    def io_binding(self) -> IOBinding:
        return IOBinding(self)

    def run_with_iobinding(self, iobinding: IOBinding, run_options: RunOptions | None = None) -> None:
        """A run from the inputs to the outputs that ``iobinding`` has bound."""
        if iobinding._session is not self._sess:
            raise ValueError("IOBinding must be used with the session that created it.")
        try:
            iobinding._run(self, run_options)
        except StatusError as error:
            raise RuntimeError(f"Error in execution: {error.message}") from error

    def run_with_ortvaluevector(
        self,
        run_options: RunOptions | None,
        feed_names: Sequence[str],
        feeds: OrtValueVector,
        fetch_names: Sequence[str],
        fetches: OrtValueVector,
        fetch_devices: Sequence[OrtDevice],
    ) -> None:
        """The same from and to vectors: those of ``fetches`` are made anew, each on its device."""
        binding = IOBinding(self)
        for name, value in zip(feed_names, feeds, strict=True):
            binding.bind_ortvalue_input(name, value)
        for name, device in zip(fetch_names, fetch_devices, strict=True):
            binding.bind_output(name, "gpu" if device.device_type() else "cpu", device.device_id())
        self.run_with_iobinding(binding, run_options)
        fetches._values[:] = binding.get_outputs()

    def create_ortvalue_from_shape_and_type(
        self,
        shape: Sequence[int],
        element_type: Any,
        device_type: str,
        device_id: int = 0,
        vendor_id: int = -1,
    ) -> OrtValue:
        """A new tensor on a device."""
        return OrtValue.ortvalue_from_shape_and_type(shape, element_type, device_type, device_id, vendor_id)

    def _names_of(self, output_names: Sequence[str] | None) -> list[str]:
        if not output_names:
            return self._output_names
        if isinstance(output_names, str) or not all(isinstance(name, str) for name in output_names):
            raise TypeError(
                "run(): incompatible function arguments: the names of outputs are a sequence of str, not "
                f"{output_names!r}"
            )
        for name in output_names:
            if name not in self._output_names:
                raise InvalidArgument(f"Invalid output name:{name}")
        return list(output_names)

    def _validate_input(self, feed_input_names: Sequence[str]) -> None:
        missing = [
            meta.name
            for meta in self._inputs_meta
            if meta.name not in feed_input_names and not meta.type.startswith("optional")
        ]
        if missing:
            raise ValueError(f"Required inputs ({missing}) are missing from input feed ({feed_input_names}).")

    def _outputs(
        self, names: Sequence[str], feeds: Mapping[str, Any], run_options: RunOptions | None
    ) -> list[Any]:
        results = self._compute(feeds, names, run_options)
        return [results[name] for name in names]

    def _compute(
        self,
        feeds: Mapping[str, Any],
        names: Sequence[str],
        run_options: RunOptions | None,
        out: Mapping[str, Any] | None = None,
        reuse: Mapping[str, Any] | None = None,
        *,
        on_device: bool = False,
    ) -> dict[str, Any]:
        if not isinstance(run_options, RunOptions | None):
            raise TypeError(f"run(): incompatible function arguments: {run_options!r} is no RunOptions")
        flag = None if run_options is None else run_options._flag
        begin, observer = time.perf_counter_ns(), node_observer(self._profile, self._sess)
        try:
            results = self._sess.compute(feeds, names, flag, out, reuse, observer, on_device=on_device)
        except EPFail as error:
            if not self._enable_fallback or CUDA not in self._providers:
                raise
            print(f"EP Error: {error} using {self._providers}")
            print(f"Falling back to {self._fallback_providers} and retrying.")
            self.set_providers(self._fallback_providers)
            # Fall back only once.
            self.disable_fallback()
            results = self._sess.compute(feeds, names, flag, out, reuse, on_device=on_device)
        if self._profile is not None:
            self._profile.add("model_run", begin)
        if run_options is not None and run_options._shrinks_memory:
            self._sess.trim()
        return results

    # Profiles

    def end_profiling(self) -> str:
        """Writes the events since the session was made; the file's name, empty without profile."""
        profile, self._profile = self._profile, None
        return "" if profile is None else profile.write()

    def get_profiling_start_time_ns(self) -> int:
        """When the profile began, in nanoseconds since the epoch; 0 without profile."""
        return self._profiling_start_time_ns

    # Pickling

    def __getstate__(self) -> dict[str, Any]:
        own = {name: value for name, value in self.__dict__.items() if name not in _OWN}
        providers = [(name, self._provider_options[name]) for name in self._providers]
        model = self._model_path if self._model_path is not None else self._model_bytes
        return {
            "model": model,
            "sess_options": self._sess_options_initial,
            "providers": providers,
            "enable_fallback": int(self._enable_fallback),
            "attributes": own,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        InferenceSession.__init__(
            self,
            state["model"],
            state["sess_options"],
            state["providers"],
            enable_fallback=state["enable_fallback"],
        )
        self.__dict__.update(state["attributes"])

    def release_captured_graph(self, graph_annotation_id: int = 0) -> None:
        """Does nothing: graphs of runs are kept and dropped by onnxplan itself."""

    get_input_epdevices = unsupported_function("InferenceSession.get_input_epdevices")
    get_input_memory_infos = unsupported_function("InferenceSession.get_input_memory_infos")
    get_output_memory_infos = unsupported_function("InferenceSession.get_output_memory_infos")
    get_provider_graph_assignment_info = unsupported_function(
        "InferenceSession.get_provider_graph_assignment_info"
    )
    get_tuning_results = unsupported_function("InferenceSession.get_tuning_results")
    set_ep_dynamic_options = unsupported_function("InferenceSession.set_ep_dynamic_options")
    set_tuning_results = unsupported_function("InferenceSession.set_tuning_results")


_OWN = frozenset(
    {
        "_enable_fallback",
        "_fallback_providers",
        "_inputs_meta",
        "_model_bytes",
        "_model_meta",
        "_model_path",
        "_output_names",
        "_outputs_meta",
        "_overridable_initializers",
        "_profile",
        "_profiling_start_time_ns",
        "_provider_options",
        "_providers",
        "_sess",
        "_sess_options",
        "_sess_options_initial",
    }
)
"""The attributes that sessions make themselves."""
