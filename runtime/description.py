"""What a model says of itself beside its graph; the headers of artifacts carry it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from onnxplan.compiler.checked_json import integer, mapping, text
from onnxplan.compiler.ir import Model
from onnxplan.compiler.records import dataclass

_TEXTS = ("producer_name", "graph_name", "domain", "description", "graph_description")


@dataclass(frozen=True, slots=True)
class Description:
    """Texts of a model, named as in onnxruntime's ``ModelMetadata``; ``version`` is None if it has none."""

    producer_name: str = ""
    graph_name: str = ""
    domain: str = ""
    description: str = ""
    graph_description: str = ""
    version: int | None = None

    @staticmethod
    def of(model: Model) -> Description:
        return Description(
            model.producer,
            model.graph.name,
            model.domain,
            model.description,
            model.graph_description,
            model.version,
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(value: Any, where: str) -> Description:
        """Raises :class:`~onnxplan.compiler.checked_json.MalformedError`."""
        fields = mapping(value, where, (*_TEXTS, "version"))
        version = fields["version"]
        texts = {name: text(fields[name], f"{where}.{name}") for name in _TEXTS}
        number = None if version is None else integer(version, f"{where}.version")
        return Description(**texts, version=number)
