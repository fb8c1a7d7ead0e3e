"""All specimens, by operator."""

from __future__ import annotations

from typing import Any

from catalogue import elementwise, learning, movement, reductions, spatial
from catalogue.specimen import Specimen

SPECIMENS: dict[str, list[Specimen]] = {}
for _module in (elementwise, learning, movement, reductions, spatial):
    assert not SPECIMENS.keys() & _module.SPECIMENS.keys(), SPECIMENS.keys() & _module.SPECIMENS.keys()
    SPECIMENS |= _module.SPECIMENS


def specimen_for(schema: Any) -> Specimen | None:
    """The specimen of a schema, or ``None`` where there is none."""
    found = [item for item in SPECIMENS.get(schema.name, ()) if item.since <= schema.since_version]
    return max(found, key=lambda item: item.since, default=None)
