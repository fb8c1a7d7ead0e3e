"""What a model takes and gives: names, types and dims, and whether a run's arguments fit them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxplan.compiler.errors import InvalidFeedsError, InvalidModelError
from onnxplan.compiler.ir import Model
from onnxplan.feeds import TensorInfo, check_feeds, check_fetches, describe
from onnxplan.runtime.device import AnyArray, Device
from onnxplan.runtime.planner import Request


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives; inputs with a default are ``optional_inputs``."""

    inputs: tuple[TensorInfo, ...]
    optional_inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    metadata: Mapping[str, str]

    @staticmethod
    def of(model: Model) -> Signature:
        inputs = model.graph.inputs
        return Signature(
            tuple(TensorInfo.of(value) for value in inputs if value.default is None),
            tuple(TensorInfo.of(value) for value in inputs if value.default is not None),
            tuple(TensorInfo.of(value) for value in model.graph.outputs),
            model.metadata,
        )


class ModelInterface:
    """The inputs, outputs and metadata of a model."""

    def _adapt(self, model: Model) -> None:
        """Changes a model that was read before anything is made of it; for subclasses."""

    def __init__(self, signature: Signature) -> None:
        self._inputs = signature.inputs
        self._optional = signature.optional_inputs
        self._outputs = signature.outputs
        self._names = tuple(info.name for info in self._inputs)
        self._metadata = dict(signature.metadata)

    def _complete(self, planned: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> None:
        """Adds what a plan tells about outputs, where the model itself leaves something open."""
        self._outputs = tuple(info.completed(planned.get(info.name)) for info in self._outputs)

    @property
    def input_names(self) -> tuple[str, ...]:
        return self._names

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(info.name for info in self._outputs)

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The inputs that must be fed."""
        return self._inputs

    @property
    def optional_inputs(self) -> tuple[TensorInfo, ...]:
        """The inputs that have a default and may be fed."""
        return self._optional

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        return self._outputs

    @property
    def metadata(self) -> dict[str, str]:
        """The model's own key-value metadata."""
        return dict(self._metadata)

    def _check(
        self, feeds: Mapping[str, Any], fetches: Iterable[str] | None, device: Device
    ) -> tuple[Request, tuple[AnyArray, ...]]:
        """What is asked for, and the arrays that are fed; raises :class:`InvalidFeedsError`."""
        arrays = check_feeds(feeds, self._inputs, self._optional, device)
        wanted = check_fetches(fetches, self._outputs)
        shapes = tuple(array.shape for array in arrays.values())
        texts = tuple(
            (name, tuple(array.flat))
            for name, array in arrays.items()
            if isinstance(array, np.ndarray) and array.dtype == object
        )
        return Request(tuple(arrays), shapes, wanted, texts), tuple(arrays.values())

    def _refused(self, request: Request, error: InvalidModelError) -> InvalidFeedsError:
        """The error of a model that is valid for other inputs than these."""
        types = {info.name: info.type for info in (*self._inputs, *self._optional)}
        given = zip(request.names, request.shapes, strict=True)
        inputs = ", ".join(f"{name} {describe(types[name], shape)}" for name, shape in given)
        return InvalidFeedsError(f"{error}; the inputs are {inputs or 'none'}")
