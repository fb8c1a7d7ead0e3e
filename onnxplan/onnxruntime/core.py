"""The session of onnxplan behind one of onnxruntime's interface."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onnxplan import TensorInfo
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Model
from onnxplan.onnxruntime.declarations import Shape, declared, denoted_places
from onnxplan.onnxruntime.enumerations import GraphOptimizationLevel
from onnxplan.onnxruntime.errors import InvalidArgument, InvalidProtobuf, model_errors, run_errors
from onnxplan.onnxruntime.options import SessionOptions
from onnxplan.onnxruntime.overrides import override_dimensions, override_initializers
from onnxplan.onnxruntime.providers import Placement
from onnxplan.onnxruntime.types import ModelMetadata, NodeArg, type_name
from onnxplan.runtime.artifact import is_artifact
from onnxplan.runtime.cancellation import CancelFlag
from onnxplan.runtime.device import AnyArray
from onnxplan.runtime.engine import Observer
from onnxplan.session import InferenceSession
from onnxplan.tensor import Tensor, unwrap

NO_VERSION = (1 << 63) - 1
"""The version of models that have none."""

_seeds: random.Random | None = None


def set_seed(seed: int) -> None:
    """Sessions made from now on draw the same random numbers in each process that sets the same seed."""
    global _seeds
    _seeds = random.Random(seed)


class Core(InferenceSession):
    """A session of ``source``, a path or bytes, with what ``options`` changes about the model.

    Symbolic dimensions of one name may differ from input to input, as in onnxruntime.
    """

    _observed_by = "onnxplan.onnxruntime.observed"

    def __init__(self, source: str | bytes, options: SessionOptions, placement: Placement) -> None:
        self._ort_options = options
        self._message = source
        label = "" if isinstance(source, bytes) else f"Load model from {source} failed:"
        threads = options.intra_op_num_threads
        optimize = options.graph_optimization_level is not GraphOptimizationLevel.ORT_DISABLE_ALL
        _refuse_what_is_no_model(source, label)
        # Nothing is read of artifacts: what they refuse is a matter of planning.
        self._is_read = is_artifact(source)
        try:
            super().__init__(
                source,
                device=placement.device,
                threads=threads if threads > 0 else None,
                optimize=int(optimize),
                memory_limit=placement.memory_limit,
            )
        except Exception as error:
            # A model that was seen before is not read again.
            with run_errors() if self._is_read or hasattr(self, "_engine") else model_errors(label):
                raise error
        if _seeds is not None:
            generator = random.Random(_seeds.getrandbits(64))
            self._engine.draw_key = lambda: generator.randbytes(8)
        self._declared: dict[str, tuple[str, Shape]] | None = None
        self.inputs_meta = [self._node_arg(info) for info in self._inputs]
        self.outputs_meta = [self._node_arg(info, is_output=True) for info in self._outputs]
        self.overridable_initializers = [self._node_arg(info) for info in self._optional]
        metas = (*self.inputs_meta, *self.overridable_initializers)
        infos = (*self._inputs, *self._optional)
        self.types = {
            meta.name: (_dtype(info), info.dims or ()) for meta, info in zip(metas, infos, strict=True)
        }
        self._inputs = tuple(_loose(info) for info in self._inputs)
        self._optional = tuple(_loose(info) for info in self._optional)
        self._output_order = tuple(self.output_names)

    @property
    def _adapts(self) -> bool:
        options = self._ort_options
        return bool(options._denotations or options._dimensions or options._initializers)

    def _adapt(self, model: Model) -> None:
        self._is_read = True
        options = self._ort_options
        places = denoted_places(self._message, options._denotations) if options._denotations else {}
        override_dimensions(model, options._dimensions, places)
        override_initializers(model, options._initializers)

    @property
    def model_meta(self) -> ModelMetadata:
        told = self._description.to_json()
        version = NO_VERSION if told["version"] is None else told["version"]
        return ModelMetadata({**told, "version": version, "custom_metadata_map": self.metadata})

    # Running

    def try_run(self, feeds: Mapping[str, Any]) -> list[Any] | None:
        """The outputs, if ``feeds`` are just what the latest run was fed; ``None`` if not, or if unsure."""
        recent = self._recent
        if recent is None:
            return None
        results = self._try_recent(recent, feeds, "cpu")
        if results is None:
            return None
        return [unwrap(results[name]) for name in self._output_order]

    def compute(
        self,
        feeds: Mapping[str, Any],
        fetches: Sequence[str] | None,
        cancel: CancelFlag | None = None,
        out: Mapping[str, AnyArray] | None = None,
        reuse: Mapping[str, AnyArray] | None = None,
        observer: Observer | None = None,
        *,
        on_device: bool = False,
    ) -> dict[str, Any]:
        """A run on feeds that were checked: outputs by name, as arrays, lists, dicts or ``None``.

        Results are written into the arrays of ``out``, which fit and do not overlap the feeds, and into those
        of ``reuse`` that do. Raises what onnxruntime raises.
        """
        with run_errors():
            request, arrays = self._check(feeds, fetches, self._device)
            targets = dict(out or {})
            if reuse:
                stage = self._engine.first_stage(request)
                for name, planned in zip(stage.output_names, stage.allocations, strict=True):
                    old = reuse.get(name)
                    if (
                        stage.facts.final
                        and old is not None
                        and (old.shape, old.dtype) == planned
                        and not overlaps(old, arrays)
                    ):
                        targets[name] = old
            results = self._run_request(
                request, arrays, cancel, targets, on_device=on_device, observer=observer
            )
        return {name: to_plain(value) for name, value in results.items()}

    # What is known of inputs and outputs

    def _node_arg(self, info: Any, *, is_output: bool = False) -> NodeArg:
        dtype = _dtype(info)
        kind = type_name(dtype) if dtype is not None else self._from_message(info.name)[0]

        def shape() -> Sequence[int | str | None]:
            # Inference has nothing to add to dimensions that are declared, and takes a while.
            known: tuple[int | str | None, ...] | None = info.dims
            if known is not None and (None not in known or not is_output):
                return known
            inferred = self._from_message(info.name)[1]
            return inferred if known is None or len(inferred) == len(known) else known

        return NodeArg(info.name, kind, shape)

    def _from_message(self, name: str) -> tuple[str, Shape]:
        if self._declared is None:
            # Artifacts tell all that they know.
            self._declared = {} if is_artifact(self._message) else declared(self._message)
        return self._declared.get(name, ("", []))


def overlaps(one: AnyArray, others: Iterable[AnyArray]) -> bool:
    """Does ``one`` share memory with any of ``others``? The host and a device never do."""
    begin, end = _range(one)
    on_host = isinstance(one, np.ndarray)
    for other in others:
        first, last = _range(other)
        if isinstance(other, np.ndarray) is on_host and begin < last and first < end:
            return True
    return False


def _range(tensor: AnyArray) -> tuple[int, int]:
    begin = tensor.ctypes.data if isinstance(tensor, np.ndarray) else tensor.pointer
    return begin, begin + math.prod(tensor.shape) * tensor.dtype.itemsize


def _refuse_what_is_no_model(source: str | bytes, label: str) -> None:
    """Raises what onnxruntime does for sources without bytes and for folders."""
    if isinstance(source, bytes):
        if not source:
            raise InvalidArgument("No graph was found in the protobuf.")
    elif os.path.isdir(source):
        raise InvalidProtobuf(f"{label}Protobuf parsing failed: {source} is a directory.")
    elif os.path.isfile(source) and not os.path.getsize(source):
        raise InvalidArgument(f"{label}No graph was found in the protobuf: {source} is empty.")


def to_plain(value: Any) -> Any:
    """Tensors as the arrays that they are made of, also those in lists."""
    if isinstance(value, Tensor):
        return unwrap(value)
    return [to_plain(item) for item in value] if isinstance(value, list) else value


def host_value(value: Any) -> Any:
    """The same with tensors on a device copied to the host."""
    if isinstance(value, list):
        return [host_value(item) for item in value]
    return value if value is None or isinstance(value, np.ndarray | dict) else value.numpy()


def _dtype(info: Any) -> DType | None:
    """The element type of a tensor, ``None`` for what is no tensor."""
    try:
        return DType.from_label(info.type)
    except KeyError:
        return None


def _loose(info: Any) -> Any:
    """Without what onnxruntime does not check: symbolic dimensions, and all of the shape of scalars."""
    if not isinstance(info, TensorInfo) or info.dims is None:
        return info
    dims = tuple([dim if isinstance(dim, int) else None for dim in info.dims])
    return replace(info, dims=dims or None)
