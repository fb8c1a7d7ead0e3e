"""What a model takes and gives: names, types and dims, and whether a run's arguments fit them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from onnxplan.compiler.errors import InvalidFeedsError, InvalidModelError
from onnxplan.compiler.ir import MapType, Model, SequenceType
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.structures import Structure, type_of
from onnxplan.feeds import check_feeds, check_fetches
from onnxplan.infos import StructureInfo, TensorInfo, ValueInfo, describe, info_of
from onnxplan.runtime.description import Description
from onnxplan.runtime.device import AnyArray, Device
from onnxplan.runtime.planner import Request
from onnxplan.structures import describe_fed


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives; inputs with a default are ``optional_inputs``."""

    inputs: tuple[ValueInfo, ...]
    optional_inputs: tuple[ValueInfo, ...]
    outputs: tuple[ValueInfo, ...]
    metadata: Mapping[str, str]
    description: Description

    @staticmethod
    def of(model: Model) -> Signature:
        inputs = model.graph.inputs
        return Signature(
            tuple(info_of(value) for value in inputs if value.default is None),
            tuple(info_of(value) for value in inputs if value.default is not None),
            tuple(info_of(value) for value in model.graph.outputs),
            model.metadata,
            Description.of(model),
        )


class ModelInterface:
    """The inputs, outputs and metadata of a model."""

    @property
    def _adapts(self) -> bool:
        """May :meth:`_adapt` change the model?"""
        return False

    def _adapt(self, model: Model) -> None:
        """Changes a model that was read before anything is made of it; for subclasses."""

    def __init__(self, signature: Signature) -> None:
        self._inputs = signature.inputs
        self._optional = signature.optional_inputs
        self._outputs = signature.outputs
        self._names = tuple(info.name for info in self._inputs)
        self._metadata = dict(signature.metadata)
        self._description = signature.description

    def _complete(
        self,
        planned: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]],
        structures: Mapping[str, Structure[str]],
    ) -> None:
        """Adds what a plan tells about outputs, where the model itself leaves something open."""
        outputs: list[ValueInfo] = []
        for info in self._outputs:
            found = type_of(structures[info.name]) if info.name in structures else None
            if isinstance(found, SequenceType | MapType):
                outputs.append(StructureInfo(info.name, found) if info.type is None else info)
            else:
                outputs.append(info.completed(planned.get(info.name)))
        self._outputs = tuple(outputs)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs without a default, in the model's order."""
        return self._names

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in the model's order."""
        return tuple(info.name for info in self._outputs)

    @property
    def inputs(self) -> tuple[ValueInfo, ...]:
        """The inputs without a default: they must be fed, but for those of optional types."""
        return self._inputs

    @property
    def optional_inputs(self) -> tuple[ValueInfo, ...]:
        """The inputs that have a default and may be fed."""
        return self._optional

    @property
    def outputs(self) -> tuple[ValueInfo, ...]:
        """The outputs; a plan for fixed shapes adds what the model leaves open."""
        return self._outputs

    @property
    def metadata(self) -> dict[str, str]:
        """The model's own key-value metadata."""
        return dict(self._metadata)

    def _check(
        self, feeds: Mapping[str, Any], fetches: Iterable[str] | None, device: Device
    ) -> tuple[Request, tuple[AnyArray, ...]]:
        """What is asked for, and the arrays that are fed; raises :class:`InvalidFeedsError`."""
        fed, structures = check_feeds(feeds, self._inputs, self._optional, device)
        wanted = check_fetches(fetches, self._outputs)
        arrays = tuple(fed.values())
        texts = tuple(
            (name, tuple(array.flat))
            for name, array in fed.items()
            if isinstance(array, np.ndarray) and array.dtype == object
        )
        shapes = tuple(array.shape for array in arrays)
        return Request(tuple(fed), shapes, wanted, texts, structures), arrays

    def _refused(self, request: Request, error: InvalidModelError) -> InvalidFeedsError:
        """The error of a model that is valid for other inputs than these."""
        shapes = dict(zip(request.names, request.shapes, strict=True))
        structures = dict(request.structures)
        given = []
        for info in (*self._inputs, *self._optional):
            if isinstance(info, TensorInfo):
                if info.name in shapes:
                    given.append(f"{info.name} {describe(info.type, shapes[info.name])}")
            else:
                structure = structures.get(info.name, info.name if info.name in shapes else None)
                given.append(f"{info.name} {info.type} {describe_fed(structure, shapes)}")
        return InvalidFeedsError(f"{error}; the inputs are {', '.join(given) or 'none'}")
