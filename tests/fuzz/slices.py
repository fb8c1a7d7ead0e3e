"""Random models in slices: so many from one seed, the smallest failure saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.checking import check, save
from tests.fuzz.graphs import Program, programs

FOLDER = Path(__file__).parent.parent.parent / "build" / "fuzz"
"""Where models that fail are saved."""


@dataclass(frozen=True)
class Profile:
    """What models to draw: the types of their floats, the most nodes drawn, the usual largest extent."""

    dtypes: tuple[str, ...] = ("float32",)
    nodes: int = 9
    extent: int = 5


def check_slice(number: int, count: int, profile: Profile, *, shrink: bool = True) -> None:
    """Checks ``count`` models of the seed ``number``; raises with the (smallest) failure, which is saved."""
    failed: list[Program] = []

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
    )
    @given(programs(profile.dtypes, profile.nodes, profile.extent))
    def examine(program: Program) -> None:
        failed.append(program)
        check(program)
        failed.pop()

    try:
        examine()
    except Exception as error:
        if failed:
            FOLDER.mkdir(parents=True, exist_ok=True)
            save(failed[-1], str(FOLDER / f"model-{number}"))
            error.add_note(f"seed {number}: the model is saved as {FOLDER / f'model-{number}.onnx'}")
        raise
