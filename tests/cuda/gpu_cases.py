"""Operator cases on a device: those of ``tests/ops``, with all passes and without any."""

from __future__ import annotations

import functools
import hashlib
import itertools
import sys
from pathlib import Path
from typing import Any

import onnxplan
from bench.supervised import Settings

sys.path.insert(0, str(Path(__file__).parent.parent / "ops"))

PLAIN = " [plain]"


@functools.cache
def cases() -> dict[str, Any]:
    from cases import discover

    return {case.id: case for case in discover()}


def names(settings: Settings) -> list[str]:
    """One case of each operator first, so that little time tells much; then those without passes."""
    groups: dict[str, list[str]] = {}
    for case in cases().values():
        groups.setdefault(case.nodes[-1].op_type, []).append(case.id)
    rounds = itertools.zip_longest(*groups.values())
    ordered = [name for group in rounds for name in group if name is not None]
    return ordered + [name + PLAIN for name in ordered]


def check(name: str, settings: Settings) -> dict[str, Any]:
    """Runs a case; the details are the kernels it used."""
    plain = name.endswith(PLAIN)
    case = cases()[name.removesuffix(PLAIN)]
    feeds = case.feeds()
    with onnxplan.InferenceSession(case.model(), device=settings.device, optimize=int(not plain)) as session:
        # The first run launches kernels one by one, the second one captures and launches a graph.
        for _ in range(2):
            results = session.run_sync(feeds)
            case.check(results)
        # Of what else is fed no plan is known by shapes alone.
        fixed = all(not isinstance(fed, list) and fed.dtype != object for fed in feeds.values())
        plans = session.plans() if fixed else ()
    kernels = {spec for plan in plans for spec in plan.kernels}
    return {"kernels": sorted(f"{spec.family} {digest(spec.key)}" for spec in kernels)}


def digest(key: str) -> str:
    """A short name for a kernel."""
    return hashlib.sha256(key.encode()).hexdigest()[:12]
