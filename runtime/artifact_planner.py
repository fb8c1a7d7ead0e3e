"""Plans out of an artifact; those for other shapes are made of the model it carries."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from onnxplan.compiler.errors import InvalidArtifactError
from onnxplan.compiler.plan import CompiledPlan, ExecutionPlan, Kernels, KernelSpec
from onnxplan.compiler.structures import tensors
from onnxplan.runtime.artifact import Artifact, PlanEntry, TargetEntry
from onnxplan.runtime.device import Array
from onnxplan.runtime.executable import map_image
from onnxplan.runtime.image import Image
from onnxplan.runtime.planner import PlannedStage, Planner, Request, StageFacts

if TYPE_CHECKING:
    from onnxplan.compiler.provenance import NodeOrigin

Load = Callable[[bytes, str], int]


class ArtifactKernels:
    """The kernels of an artifact for one target, loaded when they are first asked for.

    ``load(code, symbol)`` brings an object to where it runs. ``imports`` are the addresses of symbols that
    are the interpreter's.
    """

    def __init__(
        self, artifact: Artifact, entry: TargetEntry, load: Load, imports: Callable[[], Mapping[str, int]]
    ) -> None:
        self._artifact = artifact
        self._entry = entry
        self._load = load
        self._imports = imports
        self._lock = threading.Lock()
        self._base: int | None = None
        self._addresses: dict[str, int] = {}

    def addresses(
        self, specs: Sequence[KernelSpec], progress: Callable[[int, int], None] | None = None
    ) -> tuple[int, ...]:
        """Nothing is compiled, so ``progress`` is never called. :class:`InvalidArtifactError` where one
        lacks."""
        return tuple(self._address(spec.key) for spec in specs)

    def executor(self, digest: str) -> Mapping[str, int] | None:
        """The addresses of the native executor's functions, if it was built from sources of this digest."""
        entry = self._entry
        if entry.form != "image" or not entry.executor or entry.executor_digest != digest:
            return None
        return {name: self._image() + offset for name, offset in entry.executor.items()}

    def _address(self, key: str) -> int:
        address = self._addresses.get(key)
        if address is None:
            place = self._entry.kernels.get(key)
            if place is None:
                raise InvalidArtifactError(f"artifact {self._artifact.path!r} lacks the kernel {key}")
            offset, size, symbol = place
            if self._entry.form == "image":
                address = self._image() + offset
            else:
                code = self._artifact.checked(self._entry.code)[offset : offset + size]
                address = self._load(bytes(code), symbol)
            self._addresses[key] = address
        return address

    def _image(self) -> int:
        with self._lock:
            if self._base is None:
                entry = self._entry
                code = bytes(self._artifact.checked(entry.code))
                image = Image(code, {}, entry.imports, entry.rebases)
                self._base = map_image(image, self._imports())
            return self._base


class ArtifactPlanner:
    """The plans of ``artifact`` for its target number ``target``, run by ``threads`` workers.

    ``fallback`` makes the planner for everything else; it raises
    :class:`~onnxplan.IncompatibleArtifactError` where the artifact has no model.
    """

    def __init__(
        self,
        artifact: Artifact,
        target: int,
        kernels: Kernels,
        threads: int,
        fallback: Callable[[], Planner],
    ) -> None:
        self.artifact = artifact
        self._kernels = kernels
        self._threads = threads
        self._entries = {
            Request(entry.names, entry.shapes, structures=entry.given): entry
            for entry in artifact.header.plans
            if entry.target == target
        }
        self._make_fallback = fallback
        self._fallback: Planner | None = None

    def plan(self, request: Request, answers: tuple[Array, ...]) -> PlannedStage:
        entry = None if answers else self._entries.get(request)
        if entry is not None:
            return self._read(entry)
        return self._others().plan(request, answers)

    def stages(self) -> dict[Request, PlannedStage]:
        """All plans that are there, in the order in which they were made."""
        return {request: self._read(entry) for request, entry in self._entries.items()}

    def settle(self, *, wait: bool = False) -> None:
        if self._fallback is not None:
            self._fallback.settle(wait=wait)

    def _read(self, entry: PlanEntry) -> PlannedStage:
        artifact = self.artifact
        try:
            plan = ExecutionPlan.from_json(bytes(artifact.checked(entry.plan)).decode())
        except ValueError as error:
            raise InvalidArtifactError(f"artifact {artifact.path!r}: {error}") from None
        if len(plan.constants) != len(entry.constants):
            raise InvalidArtifactError(
                f"artifact {artifact.path!r}: a plan's constants are not those it needs"
            )
        known = {binding.name for binding in plan.outputs} | entry.texts.keys()
        for name, structure in entry.made.items():
            if not known.issuperset(tensors(structure)):
                raise InvalidArtifactError(
                    f"artifact {artifact.path!r}: output {name!r} has tensors that a plan does not make"
                )
        constants = tuple(artifact.constant(number) for number in entry.constants)
        texts = {
            name: np.array(elements, object).reshape(shape) for name, (shape, elements) in entry.texts.items()
        }
        compiled = CompiledPlan(plan.with_threads(self._threads), constants, self._kernels)
        return PlannedStage(compiled, StageFacts(True, texts, entry.run_key, entry.made))

    def operators(self) -> Mapping[str, str]:
        header = self.artifact.header
        if header.model is None and header.origin is None:
            return {}
        return self._others().operators()

    def origins(self, request: Request, answers: tuple[Array, ...]) -> tuple[NodeOrigin, ...] | None:
        # Entries of the kernel store are of this very compiler and of the model at hand.
        return None if self.artifact.header.origin is None else self._others().origins(request, answers)

    def _others(self) -> Planner:
        if self._fallback is None:
            self._fallback = self._make_fallback()
        return self._fallback

    def close(self) -> None:
        if self._fallback is not None:
            self._fallback.close()
